"""Scores of what was said, from a log alone: no model, no image."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

from flamingo.eval.benchmarks import Benchmark, Item
from flamingo.eval.harness.cell import Cell
from flamingo.eval.harness.metrics import METRICS, Said
from flamingo.eval.scores import bootstrap
from flamingo.eval.scores.score import Score

# What keeps a score from being computed, but not the others of a run.
_IN_THE_WAY = (ValueError, FileNotFoundError, ImportError)


def one_score(
    row: Benchmark, cell: Cell, item: Item, said: Said
) -> float | None:
  """The score of one example; None where it has none of its own."""
  metric = METRICS[cell.metric]
  if not metric.alone or not row.splits[cell.split].answered:
    return None
  try:
    scores = metric.of([item], [said])
  except _IN_THE_WAY:
    return None
  return float(next(iter(scores.values())).examples[0])


@dataclasses.dataclass(frozen=True)
class Scored:
  """A cell's scores, or why there are none.

  Attributes:
    cell: what was asked.
    items: queries, sorted by id.
    said: to each.
    dropped: demonstrations that did not fit, over all prompts.
    scores: by name.
    why: there are none; empty if there are.
  """

  cell: Cell
  items: Sequence[Item]
  said: Sequence[Said]
  dropped: int
  scores: Mapping[str, Score]
  why: str = ''


def score(
    row: Benchmark, cell: Cell, items: Sequence[Item],
    records: Mapping[str, dict],
) -> Scored:
  """Scores a cell from its records.

  Args:
    row: of the cell's benchmark.
    cell: what was asked.
    items: queries of the split, at least all that were asked.
    records: of the log, by id.

  Raises:
    ValueError: a record is of an example that the split does not have.
  """
  by_id = {item.id: item for item in items}
  unknown = sorted(records.keys() - by_id.keys())
  if unknown:
    raise ValueError(
        f'{cell.task} ({cell.split}): the log has the examples {unknown[:5]}, '
        'which the data has not. Give the data root that it was written with.')
  asked = [by_id[name] for name in sorted(records)]
  said = []
  for item in asked:
    record = records[item.id]
    said.append(Said(
        record['output'] if cell.open_ended else None, record['scores']))
  dropped = sum(records[item.id]['dropped'] for item in asked)
  scores, why = {}, ''
  if not row.splits[cell.split].answered:
    why = 'The answers are on a server.'
  else:
    try:
      scores = METRICS[cell.metric].of(asked, said)
    except _IN_THE_WAY as error:
      why = str(error)
  return Scored(cell, asked, said, dropped, scores, why)


def interval(name: str, several: Sequence[Scored]) -> bootstrap.Interval:
  """A score's mean over cells that differ in their seeds, and its interval.

  Of a corpus' sums as BLEU, of examples' mean, or of the whole metric anew on
  resampled examples, whichever the score is. NaN ends where it is none of them.
  """
  scores = [each.scores[name] for each in several]
  if all(s.sums is not None for s in scores):
    return bootstrap.sums_interval([s.sums for s in scores])
  value = float(np.mean([s.value for s in scores]))
  rows = [s.examples for s in scores]
  if rows[0].size and all(np.isclose(s.examples.mean(), s.value)
                          for s in scores):
    return bootstrap.mean_interval(np.stack(rows))
  metric = METRICS[several[0].cell.metric]
  if not metric.resampled or math.isnan(value):
    return bootstrap.Interval(value, math.nan, math.nan)

  def statistic(seeds, examples):
    try:
      return float(np.mean([
          metric.of(
              [several[s].items[i] for i in examples],
              [several[s].said[i] for i in examples])[name].value
          for s in seeds]))
    except ValueError:  # all of one kind
      return math.nan

  return bootstrap.interval(
      statistic, examples=len(several[0].items), seeds=len(several))


def stderr(score: Score) -> float:
  """Standard error of a mean over examples; NaN where it is none."""
  n = score.examples.size
  if n < 2 or not np.isclose(score.examples.mean(), score.value):
    return math.nan
  return float(score.examples.std(ddof=1) / math.sqrt(n))
