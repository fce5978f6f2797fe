"""Two evaluations: where they first differ, and whether one is better.

Cells are common if they agree in task, split, metric, control, baseline, and
in whatever either run varies, as shots. What each run holds fixed may differ,
such as the template, or RICES here and chance there: that is what is compared.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from flamingo.eval.harness.runs import Run
from flamingo.eval.scores import bootstrap

ABSENT = 'nothing'
_ALWAYS = ('task', 'split', 'metric', 'control', 'baseline')
_VARIED = ('ways', 'shots', 'choice', 'style', 'names', 'beams')
# In a config, but what comes out does not depend on them.
_NO_MATTER = ('cache', 'chunk', 'tokens_at_once')


@dataclasses.dataclass(frozen=True)
class Difference:
  """Where two things first differ.

  Attributes:
    where: names the place.
    first: what the first has there.
    second: what the second has.
    others: names of further places.
  """

  where: str
  first: object
  second: object
  others: tuple[str, ...] = ()


def config_difference(first: Run, second: Run) -> Difference | None:
  """The first key of the configs that differs, in an order that matters."""
  return _difference(_flat(first.config), _flat(second.config))


def identity_difference(first: Run, second: Run) -> Difference | None:
  """The first fingerprint of model or data that differs."""
  return _difference(first.identity, second.identity)


def version_difference(first: Run, second: Run) -> Difference | None:
  """The first package that differs."""
  return _difference(first.versions, second.versions)


def template_difference(first: Run, second: Run) -> Difference | None:
  """The first task whose example prompt differs, from where it does."""
  found = _difference(first.templates, second.templates)
  if found is None or ABSENT in (found.first, found.second):
    return found
  pairs = zip(found.first, found.second)
  same = next(
      (i for i, (a, b) in enumerate(pairs) if a != b),
      min(len(found.first), len(found.second)))
  start = max(0, same - 20)
  return dataclasses.replace(
      found, first=found.first[start : same + 60],
      second=found.second[start : same + 60])


def _flat(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Values by their dotted names; those that do not matter last."""
  flat = {}
  for key in sorted(config, key=lambda key: (key in _NO_MATTER, key)):
    value = config[key]
    if isinstance(value, Mapping) and value:
      flat.update(_flat(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat


def _difference(first, second) -> Difference | None:
  names = dict.fromkeys((*first, *second))
  differ = [
      name for name in names
      if first.get(name, ABSENT) != second.get(name, ABSENT)]
  if not differ:
    return None
  name, *others = differ
  return Difference(
      name, first.get(name, ABSENT), second.get(name, ABSENT), tuple(others))


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
  ours, theirs = ({}, {})
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
        f'  {first.path}: {_summary(ours)}\n  {second.path}: '
        f'{_summary(theirs)}\nEvaluate both with the same tasks, splits and '
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


def _summary(cells) -> str:
  few = [
      ', '.join(f'{k} {v}' for k, v in name if v is not None)
      for name in list(cells)[:3]]
  if len(cells) > len(few):
    few.append(f'and {len(cells) - len(few)} more')
  return '; '.join(few) or 'no cells'


def prompt_difference(
    first: Run, second: Run, pairs: Sequence[Pair]
) -> tuple[Difference | None, int, int]:
  """The first common example whose prompt differs, and how many do.

  Returns:
    the difference, of demonstrations where those differ, else of digests;
    how many prompts differ; of how many.
  """
  found, differ, total = None, 0, 0
  for pair in pairs:
    for a, b in zip(pair.first, pair.second):
      for name, ours in first.records[a].items():
        theirs = second.records[b].get(name)
        if theirs is None:
          continue
        total += 1
        if ours['prompt'] == theirs['prompt']:
          continue
        differ += 1
        if found is None:
          where = f'{_summary([tuple(pair.fields.items())])}, example {name}'
          for field in ('demonstrations', 'images', 'prompt'):
            if ours.get(field) != theirs.get(field):
              found = Difference(
                  f'{where}, {field}', ours.get(field), theirs.get(field))
              break
  return found, differ, total


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


def compare_cells(first: Run, second: Run, pair: Pair) -> Paired:
  """Compares a cell of two runs, over seeds and examples that both have."""
  sides = []
  for run, keys in ((first, pair.first), (second, pair.second)):
    some = [run.scores.get(key, {}) for key in keys]
    scored = all(some)
    each = [set(s if scored else run.records[k]) for s, k in zip(some, keys)]
    sides.append((some if scored else None, each))
  ids = [set.union(*each) for _, each in sides]
  common = sorted(set.intersection(*(s for _, each in sides for s in each)))
  values, comparison = [None, None], None
  metric = first.values.get(pair.first[0], (pair.fields['metric'], None))[0]
  if common and all(some for some, _ in sides):
    tables = [
        np.array([[s[name] for name in common] for s in some])
        for some, _ in sides]
    comparison = bootstrap.compare(*tables)
    values = [float(table.mean()) for table in tables]
  else:
    for i, (run, keys) in enumerate(
        ((first, pair.first), (second, pair.second))):
      known = [run.values.get(key, (None, None))[1] for key in keys]
      if None not in known:
        values[i] = float(np.mean(known))
  return Paired(
      pair=pair, metric=metric, first=values[0], second=values[1],
      comparison=comparison, examples=len(common),
      only_first=len(ids[0] - set(common)),
      only_second=len(ids[1] - set(common)))
