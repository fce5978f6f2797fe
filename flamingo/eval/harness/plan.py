"""From a task and what is varied to the cells of its table."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from flamingo.eval.harness import controls as controls_lib
from flamingo.eval.harness.cell import Cell
from flamingo.eval.harness.demonstrate import CHOICES
from flamingo.eval.harness.task import Task

BASELINES = ('majority', 'nearest_centroid', 'text_only')
LIKELIHOODS = ('sum', 'mean')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """What is varied in one run.

  Attributes:
    shots: numbers of demonstrations; None for those that the paper reports.
    texts_at_zero: demonstrations without images at 0 shots; None for what the
      paper has, which is two where answers are open.
    seeds: of chance.
    choices: ways to choose demonstrations, keys of `CHOICES`.
    balanced: whether RICES takes the answers in turn.
    controls: keys of `controls.CONTROLS`, beside the prompts as they are.
    controlled: choices that have controls; None for all.
    baselines: of `BASELINES`.
  """

  shots: Sequence[int] | None = None
  texts_at_zero: int | None = None
  seeds: Sequence[int] = (0,)
  choices: Sequence[str] = ('random',)
  balanced: bool = False
  controls: Sequence[str] = ()
  controlled: Sequence[str] | None = None
  baselines: Sequence[str] = BASELINES

  def __post_init__(self):
    for name, known in (
        ('choices', CHOICES), ('controls', controls_lib.CONTROLS),
        ('controlled', CHOICES), ('baselines', BASELINES)):
      for value in getattr(self, name) or ():
        if value not in known:
          raise ValueError(
              f'Nothing of {name} is called {value!r}; there are '
              f'{list(known)}.')
    for name in ('seeds', 'choices'):
      if not getattr(self, name):
        raise ValueError(f'Expected at least one of {name}; came none.')
    for shots in self.shots or ():
      if not isinstance(shots, int) or shots < 0:
        raise ValueError(
            f'Expected numbers of demonstrations from 0; came {shots!r}.')
    of_shown = [c for c in self.controls if c not in controls_lib.OF_QUERY]
    if of_shown and self.shots and not any(self.shots):
      raise ValueError(
          f'The controls {of_shown} change demonstrations that have images, '
          f'and came shots={list(self.shots)}, which has none. Add a number of '
          'shots, or leave these controls out.')

  def controls_of(self, choice: str) -> Sequence[str]:
    """Controls of prompts whose demonstrations are chosen this way."""
    if self.controlled is not None and choice not in self.controlled:
      return ()
    return self.controls


def plan(
    task: Task,
    sweep: Sweep,
    *,
    template: str,
    open_answers: Mapping[str, Any],
    ranking: Mapping[str, Any],
    similarity: str,
    max_length: int,
    frames: int,
) -> list[Cell]:
  """The cells of a task; what chance has no part in is asked once.

  Without a support there are no demonstrations, so 0 shots alone; where no
  query has a text, none is chosen by its text.

  Args:
    task: what is asked.
    sweep: what is varied.
    template: see `Cell`.
    open_answers: `beams` and `length_penalty` of generated answers, or
      `temperature`, `top_k` and `top_p` of drawn ones.
    ranking: `likelihood`, `permutations` and `calibrated` of ranked ones.
    similarity: see `Cell`.
    max_length: see `Cell`.
    frames: see `Cell`.

  Raises:
    ValueError: nothing is left to be asked.
  """
  row = task.row
  if row.open_ended:
    how = {'max_tokens': row.max_tokens, **open_answers}
  else:
    how = dict(ranking)
  common = dict(
      task=row.name, split=task.split, missing=task.missing,
      template=template, metric=row.metric, open_ended=row.open_ended,
      rounds=row.rounds, max_length=max_length, frames=frames)
  texts = 0
  if task.shows:
    texts = row.texts_at_zero if (
        sweep.texts_at_zero is None) else sweep.texts_at_zero
  asked = row.shots if sweep.shots is None else sweep.shots
  choices = _possible(task, sweep)
  cells = []
  for shots in asked:
    if shots and not task.shows:
      continue
    for choice in choices:
      for seed in sweep.seeds:
        for control in (None, *sweep.controls_of(choice)):
          shown = 0 if shots else texts
          cells.append(Cell(
              **common, **how, shots=shots, texts=shown,
              data=task.digest if shots or shown else task.queries_digest,
              choice=choice, balanced=sweep.balanced and choice != 'random',
              similarity=similarity if (
                  'image' in CHOICES[choice] and shots + shown) else None,
              seed=seed, control=control))
  if not cells:
    raise ValueError(
        f'{row.name} has nothing to demonstrate with, so it is asked at 0 '
        f'shots alone; came {list(asked)}. Add 0 to config.shots.')
  cells = [cell for cell in cells if _says_something(cell, sweep, choices)]
  return cells + _baselines(task, sweep, cells, common, similarity)


def _possible(task: Task, sweep: Sweep) -> Sequence[str]:
  """The choices that this task has what it takes for."""
  if any(item.fields or item.turns for item in task.queries):
    return sweep.choices
  choices = [name for name in sweep.choices if 'text' not in CHOICES[name]]
  if not choices:
    raise ValueError(
        f'{task.row.name} has no texts to compare, and came '
        f"{list(sweep.choices)}. Add 'rices_image' or 'random' to "
        'config.choices.')
  return choices


def _says_something(
    cell: Cell, sweep: Sweep, choices: Sequence[str]
) -> bool:
  """False where a cell would repeat another one."""
  shown = cell.shots + cell.texts
  if cell.control is not None and not cell.shots:
    if cell.control not in controls_lib.OF_QUERY:
      return False
  if not shown and cell.choice != choices[0]:
    return False
  by_chance = shown and (
      cell.choice == 'random' or cell.control in controls_lib.BY_CHANCE
      or (cell.permutations or 1) > 1)
  drawn = cell.temperature is not None
  return bool(by_chance) or drawn or cell.seed == sweep.seeds[0]


def _baselines(task, sweep, cells, common, similarity) -> list[Cell]:
  found = []
  plain = [cell for cell in cells if cell.control is None]
  if 'majority' in sweep.baselines and (task.shows or task.classes):
    found.append(Cell(
        **common, data=task.digest, shots=0, seed=sweep.seeds[0],
        baseline='majority'))
  if 'nearest_centroid' in sweep.baselines and task.classified:
    found += [
        Cell(**common, data=cell.data, shots=cell.shots, seed=cell.seed,
             choice=cell.choice, balanced=cell.balanced,
             similarity=similarity, baseline='nearest_centroid')
        for cell in plain if cell.shots]
  if 'text_only' in sweep.baselines:
    found += [
        dataclasses.replace(cell, baseline='text_only') for cell in plain]
  return found
