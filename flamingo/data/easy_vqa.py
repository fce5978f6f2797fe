"""easy-VQA: questions with one-word answers about one coloured shape.

4,000 training and 1,000 test pictures of 64 pixels with 38,575 and 9,673
questions, small enough to come inside a package (MIT licence).
Source: Victor Zhou, https://github.com/vzhou842/easy-VQA.
"""

from collections.abc import Sequence
import dataclasses
import functools
import importlib.util
import json
import pathlib
import re

# In the order of the package's own `answers.txt`.
ANSWERS = (
    'circle', 'green', 'red', 'gray', 'yes', 'teal', 'black',
    'rectangle', 'yellow', 'triangle', 'brown', 'blue', 'no',
)  # fmt: skip
SHAPES = ('circle', 'rectangle', 'triangle')
COLOURS = tuple(a for a in ANSWERS if a not in SHAPES + ('yes', 'no'))


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a picture.

  Attributes:
    image: PNG bytes, 64 x 64 RGB; one object for all questions about it.
    image_id: the picture's number, within its split.
    question: as in 'what is the red shape?'.
    answer: one of `ANSWERS`.
  """

  image: bytes = dataclasses.field(repr=False)
  image_id: int
  question: str
  answer: str


def package_folder() -> pathlib.Path:
  """The folder of the package's files: answers.txt, and one of each split.

  Raises:
    ImportError: the package is not installed.
  """
  # Found, not imported: the package's own functions give paths and lists.
  package = importlib.util.find_spec('easy_vqa')
  if package is None:
    raise ImportError(
        'easy-VQA comes inside the package `easy_vqa`, which is not '
        'installed. Run: pip install --no-deps easy-vqa==1.0'
    )
  return pathlib.Path(package.origin).parent / 'data'


def load_easy_vqa(split: str) -> list[Question]:
  """Reads 'train' or 'test', in the order of its file.

  Raises:
    ImportError: the package is not installed.
    ValueError: there is no such split.
  """
  if split not in ('train', 'test'):
    raise ValueError(
        f"easy-VQA has the splits 'train' and 'test'; {split!r} came. Hold "
        "some pictures of 'train' out, by `image_id`, to validate."
    )
  folder = package_folder() / split
  rows = json.loads((folder / 'questions.json').read_text(encoding='utf-8'))

  @functools.cache
  def image(image_id: int) -> bytes:
    return (folder / 'images' / f'{image_id}.png').read_bytes()

  return [
      Question(image(image_id), image_id, question, answer)
      for question, answer, image_id in rows
  ]


def describe(questions: Sequence[Question]) -> dict[int, str]:
  """What is on each picture, as in 'blue circle', by what is said about it.

  Answers say it, and questions that take it for known: 'what is the red shape?'
  has a red one.

  Args:
    questions: of any number of pictures.

  Returns:
    By `image_id`; pictures of which colour or shape is not said are left out.
  """
  colours, shapes = {}, {}
  for asked in questions:
    if asked.answer in ('yes', 'no'):
      continue
    for word in [asked.answer, *re.findall(r'\w+', asked.question)]:
      for words, told in ((COLOURS, colours), (SHAPES, shapes)):
        if word in words:
          told[asked.image_id] = word
  return {
      i: f'{colour} {shapes[i]}'
      for i, colour in colours.items() if i in shapes}
