"""What depth costs, unrolled and scanned: compiling an update; running it."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import statistics
import time

import jax

from experiments.bench import clock
from experiments.bench.made import (
    make_batch, make_params, openflamingo_like, SMOLLM2, Training)
from experiments.bench.quickstart import Quickstart
from experiments.bench.result import Ratio, result
from experiments.plan.compile import UNTUNED

ABOUT = 'Compile time and update at 6, 12, 24 and 48 layers, unrolled, scanned'
COST = 235
DEPTHS = (6, 12, 24, 48)
WAYS = ('unrolled', 'scanned')


def run(quickstart: Quickstart) -> dict:
  """SmolLM2's layers with a gated block before every third."""
  del quickstart
  # Accelerators' compilers take their time.
  few = jax.default_backend() != 'cpu'
  depths = (min(DEPTHS), max(DEPTHS)) if few else DEPTHS
  return measure(SMOLLM2, every=3, rows=4, length=64, depths=depths)


def measure(
    lm: Mapping[str, object], *, every: int, rows: int, length: int,
    images: int = 2, depths: Sequence[int] = DEPTHS, places: int = 16,
    visual_width: int = 256, resampler_layers: int = 2, rounds: int = 3,
) -> dict:
  """Compiles an update at each depth in each way, then times it.

  Args:
    lm: arguments of `LM`, whose depth is varied.
    every: LM layers a gated block.
    rows: of a batch.
    length: tokens of a row.
    images: of a row.
    depths: numbers of LM layers.
    places: features of an image.
    visual_width: of features and latents.
    resampler_layers: its depth.
    rounds: updates timed, and compilations of the two whose ratio is sought.
  """
  shape = (1, places, visual_width)
  batch = make_batch(rows, length, images, shape, lm['vocab_size'])
  name = lambda what, depth, way: f'{what}, {depth} layers, {way}'

  def train(depth, way):
    model = openflamingo_like(
        dict(lm, layers=depth), every=every, visual_width=visual_width,
        resampler_layers=resampler_layers, latents=8)
    model = model.clone(scan=way == 'scanned')
    return Training(model, make_params(model, shape), {'pages': batch})

  seconds = {}
  for depth in depths:
    pair = {}
    for way in WAYS:
      training = train(depth, way)
      traced, compiled = _compile(training)
      seconds[name('trace', depth, way)] = traced
      seconds[name('compile', depth, way)] = compiled
      pair[name('update', depth, way)] = training
    seconds |= clock.medians(pair, rounds=rounds, warm=1)
    del pair, training
  least, most = min(depths), max(depths)
  # The same program takes longer to compile one time than another.
  seconds |= _compile_in_turns({
      name('compile', depth, 'scanned'):
          functools.partial(train, depth, 'scanned')
      for depth in (least, most)}, rounds)
  ratios = [
      Ratio('growth of compile time, scanned', name('compile', most, 'scanned'),
            name('compile', least, 'scanned'), 1.3, at_most=True),
      Ratio('growth of compile time, unrolled',
            name('compile', most, 'unrolled'),
            name('compile', least, 'unrolled')),
      Ratio('an update scanned over one unrolled',
            name('update', most, 'scanned'), name('update', most, 'unrolled')),
      Ratio('compiling unrolled over scanned',
            name('compile', most, 'unrolled'),
            name('compile', most, 'scanned'))]
  notes = [
      'Compiling is without the cache on disk; tracing is a part of it. '
      f'Scanned, {least} and {most} layers are compiled {rounds} times, in '
      'turns.']
  if jax.default_backend() in UNTUNED:
    notes.append('No kernels are tried out; XLA takes its default of each.')
  return result(
      seconds, ratios,
      {'every': every, 'rows': rows, 'length': length, 'images': images,
       'width': lm['width'], 'threads': clock.cores()}, notes)


def _compile(training: Training) -> tuple[float, float]:
  """Compiles the update; seconds of its tracing, and of all of it."""
  with _no_cache():
    began = time.perf_counter()
    lowered = training.jitted.lower(training.state, training.batches)
    traced = time.perf_counter()
    # XLA tries kernels out on a GPU, once for each product of a process: the
    # first program would pay for all.
    training.jitted = lowered.compile(
        compiler_options=UNTUNED.get(jax.default_backend()))
    return traced - began, time.perf_counter() - began


def _compile_in_turns(
    makers: Mapping[str, Callable[[], Training]], rounds: int
) -> dict[str, float]:
  """Median seconds of compiling each, in turns, on one and the same machine."""
  took = {name: [] for name in makers}
  for _ in range(rounds):
    for name, make in makers.items():
      took[name].append(_compile(make())[1])  # made anew, to be traced anew
  return {name: statistics.median(times) for name, times in took.items()}


@contextlib.contextmanager
def _no_cache():
  """Within it nothing is read from the compilation cache on disk."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
