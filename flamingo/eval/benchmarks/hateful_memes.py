"""Hateful Memes: is a picture with a text on it hateful?"""

from collections.abc import Iterator
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.item import Item

ANSWERS = ('no', 'yes')  # by label


def read_hateful_memes(
    root: pathlib.Path, *, annotations: str, images: str
) -> Iterator[Item]:
  """Reads `train.jsonl`, `dev_seen.jsonl`, `test_seen.jsonl`.

  Field names from the readme of the challenge: id, img ('img/42953.png'),
  label (0 or 1), text.

  Raises:
    ValueError: no label: the first release of the test split had none.
  """
  for entry in files.read_lines(root / annotations):
    label = entry['label']
    if label not in (0, 1):
      raise ValueError(
          f'{entry.where}: expected a label of 0 or 1; came {label!r}. Fetch '
          'the files of the final phase.')
    yield Item(
        id=str(entry['id']),
        image=(images.format(pathlib.PurePosixPath(entry['img']).name),),
        fields={'text': entry['text']},
        answer=ANSWERS[label],
        references=(int(label),),
        candidates=ANSWERS)
