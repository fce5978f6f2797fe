"""A few layers of the 3B model: how near an update comes to the ceiling.

The paper's 3B has 24 layers of width 2048 with a gated block before each. They
are all alike, so four of them, at the paper's 256 tokens a row, tell what share
of the machine the whole would use, in memory that a laptop has.
"""

from collections.abc import Mapping

import jax

from experiments import build
from experiments.bench import clock
from experiments.bench.made import make_batch, make_params, Training
from experiments.bench.parts import time_parts, training_flops
from experiments.bench.quickstart import Quickstart
from experiments.bench.result import Ratio, result
from experiments.configs import flamingo as config_lib

ABOUT = 'An update of a slice of the 3B model, against the matmul ceiling'
COST = 186


def run(quickstart: Quickstart) -> dict:
  """Four layers on a CPU; all of them, and more rows, on an accelerator."""
  del quickstart
  config = config_lib.get_config('3b')
  if jax.default_backend() == 'cpu':
    config.lm.layers = 4
    config.resampler.layers = 1  # a share of its six, as 4 of 24
    config.model.remat = 'none'  # there is room for what four layers keep
    return measure(config, rows=8)
  return measure(config, rows=32, size=8192)


def measure(
    config: Mapping, *, rows: int, length: int = 256, images: int = 2,
    size: int = 1024, rounds: int = 3,
) -> dict:
  """Times the update of a config of sizes, with made-up weights.

  Args:
    config: such as experiments/configs/flamingo.py.
    rows: of the batch.
    length: tokens of a row.
    images: of a row.
    size: of the square matrices whose product is the ceiling.
    rounds: updates timed.
  """
  model = build.build_model(config, dict(config.lm), config.visual.width)
  shape = (1, config.visual.places, config.visual.width)
  training = Training(
      model, make_params(model, shape),
      {'pages': make_batch(rows, length, images, shape, model.lm.vocab_size)})
  peak = clock.ceilings(size)
  whole = clock.medians({'update': training}, rounds=rounds)
  flops = training_flops(training)
  parts = time_parts(training, repeats=2)
  seconds = whole | parts | {
      'its products at the ceiling': sum(flops.values()) / peak[
          config.model.dtype]}
  return result(
      seconds,
      [Ratio('share of the matmul ceiling', 'its products at the ceiling',
             'update', 0.6)],
      {'layers': config.lm.layers, 'width': config.lm.width, 'rows': rows,
       'length': length, 'images': images, 'dtype': config.model.dtype,
       'gflop': {k: v / 1e9 for k, v in flops.items()},
       'ceiling_gflops': {k: v / 1e9 for k, v in peak.items()},
       'threads': clock.cores()},
      [_profile(parts, whole['update'], flops, peak[config.model.dtype])])


def _profile(parts, whole, flops, peak) -> str:
  """Which part is how far from the ceiling, in one sentence."""
  of = {'language model': 'language model, forward and backward',
        'gated blocks': 'gated blocks', 'resampler': 'resampler',
        'vocabulary': 'vocabulary and loss'}
  shares = ', '.join(
      f'{part} {flops[part] / peak / parts[name]:.0%} '
      f'({parts[name] / whole:.0%} of the time)' for part, name in of.items())
  return (
      f'Shares of the ceiling, part by part: {shares}; the optimizer, which '
      f'has no products, takes {parts["optimizer"] / whole:.0%} of the time.')
