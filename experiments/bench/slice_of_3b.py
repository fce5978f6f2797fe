"""A few layers of the 3B model: how near an update comes to the ceiling.

The paper's 3B has 24 layers of width 2048 with a gated block before each. They
are all alike, so four of them, at the paper's 256 tokens a row, tell what share
of the machine the whole would use, in memory that a laptop has. An accelerator
has memory for all of them.
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
from flamingo import hardware
from flamingo.model.flamingo import Flamingo

ABOUT = 'An update of a slice of the 3B model, against the matmul ceiling'
COST = 186


def run(quickstart: Quickstart) -> dict:
  """Four layers on a CPU; all of them, and more rows, on an accelerator."""
  del quickstart
  if jax.default_backend() != 'cpu':
    return on_accelerator()
  return measure(four_layers(), rows=8)


def four_layers() -> Mapping:
  """The config of sizes of the slice."""
  config = config_lib.get_config('3b')
  config.lm.layers = 4
  config.resampler.layers = 1  # a share of its six, as 4 of 24
  config.model.remat = 'none'  # there is room for what four layers keep
  return config


def on_accelerator(
    *, rows: int = 64, remat: str = 'dots', layers: str = 'unrolled'
) -> dict:
  """All layers on one accelerator of 80 GB, as a whole.

  Its parts are left out: each is a program of its own, which takes longer to
  compile and to tune than all updates that are timed.

  Args:
    rows: of the batch.
    remat: see `Flamingo`. What 'full' computes again is no part of an MFU.
    layers: see `build.choose_scan`. A scan compiles faster, and copies what it
      keeps for the backward pass.
  """
  config = config_lib.get_config('3b')
  config.model.update(dict(remat=remat, layers=layers))
  return measure(config, rows=rows, size=8192, rounds=10, parts=False)


def measure(
    config: Mapping, *, rows: int, length: int = 256, images: int = 2,
    size: int = 1024, rounds: int = 3, parts: bool = True,
    stated: float | None = None,
) -> dict:
  """Times the update of a config of sizes, with made-up weights.

  Args:
    config: such as experiments/configs/flamingo.py.
    rows: of the batch.
    length: tokens of a row.
    images: of a row.
    size: of the square matrices whose product is the ceiling.
    rounds: updates timed.
    parts: whether each part is timed alone, too.
    stated: bfloat16 FLOP/s that the chip's maker states; by default what
      `hardware` knows of it.
  """
  ceiling = clock.ceiling(config.model.dtype, size)
  training = _training(config, rows, length, images)
  seconds = clock.medians({'update': training}, rounds=rounds)
  flops, memory = training_flops(training), _most_memory()
  facts = {
      'layers': config.lm.layers, 'width': config.lm.width, 'rows': rows,
      'length': length, 'images': images, 'dtype': config.model.dtype,
      'remat': config.model.remat, 'scanned': training.model.scan,
      'gflop': {k: v / 1e9 for k, v in flops.items()},
      'ceiling_gflops': {config.model.dtype: ceiling / 1e9},
      'threads': clock.cores()}
  if memory:
    facts['most_gigabytes'] = memory / 1e9
  notes = []
  if parts:
    seconds |= time_parts(training, repeats=2)
    notes.append(_profile(seconds, flops, ceiling))
  total = sum(flops.values())
  seconds['its products at the ceiling'] = total / ceiling
  ratios = [Ratio('share of the matmul ceiling', 'its products at the ceiling',
                  'update', 0.6)]
  stated = stated or hardware.peak_of(jax.devices()[0])
  if stated:
    facts['stated_gflops'] = stated / 1e9
    seconds['its products at the stated peak'] = total / stated
    ratios.append(Ratio('MFU, share of the stated peak',
                        'its products at the stated peak', 'update', 0.5))
  return result(seconds, ratios, facts, notes)


def make_model(config: Mapping) -> tuple[Flamingo, tuple[int, int, int]]:
  """The network of a config of sizes, and the shape [T S D] of features."""
  model = build.build_model(config, dict(config.lm), config.visual.width)
  return model, (1, config.visual.places, config.visual.width)


def _training(config, rows: int, length: int, images: int) -> Training:
  model, shape = make_model(config)
  return Training(
      model, make_params(model, shape),
      {'pages': make_batch(rows, length, images, shape, model.lm.vocab_size)})


def _most_memory() -> int | None:
  """Bytes that were in use at once so far; None where no one counts them."""
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get('peak_bytes_in_use')


def _profile(seconds, flops, ceiling) -> str:
  """Which part is how far from the ceiling, in one sentence."""
  of = {'language model': 'language model, forward and backward',
        'gated blocks': 'gated blocks', 'resampler': 'resampler',
        'vocabulary': 'vocabulary and loss'}
  whole = seconds['update']
  shares = ', '.join(
      f'{part} {flops[part] / ceiling / seconds[name]:.0%} '
      f'({seconds[name] / whole:.0%} of the time)' for part, name in of.items())
  return (
      f'Shares of the ceiling, part by part: {shares}; the optimizer, which '
      f'has no products, takes {seconds["optimizer"] / whole:.0%} of the time.')
