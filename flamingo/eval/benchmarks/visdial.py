"""VisDial 1.0: which of a hundred answers continues a dialogue?"""

from collections.abc import Iterator
import pathlib
import zlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.files import Entry
from flamingo.eval.benchmarks.item import Item


def read_visdial(
    root: pathlib.Path, *, dialogs: str, images: str,
    other_images: str | None = None, dense: str | None = None,
) -> Iterator[Item]:
  """Reads `visdial_1.0_*.json`.

  Field names from the reader of the challenge's starter code: data with
  questions[], answers[], dialogs[] with image_id, caption, dialog[] with
  question, answer and answer_options, all numbers; in the dense annotations
  image_id, round_id (from 1), gt_relevance.

  Each dialogue is one item. It is cut at the round that was annotated; without
  annotations at one that the image's number decides, so that demonstrations
  are as long as what is asked.

  Args:
    root: data root.
    dialogs: path of the dialogues.
    images: pattern of the images' paths, of the number of the image.
    other_images: where else an image may be: training images are in two
      folders of COCO.
    dense: path of the dense annotations: the relevance of each answer.

  Raises:
    ValueError: a dialogue without its annotation, a number out of range.
  """
  annotated = None
  if dense is not None:
    annotated = {
        entry['image_id']: entry for entry in files.read_list(root / dense)}
  data = Entry(files.read_object(root / dialogs)['data'], f'{dialogs}, data')
  questions, answers = data['questions'], data['answers']
  for dialog in data.entries('dialogs'):
    number = dialog['image_id']
    rounds = list(dialog.entries('dialog'))
    relevance = ()
    if annotated is None:
      last = zlib.crc32(str(number).encode()) % max(1, len(rounds))
    else:
      entry = annotated.get(number)
      if entry is None:
        raise ValueError(
            f'{dialog.where}: expected an annotation of image {number} in '
            f'{dense}; there is none. Take the file of the same split.')
      last = entry['round_id'] - 1
      relevance = tuple(float(r) for r in entry['gt_relevance'])
    turns = [
        # Questions are stored without their question marks.
        (f'{_text(questions, turn, turn["question"]).rstrip("?")}?',
         _text(answers, turn, turn['answer']))
        for turn in rounds[: last + 1]]
    if len(turns) <= last:
      raise ValueError(
          f'{dialog.where}: expected a round {last + 1}; there are '
          f'{len(rounds)}. Take files of one version.')
    candidates = tuple(
        _text(answers, rounds[last], a)
        for a in rounds[last]['answer_options'])
    if relevance and len(relevance) != len(candidates):
      raise ValueError(
          f'{dialog.where}: expected a relevance of each of {len(candidates)} '
          f'answers; came {len(relevance)}. Take files of one version.')
    path = images.format(number)
    if other_images is not None and not (root / path).is_file():
      other = other_images.format(number)
      path = other if (root / other).is_file() else path
    question, answer = turns[-1]
    yield Item(
        id=str(number),
        image=(path,),
        fields={'caption': dialog['caption'].strip(), 'question': question},
        answer=answer,
        references=relevance or (answer,),
        candidates=candidates,
        turns=tuple(turns[:-1]))


def _text(texts, turn, number):
  """A question or an answer by its number."""
  if not 0 <= number < len(texts):
    raise ValueError(
        f'{turn.where}: expected a number below {len(texts)}; came {number}. '
        'Fetch the file again.')
  return texts[number].strip()
