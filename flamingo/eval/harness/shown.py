"""Prompts of a log with their pictures, and what was said: the worst first."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from jaxtyping import UInt8
import numpy as np

from flamingo.eval import metrics
from flamingo.eval.benchmarks import (
    Benchmark, Item, read_images, TEMPLATES)
from flamingo.eval.harness.metrics import METRICS, Said
from flamingo.eval.harness.score import Scored

_FRAMES = 3  # of a clip that are shown
_CANDIDATES = 6  # that are shown, the best first
_ANSWERS = 5  # right ones that are shown
_LAST = 4  # demonstrations that are shown, those nearest to the query


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """An example of a prompt.

  Attributes:
    pictures: what it shows; several are frames of a clip.
    text: behind them.
    absent: why there is no picture; empty if there is one.
  """

  pictures: Sequence[UInt8[np.ndarray, 'h w 3']]
  text: str
  absent: str = ''


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
  """A prompt and what was said to it.

  Attributes:
    id: of the query.
    parts: the last few demonstrations in order, then the query.
    earlier: demonstrations in front of them.
    said: what was generated; None if candidates were ranked.
    scores: of the best candidates and of the answer.
    answers: right ones, at most a few.
    score: of this example.
    graded: whether 1 is right and 0 is wrong.
    dropped: demonstrations that did not fit.
  """

  id: str
  parts: Sequence[Part]
  earlier: int
  said: str | None
  scores: Mapping[str, float]
  answers: Sequence[str]
  score: float
  graded: bool
  dropped: int


def most_telling(
    root: str | pathlib.Path,
    row: Benchmark,
    scored: Scored,
    records: Mapping[str, Mapping[str, Any]],
    *,
    wrong: int,
    right: int,
) -> list[Shown]:
  """The worst of a cell's examples, then some of its best.

  The worst have the least score; among equals those where another candidate
  was furthest ahead of the answer, then by id.

  Args:
    root: data root. Pictures that are not there any more are said to be so.
    row: of the benchmark.
    scored: a cell that has been scored.
    records: of its log by id.
    wrong: how many of those below the best possible score.
    right: how many of the others.
  """
  values, graded = _values(scored)
  lead = [_lead(item, said) for item, said in zip(scored.items, scored.said)]
  order = sorted(
      range(len(values)), key=lambda i: (values[i], -lead[i], i))
  bad = [i for i in order if values[i] < 1][:wrong]
  # Those that came easiest, from the other end.
  good = [i for i in reversed(order) if i not in bad][:right]
  template = TEMPLATES[scored.cell.template][row.template]
  known = _demonstrations(root, row, scored, records, (*bad, *good))
  return [
      _show(root, template, scored, records, known, i, values[i], graded)
      for i in (*bad, *good)]


def _values(scored: Scored) -> tuple[list[float], bool]:
  """Each example's score, and whether it is a grade from 0 to 1.

  Where a metric gives none, whether the best candidate is the answer.
  """
  score = next(iter(scored.scores.values()), None)
  if score is not None and len(score.examples) == len(scored.items):
    return list(map(float, score.examples)), METRICS[scored.cell.metric].alone
  values = []
  for item, said in zip(scored.items, scored.said):
    if said.scores is None:
      values.append(float(said.text == item.answer))
    elif item.answer in item.candidates:
      values.append(metrics.is_best(
          said.scores, item.candidates.index(item.answer)))
    else:
      values.append(0.0)
  return values, True


def _lead(item: Item, said: Said) -> float:
  """How far the best other candidate is ahead of the answer."""
  if said.scores is None or item.answer not in item.candidates:
    return 0.0
  true = item.candidates.index(item.answer)
  others = [s for i, s in enumerate(said.scores) if i != true]
  return max(others) - said.scores[true] if others else 0.0


def _demonstrations(root, row, scored, records, chosen) -> dict[str, Item]:
  wanted = {
      name for i in chosen
      for name in records[scored.items[i].id]['demonstrations'][-_LAST:]}
  if not wanted or row.support is None:
    return {}
  try:
    items = row.items(root, row.support)
  except FileNotFoundError:
    return {}  # a log is told where the data is not, too
  return {item.id: item for item in items if item.id in wanted}


def _show(root, template, scored, records, known, i, value, graded) -> Shown:
  item, said = scored.items[i], scored.said[i]
  record = records[item.id]
  known = known | {one.id: one for one in item.demonstrations}
  blind = bool(scored.cell.texts)
  parts = []
  shown = record['demonstrations'][-_LAST:]
  for name in shown:
    if name in known:
      text = template.demonstration(known[name])
      parts.append(_part(root, known[name], text, blind))
    else:
      parts.append(Part(
          pictures=(), text=name, absent='not among the data that is here'))
  parts.append(_part(root, item, template.question(item), False))
  scores = {}
  if said.scores is not None:
    ranked = sorted(
        zip(item.candidates, said.scores), key=lambda pair: -pair[1])
    scores = {
        name: score for place, (name, score) in enumerate(ranked)
        if place < _CANDIDATES or name == item.answer}
  return Shown(
      id=item.id, parts=parts,
      earlier=len(record['demonstrations']) - len(shown), said=said.text,
      scores=scores, answers=_answers(item), score=value, graded=graded,
      dropped=record['dropped'])


def _answers(item: Item) -> tuple[str, ...]:
  """What is right: all that is said of open answers, else the one."""
  if item.candidates or not all(isinstance(r, str) for r in item.references):
    return (item.answer,)
  return tuple(dict.fromkeys((item.answer, *item.references)))[:_ANSWERS]


def _part(root, item: Item, text: str, blind: bool) -> Part:
  if blind:
    return Part(pictures=(), text=text, absent='text alone')
  try:
    pictures = read_images(root, item, frames=_FRAMES)
  except (FileNotFoundError, ValueError) as error:
    return Part(pictures=(), text=text, absent=str(error))
  return Part(pictures=pictures, text=text)
