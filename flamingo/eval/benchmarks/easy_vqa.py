"""easy-VQA, as its package has it: questions about one coloured shape."""

from collections.abc import Iterator
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.item import Item


def read_easy_vqa(
    root: pathlib.Path, *, questions: str, images: str, answers: str
) -> Iterator[Item]:
  """Reads `questions.json`, a list of [question, answer, number of a picture].

  Args:
    root: data root.
    questions: path of the list.
    images: pattern of the pictures' paths, of their numbers.
    answers: path of the file with all answers, one a line: the candidates.

  Raises:
    ValueError: an entry is no such list, or its answer is none of the file's.
  """
  candidates = tuple((root / answers).read_text(encoding='utf-8').split())
  path = root / questions
  rows = files.read_json(path)
  if not isinstance(rows, list):
    raise ValueError(
        f'{path}: expected a list; came {str(rows)[:60]!r}. Fetch the official '
        'file.')
  for number, row in enumerate(rows):
    kinds = [type(x) for x in row] if isinstance(row, list) else []
    if kinds != [str, str, int]:
      raise ValueError(
          f'{path}[{number}]: expected [question, answer, number of a '
          f'picture]; came {str(row)[:60]!r}. Fetch the official file.')
    question, answer, image = row
    if answer not in candidates:
      raise ValueError(
          f'{path}[{number}]: expected one of the {len(candidates)} answers of '
          f'{answers}; came {answer!r}. Take files of one version.')
    yield Item(
        id=str(number), image=(images.format(image),),
        fields={'question': question}, answer=answer, references=(answer,),
        candidates=candidates)
