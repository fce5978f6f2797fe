"""The input pipeline alone, against what an update eats."""

from collections.abc import Callable, Iterator
import itertools

from experiments.bench import clock
from experiments.bench.made import Training
from experiments.bench.quickstart import Quickstart
from experiments.bench.result import Ratio, result

ABOUT = 'The input pipeline alone, against what an update eats'
COST = 25


def run(quickstart: Quickstart) -> dict:
  """The quickstart's mixture and update."""
  return measure(quickstart.training(), quickstart.batches)


def measure(
    training: Training, batches: Callable[[int], Iterator], *, steps: int = 40,
    rounds: int = 3,
) -> dict:
  """Draws batches without training, and trains without drawing, in turns.

  Args:
    training: the update.
    batches: gives an iterator over so many steps.
    steps: drawn at a time.
    rounds: of both.
  """
  stream = batches(steps * (rounds + 1))
  draw = lambda: list(itertools.islice(stream, steps))
  times = clock.medians({'draw': draw, 'update': training}, rounds=rounds)
  each = times['draw'] / steps
  rows = sum(b.tokens.shape[0] for b in training.batches.values())
  return result(
      {'draw the batches of an update': each, 'update': times['update']},
      [Ratio('what an update takes over what its batches take', 'update',
             'draw the batches of an update', 1.0)],
      {'examples_per_second_drawn': rows / each,
       'examples_per_second_eaten': rows / times['update'],
       'threads_that_draw': 1, 'threads': clock.cores()},
      ['Batches are drawn by one thread while nothing else runs; features come '
       'from the cache on disk.'])
