"""Metrics of all examples together, compared on the examples of two runs.

An area under a curve is of no single example, and CIDEr weighs an example by
all others. With the annotations at hand both are computed anew on what two runs
have in common.
"""

from collections.abc import Mapping, Sequence
import math

import numpy as np

from flamingo.eval.benchmarks import Item
from flamingo.eval.harness.metrics import Metric, METRICS, Said
from flamingo.eval.harness.runs import Run
from flamingo.eval.scores import bootstrap
from flamingo.eval.scores.score import Score

_RESAMPLES = 2_000

# A run and its keys of one cell, a key a seed.
Side = tuple[Run, Sequence[str]]


def rescore(
    sides: tuple[Side, Side],
    metric: str,
    items: Sequence[Item],
) -> tuple[list[float], bootstrap.Comparison]:
  """Both scores of two runs on these examples, and their comparison.

  Where examples have scores of their own, those are compared as pairs. Where
  they have none the whole metric is, on resampled examples and seeds; p is then
  twice the share of resamples whose difference is not on the side of most.

  Args:
    sides: two runs, with as many seeds each.
    metric: a key of `METRICS`.
    items: that both have been asked; whole groups where those are scored.

  Raises:
    ValueError: the metric cannot be computed on these examples.
  """
  found = METRICS[metric]
  said = [[_said(run, key, items) for key in keys] for run, keys in sides]
  scores = [[_score(found, items, one) for one in some] for some in said]
  values = [float(np.mean([s.value for s in some])) for some in scores]
  if all(s.examples.size and np.isclose(s.examples.mean(), s.value)
         for some in scores for s in some):
    return values, bootstrap.compare(
        *(np.stack([s.examples for s in some]) for some in scores))
  return values, _resampled(found, items, said)


def _said(run: Run, key: str, items) -> list[Said]:
  generated = run.cells[key]['open_ended']
  records = run.records[key]
  return [
      Said(records[item.id]['output'] if generated else None,
           records[item.id]['scores']) for item in items]


def _score(metric: Metric, items, said) -> Score:
  return next(iter(metric.of(items, said).values()))


def _resampled(metric, items, said) -> bootstrap.Comparison:
  differences = []

  def difference(seeds, examples):
    chosen = [items[i] for i in examples]
    try:
      one, other = (
          np.mean([
              _score(metric, chosen, [some[s][i] for i in examples]).value
              for s in seeds])
          for some in said)
    except ValueError:  # as an area of positives alone
      return math.nan
    differences.append(one - other)
    return float(differences[-1])

  interval = bootstrap.interval(
      difference, examples=len(items), seeds=len(said[0]),
      resamples=_RESAMPLES)
  drawn = np.asarray(differences[1:])  # the first is the difference as measured
  least = min((drawn <= 0).sum(), (drawn >= 0).sum())
  p_value = min(1.0, 2 * (1 + least) / (1 + len(drawn)))
  return bootstrap.Comparison(interval, float(p_value))


def whole_groups(
    metric: str, common: Sequence[str], items: Mapping[str, Item]
) -> list[Item]:
  """The common examples, without those whose group is not complete."""
  there = [items[name] for name in common]
  if not METRICS[metric].grouped:
    return there
  kept = set(common)
  broken = {item.group for item in items.values() if item.id not in kept}
  return [item for item in there if item.group not in broken]
