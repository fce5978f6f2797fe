"""Two evaluations: the cells that both have, and whether one is better.

Cells are common if they agree in task, split, metric, control, baseline, and
in whatever either run varies, as shots. What each run holds fixed may differ,
such as the template, or RICES here and chance there: that is what is compared.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from flamingo.eval.benchmarks import Item
from flamingo.eval.harness import whole
from flamingo.eval.harness.runs import Run
from flamingo.eval.scores import bootstrap

_ALWAYS = ('task', 'split', 'metric', 'control', 'baseline')
_VARIED = ('ways', 'shots', 'choice', 'style', 'names', 'beams')


@dataclasses.dataclass(frozen=True)
class Pair:
  """A cell that two runs have in common, under all seeds that they share.

  Attributes:
    fields: what the cells agree in.
    first: keys in the first run, one a seed.
    second: keys in the second run, likewise.
  """

  fields: Mapping[str, Any]
  first: tuple[str, ...]
  second: tuple[str, ...]


def common_cells(first: Run, second: Run) -> list[Pair]:
  """Cells that both runs have.

  Raises:
    ValueError: there is none; says what each run has.
  """
  ours, theirs = {}, {}
  for run, found in ((first, ours), (second, theirs)):
    for key, fields in run.cells.items():
      name = _name(fields, (first, second))
      found.setdefault(name, {})[fields['seed']] = key
  pairs = []
  for name in ours:
    a, b = ours[name], theirs.get(name, {})
    seeds = [seed for seed in a if seed in b]
    if seeds:
      keys = [a[s] for s in seeds], [b[s] for s in seeds]
    elif len(a) == len(b) == 1:
      keys = list(a.values()), list(b.values())
    else:
      continue
    pairs.append(Pair(dict(name), tuple(keys[0]), tuple(keys[1])))
  if not pairs:
    raise ValueError(
        'Expected two evaluations with a cell in common; there is none.\n'
        f'  {first.path}: {summary(ours)}\n  {second.path}: '
        f'{summary(theirs)}\nEvaluate both with the same tasks, splits and '
        'shots.')
  return pairs


def _name(fields, runs) -> tuple[tuple[str, Any], ...]:
  shown = _shown(fields)
  varied = {
      name for run in runs for name in _VARIED
      if len({
          str(_shown(other)[name]) for other in run.cells.values()
          if other['task'] == fields['task'] and name in _shown(other)
          and not other.get('control') and not other.get('baseline')}) > 1}
  return tuple(
      (name, shown[name]) for name in (*_ALWAYS[:2], *_VARIED, *_ALWAYS[2:])
      if name in shown and (name in _ALWAYS or name in varied))


def _shown(fields):
  """Without the choice of what is not shown."""
  if 'choice' in fields and not fields['shots'] + fields['texts']:
    return {k: v for k, v in fields.items() if k != 'choice'}
  return fields


def summary(cells: Collection[tuple[tuple[str, Any], ...]]) -> str:
  """Names of the first few cells, for messages."""
  few = [
      ', '.join(f'{k} {v}' for k, v in name if v is not None)
      for name in list(cells)[:3]]
  if len(cells) > len(few):
    few.append(f'and {len(cells) - len(few)} more')
  return '; '.join(few) or 'no cells'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
  """A common cell of two runs, over the examples that both have scored.

  Attributes:
    pair: the cell.
    metric: its main one.
    first: score of the first run; None if it has none.
    second: of the second.
    comparison: first less second, and its p-value; None where single examples
      have no scores.
    examples: that both have.
    only_first: examples that the first alone has.
    only_second: those of the second alone.
  """

  pair: Pair
  metric: str
  first: float | None
  second: float | None
  comparison: bootstrap.Comparison | None
  examples: int
  only_first: int
  only_second: int


def compare_cells(
    first: Run, second: Run, pair: Pair,
    items: Mapping[str, Item] | None = None,
) -> Paired:
  """Compares a cell of two runs, over seeds and examples that both have.

  Args:
    first: a run.
    second: another.
    pair: of `common_cells`.
    items: the task's examples by id, if scores are to be computed anew on those
      that both runs have; without, the scores in the runs' files are taken.
  """
  sides = ((first, pair.first), (second, pair.second))
  scores = [[run.scores.get(key, {}) for key in keys] for run, keys in sides]
  scored = all(map(all, scores)) and items is None
  ids = [
      [set(some[key]) for key in keys] for (run, keys) in sides
      for some in [run.scores if scored else run.records]]
  every = [set.union(*each) for each in ids]
  common = sorted(set.intersection(*ids[0], *ids[1]))
  metric = first.values.get(pair.first[0], (pair.fields['metric'], None))[0]
  values, comparison = [_printed(*side) for side in sides], None
  if common and scored:
    tables = [
        np.array([[of[name] for name in common] for of in some])
        for some in scores]
    comparison = bootstrap.compare(*tables)
    values = [float(table.mean()) for table in tables]
  elif common and items is not None:
    asked = whole.whole_groups(pair.fields['metric'], common, items)
    values, comparison = whole.rescore(sides, pair.fields['metric'], asked)
  return Paired(
      pair=pair, metric=metric, first=values[0], second=values[1],
      comparison=comparison, examples=len(common),
      only_first=len(every[0] - set(common)),
      only_second=len(every[1] - set(common)))


def _printed(run: Run, keys: Sequence[str]) -> float | None:
  """The mean of what the results say; None if one of them says nothing."""
  known = [run.values.get(key, (None, None))[1] for key in keys]
  return None if None in known else float(np.mean(known))
