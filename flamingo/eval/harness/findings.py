"""What the numbers of an evaluation say of learning from context, in words.

A model learns from its context where demonstrations help (it does better with
the most of them than without) and their answers are why (it does worse if these
are shuffled or random). Both are differences on the same examples and seeds,
and count where their 95 % interval leaves 0 out. Nothing is said that was not
asked.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from flamingo.eval.harness.controls import OF_QUERY
from flamingo.eval.harness.figures import CHOICES
from flamingo.eval.harness.score import Scored
from flamingo.eval.scores import bootstrap
from flamingo.eval.scores.bootstrap import Interval

_LABELS = ('shuffled_labels', 'random_labels')
_WORDS = {
    'blank_images': 'blank images', 'shuffled_images': 'shuffled images',
    'no_images': 'no images', 'shuffled_labels': 'shuffled labels',
    'random_labels': 'random labels', 'blank_query': 'a blank query'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
  """What a task's cells say, its most shots against everything else.

  Attributes:
    task: its name.
    shots: the most that were asked at random.
    first: mean score at the fewest shots.
    fewest: these shots.
    last: mean score at the most.
    gain: last less first.
    controls: by name, how much less the score is under it; positive is worse.
    choices: by name, how much better than chance other choices are.
  """

  task: str
  shots: int
  first: float
  fewest: int
  last: float
  gain: Interval
  controls: Mapping[str, Interval]
  choices: Mapping[str, Interval]

  @property
  def learns(self) -> bool | None:
    """Whether it learns from its context; None if that was not asked."""
    asked = [self.controls[c] for c in _LABELS if c in self.controls]
    if not asked or self.fewest == self.shots:
      return None
    return _up(self.gain) and any(_up(each) for each in asked)


def find(scored: Sequence[Scored]) -> list[Finding]:
  """One finding a task, of those whose examples have scores of their own."""
  tasks: dict[tuple[str, str], dict] = {}
  for each in scored:
    cell = each.cell
    values = _examples(each)
    if values is None or cell.baseline or cell.texts or cell.balanced:
      continue
    cells = tasks.setdefault((cell.task, cell.split), {})
    cells.setdefault(
        (cell.choice, cell.shots, cell.control), {})[cell.seed] = values
  found = [_of_task(task, cells) for (task, _), cells in tasks.items()]
  return [each for each in found if each is not None]


def _examples(each: Scored) -> np.ndarray | None:
  score = next(iter(each.scores.values()), None)
  if score is None or len(score.examples) < 2 or (
      not np.isclose(score.examples.mean(), score.value)):
    return None  # of no single example
  return score.examples


def _of_task(task, cells) -> Finding | None:
  choices = list(dict.fromkeys(choice for choice, _, _ in cells))
  base = 'random' if 'random' in choices else choices[0]
  curve = {
      shots: seeds for (choice, shots, control), seeds in cells.items()
      if choice == base and control is None}
  if not curve or max(curve) == 0:
    return None
  fewest, most = min(curve), max(curve)
  last = curve[most]
  controls = {
      control: _difference(last, seeds)
      for (choice, shots, control), seeds in cells.items()
      if choice == base and control is not None and shots == most}
  others = {
      choice: _difference(seeds, last)
      for (choice, shots, control), seeds in cells.items()
      if choice != base and control is None and shots == most}
  return Finding(
      task=task, shots=most, fewest=fewest, first=_mean(curve[fewest]),
      last=_mean(last), gain=_difference(last, curve[fewest]),
      controls={k: v for k, v in controls.items() if v is not None},
      choices={k: v for k, v in others.items() if v is not None})


def _mean(seeds: Mapping[int, np.ndarray]) -> float:
  return float(np.mean(list(seeds.values())))


def _difference(one, other) -> Interval | None:
  """Of the same examples; what chance has no part in has one seed for all."""
  seeds = sorted(one.keys() | other.keys())
  rows = []
  for cells in (one, other):
    only = next(iter(cells.values())) if len(cells) == 1 else None
    rows.append([cells.get(seed, only) for seed in seeds])
  if any(row is None for some in rows for row in some) or len(
      {len(row) for some in rows for row in some}) > 1:
    return None  # some are still to be asked
  return bootstrap.mean_interval(np.stack(rows[0]) - np.stack(rows[1]))


def _up(interval: Interval) -> bool:
  return interval.low > 0


def sentences(found: Sequence[Finding]) -> list[str]:
  """Two: where the model learns from its context, and where it does not."""
  asked = [each for each in found if each.learns is not None]
  if not asked:
    return []
  learns = [each for each in asked if each.learns]
  others = [each for each in asked if not each.learns]
  yes = (
      f'The model learns from its context on '
      f'{"; ".join(_with_reason(each) for each in learns)}.'
      if learns else
      'On no task that was asked does the model learn from its context.')
  no = (
      f'It does not on {"; ".join(_without(each) for each in others)}.'
      if others else
      'There is no task that was asked on which it does not.')
  return [yes, no]


def _curve(each: Finding) -> str:
  return (
      f'{each.task} ({_number(each.first)} at {each.fewest}, '
      f'{_number(each.last)} at {each.shots} shots: {_show(each.gain)})')


def _with_reason(each: Finding) -> str:
  worse = [c for c, change in each.controls.items() if _up(change)]
  same = [c for c in each.controls if c not in worse]
  text = f'{_curve(each)}, where {_list(each, worse)} cost it'
  if same:
    text += f' and {_list(each, same)} cost nothing beyond the interval'
  return text + _chosen(each)


def _without(each: Finding) -> str:
  labels = [c for c in _LABELS if c in each.controls]
  if not _up(each.gain):
    why = 'where demonstrations add nothing beyond the interval'
  else:
    why = (
        'where demonstrations help, but their answers do not: '
        f'{_list(each, labels)} cost nothing beyond the interval')
  worse = [
      c for c, change in each.controls.items()
      if _up(change) and (c in OF_QUERY or _up(each.gain))]
  if worse:
    why += f', though {_list(each, worse)} cost it'
  return f'{_curve(each)}, {why}{_chosen(each)}'


def _chosen(each: Finding) -> str:
  better = [c for c, change in each.choices.items() if _up(change)]
  if not better:
    return ''
  return ', and better chosen demonstrations add to it: ' + ', '.join(
      f'{CHOICES[c]} {_show(each.choices[c])}' for c in better)


def _list(each: Finding, names: Sequence[str]) -> str:
  return ', '.join(
      f'{_WORDS[name]} {_show(each.controls[name])}' for name in names)


def _number(value: float) -> str:
  return f'{100 * value:.1f}'


def _show(change: Interval) -> str:
  """Times 100, with its interval."""
  return (
      f'{100 * change.value:+.1f} [{100 * change.low:.1f}, '
      f'{100 * change.high:.1f}]').replace('-', '−')
