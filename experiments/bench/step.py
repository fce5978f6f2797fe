"""The quickstart's update: where its time goes, and what the machine can do.

Floating-point operations are counted from shapes, not taken from the compiler.
"""

from collections.abc import Iterator
import time

import jax

from experiments.bench import clock
from experiments.bench.made import Training
from experiments.bench.parts import time_parts, training_flops
from experiments.bench.quickstart import Quickstart
from experiments.bench.result import Ratio, result

ABOUT = 'An update at quickstart shapes, its parts, and its wait for data'
COST = 75


def run(quickstart: Quickstart, steps: int = 12) -> dict:
  """Times `steps` updates with real data, and each part alone."""
  return measure(
      quickstart.training(), quickstart.batches(10_000), steps=steps)


def measure(
    training: Training, batches: Iterator, *, steps: int, size: int = 1024,
    repeats: int = 5,
) -> dict:
  """Times a training's updates on what `batches` yields.

  Args:
    training: the update.
    batches: yields {dataset: batch} of the shapes of the training's own.
    steps: updates that are timed.
    size: of the square matrices whose product is the ceiling.
    repeats: of each part.
  """
  peak = clock.ceilings(size)
  parts = time_parts(training, repeats)
  flops = training_flops(training)
  training(next(batches))
  waited, began = 0.0, time.perf_counter()
  for _ in range(steps):
    before = time.perf_counter()
    batch = next(batches)
    waited += time.perf_counter() - before
    training(batch)
  whole = (time.perf_counter() - began) / steps
  seconds = parts | {
      'update': whole, 'wait for data': waited / steps,
      'its products at the ceiling':
          sum(flops.values()) / peak[str(training.model.lm.dtype.__name__)]}
  sizes = jax.tree.leaves(
      training.batches, is_leaf=lambda x: hasattr(x, 'tokens'))
  tokens = sum(b.tokens.size for b in sizes)
  images = sum(b.images.shape[0] * b.images.shape[1] for b in sizes)
  return result(
      seconds,
      [Ratio('share of the matmul ceiling', 'its products at the ceiling',
             'update'),
       Ratio('share that waits for data', 'wait for data', 'update', 0.01,
             at_most=True)],
      {'gflop': {k: v / 1e9 for k, v in flops.items()},
       'ceiling_gflops': {k: v / 1e9 for k, v in peak.items()},
       'tokens_per_second': tokens / whole,
       'images_per_second': images / whole, 'threads': clock.cores()},
      ['Floating-point operations are counted from shapes, not taken from the '
       'compiler.'])
