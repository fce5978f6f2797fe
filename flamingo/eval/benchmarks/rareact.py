"""RareAct: unusual actions, such as cutting a keyboard; zero-shot only."""

from collections.abc import Iterator
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.item import Item
from flamingo.eval.benchmarks.media import Clips

# Of RareAct's nouns, those that take no article besides plurals.
MASS_NOUNS = ('bacon', 'chocolate', 'corn', 'hair')


def sentence(verb: str, noun: str) -> str:
  """'a person cuts a keyboard': the paper's wording of an action.

  Source: Flamingo (arXiv:2204.14198), evaluation prompts: the verb in the
  third person, the object behind an article.
  """
  if verb.endswith(('s', 'sh', 'ch', 'x', 'z', 'o')):
    verb = f'{verb}es'
  elif verb.endswith('y') and verb[-2:-1] not in 'aeiou':
    verb = f'{verb[:-1]}ies'
  else:
    verb = f'{verb}s'
  if noun.endswith('s') or noun in MASS_NOUNS:
    return f'a person {verb} {noun}'
  return f'a person {verb} {"an" if noun[0] in "aeiou" else "a"} {noun}'


def read_rareact(
    root: pathlib.Path, *, annotations: str, frames: str
) -> Iterator[Item]:
  """Reads `rareact.csv`: clips with the action each was judged for.

  Columns from its readme: id, video_id, start, end, class_id, verb, noun,
  annotation (1: the action; 2, 3, 4: hard negatives; 0: negative). Every clip
  is scored for every action: candidates are all, in the order of class_id, and
  references are (class_id, annotation). Clips of one video share their weight
  in the metric, so the video is the item's group; it also asks for verb and
  noun, which are the fields.

  Args:
    root: data root.
    annotations: path of the table.
    frames: pattern of the folders with a video's frames, of its id.

  Raises:
    ValueError: the numbers of the classes are not 0, 1, 2, ...
  """
  columns = (
      'id', 'video_id', 'start', 'end', 'class_id', 'verb', 'noun',
      'annotation')
  rows = list(files.read_csv(root / annotations, columns))
  actions = {
      int(row.number('class_id')): sentence(row['verb'], row['noun'])
      for row in rows}
  if sorted(actions) != list(range(len(actions))):
    raise ValueError(
        f'{annotations}: expected classes numbered from 0 without a gap; came '
        f'{len(actions)} up to {max(actions)}. Fetch the file again.')
  candidates = tuple(actions[i] for i in range(len(actions)))
  clips = Clips(root)
  for row in rows:
    number = int(row.number('class_id'))
    yield Item(
        id=row['id'],
        image=clips.frames(
            frames.format(row['video_id']), row.number('start'),
            row.number('end')),
        fields={'verb': row['verb'], 'noun': row['noun']},
        answer=candidates[number],
        references=(number, int(row.number('annotation'))),
        candidates=candidates,
        group=row['video_id'])
