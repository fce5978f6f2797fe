"""Questions about images, each answered by ten people."""

from collections.abc import Iterator, Sequence
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.item import Item


def most_frequent(answers: Sequence[str]) -> str:
  """The answer given most often; of several the one given first.

  An empty one only if there is no other.
  """
  given = [a for a in answers if a.strip()] or [*answers, '']
  return max(given, key=given.count)  # the first of the largest


def read_vqa(
    root: pathlib.Path, *, questions: str, images: str,
    annotations: str | None = None,
) -> Iterator[Item]:
  """Reads the format of VQAv2, which OK-VQA has too.

  Field names from visualqa.org: questions[] with question_id, image_id,
  question; annotations[] with question_id, answer_type, answers[].answer.

  Args:
    root: data root.
    questions: path of the questions.
    images: pattern of the images' paths, of the number of the image.
    annotations: path of the answers; None where a server holds them.

  Raises:
    ValueError: a question without an annotation.
  """
  answered = {}
  if annotations is not None:
    entries = files.read_object(root / annotations).entries('annotations')
    answered = {entry['question_id']: entry for entry in entries}
  for question in files.read_object(root / questions).entries('questions'):
    key = question['question_id']
    annotation = answered.get(key)
    if annotation is None and annotations is not None:
      raise ValueError(
          f'{question.where}: expected an annotation of question {key} in '
          f'{annotations}; there is none. Take both files of one split and '
          'one version.')
    answers = annotation and tuple(
        a['answer'] for a in annotation.entries('answers'))
    yield Item(
        id=str(key),
        image=(images.format(question['image_id']),),
        fields={'question': question['question'].strip()},
        answer=most_frequent(answers or ()).strip(),
        references=answers or (),
        group=annotation.get('answer_type', '') if annotation else '')


def read_textvqa(
    root: pathlib.Path, *, annotations: str, images: str
) -> Iterator[Item]:
  """Reads `TextVQA_0.5.1_*.json`: data[] with question_id, image_id, ...

  OCR tokens are not among the fields: Flamingo does not use them. The test
  split has no answers. Field names from the readers of TextVQA in public
  repositories; the file itself was not at hand.
  """
  for entry in files.read_object(root / annotations).entries('data'):
    answers = tuple(entry.get('answers', ()))
    yield Item(
        id=str(entry['question_id']),
        image=(images.format(entry['image_id']),),
        fields={'question': entry['question'].strip()},
        answer=most_frequent(answers).strip(),
        references=answers)


def read_vizwiz(
    root: pathlib.Path, *, annotations: str, images: str
) -> Iterator[Item]:
  """Reads VizWiz' `Annotations/*.json`: a list with image, question, answers.

  The image's name is the id, as on the server. `test.json` has no answers.
  Field names from the VizWiz API and readers in public repositories.
  """
  for entry in files.read_list(root / annotations):
    answers = tuple(
        a['answer'] for a in entry.entries('answers')
    ) if 'answers' in entry else ()
    yield Item(
        id=entry['image'],
        image=(images.format(entry['image']),),
        fields={'question': entry['question'].strip()},
        answer=most_frequent(answers).strip(),
        references=answers,
        group=entry.get('answer_type', ''))
