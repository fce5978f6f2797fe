"""POPE: does a model see objects that are not there?"""

from collections.abc import Iterator
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.item import Item

ANSWERS = ('no', 'yes')


def read_pope(
    root: pathlib.Path, *, annotations: str, images: str
) -> Iterator[Item]:
  """Reads `coco_pope_*.json`, which has an object on each line.

  Field names as in the files: question_id, image, text (the question), label.
  """
  for entry in files.read_lines(root / annotations):
    if entry['label'] not in ANSWERS:
      raise ValueError(
          f'{entry.where}: expected the label yes or no; came '
          f'{entry["label"]!r}. Fetch the file again.')
    yield Item(
        id=str(entry['question_id']),
        image=(images.format(entry['image']),),
        fields={'question': entry['text'].strip()},
        answer=entry['label'],
        references=(entry['label'],),
        candidates=ANSWERS)
