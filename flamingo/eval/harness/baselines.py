"""What no model is needed for: the least that a score must beat.

  majority           the commonest answer of the support, whatever is asked
  nearest_centroid   the class whose demonstrations' images are nearest
  text_only          the model itself, shown no image at all (not here: `run`)

Both give what a model gives, so that the same metrics score them.
"""

import collections
from collections.abc import Callable, Sequence

import numpy as np

from flamingo.eval.benchmarks import Item
from flamingo.eval.harness.cell import Asked
from flamingo.eval.harness.task import Task

# An answer that was not demonstrated has no centroid: as far as can be.
_FARTHEST = -1.0


def majority(
    task: Task, queries: Sequence[Item]
) -> list[tuple[str | None, list[float] | None]]:
  """The commonest answer, or how often each candidate is one.

  Of the support, or of a query's own demonstrations. Without either all
  candidates are as common.
  """
  of_all = collections.Counter(item.answer for item in task.support)
  said = []
  for query in queries:
    counts = of_all
    if query.demonstrations:
      counts = collections.Counter(one.answer for one in query.demonstrations)
    if task.row.open_ended:
      best = min(counts, key=lambda answer: (-counts[answer], answer))
      said.append((best, None))
    else:
      said.append((None, [float(counts[c]) for c in query.candidates]))
  return said


def nearest_centroid(
    asked: Sequence[Asked],
    embed: Callable[[Sequence[Item]], np.ndarray],
) -> list[list[float]]:
  """Cosine of each query's image and the mean of each class' demonstrations.

  Args:
    asked: queries with their demonstrations.
    embed: what items' images are compared by [n D], see `Pictures.embed`.
  """
  scores = []
  for each in asked:
    items = (*each.choice.items, each.query)
    unit = np.asarray(embed(items), np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    answers = np.array([item.answer for item in each.choice.items])
    row = []
    for candidate in each.query.candidates:
      mine = unit[:-1][answers == candidate]
      if not len(mine):
        row.append(_FARTHEST)
        continue
      centroid = mine.mean(axis=0)
      row.append(float(unit[-1] @ centroid / np.linalg.norm(centroid)))
    scores.append(row)
  return scores
