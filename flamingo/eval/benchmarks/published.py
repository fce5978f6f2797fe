"""What papers report on the benchmarks of the table, to set beside our own."""

from collections.abc import Iterable, Iterator
import dataclasses

from flamingo.eval.benchmarks import published_tables as tables

_FEW_SHOT = (0, 4, 8, 16, 32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
  """A number of a paper.

  Attributes:
    model: as its paper calls it.
    task: name of a benchmark.
    shots: demonstrations; None if the model was trained on the task.
    choice: of the demonstrations, as the harness calls it.
    note: what else sets it apart; mostly empty.
    value: a fraction as the harness gives it, not times 100 as printed.
    source: the paper.
  """

  model: str
  task: str
  shots: int | None
  choice: str
  note: str
  value: float
  source: str

  @property
  def label(self) -> str:
    """The model and what sets the figure apart."""
    return f'{self.model} ({self.note})' if self.note else self.model


def _parse(text: str, source: str) -> Iterator[Figure]:
  head, tasks = [], []
  for line in text.strip().splitlines():
    if not line.startswith(' '):
      head, tasks = line.split(', '), []
    elif not tasks:
      tasks = line.split()
    else:
      shots, *values = line.split()
      if len(values) != len(tasks):
        raise ValueError(
            f'{head}: expected {len(tasks)} figures; came {line!r}.')
      model, choice, note = head + ['random', ''][len(head) - 1 :]
      for task, value in zip(tasks, values):
        if value != '-':
          yield Figure(
              model=model, task=task, choice=choice, note=note, source=source,
              shots=None if shots == 'full' else int(shots),
              value=float(value) / 100)


FIGURES: tuple[Figure, ...] = (
    *_parse(tables.FLAMINGO, 'arXiv:2204.14198'),
    *_parse(tables.CLASSES, 'arXiv:2204.14198'),
    *_parse(tables.OPENFLAMINGO, 'arXiv:2308.01390'),
    *_parse(tables.IDEFICS, 'arXiv:2306.16527'),
    *_parse(tables.FINE_TUNED, 'arXiv:2204.14198'),
)


def published(
    task: str, *, shots: int | None, choice: str = 'random'
) -> list[Figure]:
  """Figures of a benchmark for as many demonstrations, chosen alike.

  Args:
    task: name of a benchmark; of one that no paper reports there are none.
    shots: demonstrations; None for models that were trained on the task.
    choice: 'random' or 'rices_image'.
  """
  return [
      figure for figure in FIGURES
      if (figure.task, figure.shots, figure.choice) == (task, shots, choice)]


def markdown(models: Iterable[str], *, choice: str = 'random') -> str:
  """A table of few-shot figures, as printed: benchmarks down, models across.

  Each cell has what was reported at 0, 4, 8, 16 and 32 shots.

  Args:
    models: as `Figure.model`.
    choice: 'random' or 'rices_image'.
  """
  models = list(models)
  mine = {
      (f.task, f.model, f.shots): f for f in FIGURES
      if f.choice == choice and not f.note and f.shots is not None}
  tasks = dict.fromkeys(
      task for task, model, _ in mine if model in models)
  lines = [
      f'| benchmark | {" | ".join(models)} |', '|---' * (len(models) + 1) + '|']
  for task in tasks:
    cells = []
    for model in models:
      values = [mine.get((task, model, shots)) for shots in _FEW_SHOT]
      cells.append(' / '.join(
          _printed(f.value) if f else '–' for f in values) if any(
              values) else '')
    lines.append(f'| {task} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def _printed(value: float) -> str:
  # One cell has two decimals.
  return str(round(100 * value, 2))
