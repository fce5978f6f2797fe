"""What more images cost at the same number of tokens.

A token sees one image, so the language model's half of a forward pass should
not cost more with 32 of them than with one; in a training, what grows should be
the resampler, which must look at each.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import jax

from experiments.bench import clock
from experiments.bench import peer
from experiments.bench import peer_needs
from experiments.bench import slice_of_3b
from experiments.bench.apart import apart
from experiments.bench.made import (
    make_batch, make_params, openflamingo_like, SMOLLM2, Training)
from experiments.bench.quickstart import Quickstart
from experiments.bench.result import Ratio, result
from flamingo import params as params_lib
from flamingo.model.flamingo import Flamingo
from flamingo.types import Batch

ABOUT = 'Forward pass and update with 1 to 32 images in 256 tokens'
COST = 371
NUMBERS = (1, 2, 5, 8, 16, 32)
LARGE = "forward, 3B's layers"


def run(quickstart: Quickstart) -> dict:
  """OpenFlamingo's 64 latents of 1024 and the quickstart's, in 12 layers.

  And four layers of the paper's 3B, with a block before each, as for its own
  64 latents these 12 are small beside what looks at them.

  On an accelerator with more rows, as two would not fill it, and fewer numbers
  of images: each is three programs, which take longer to compile than to run.
  """
  del quickstart
  lm = dict(SMOLLM2, layers=12)
  large = slice_of_3b.four_layers()
  if jax.default_backend() == 'cpu':
    return measure(lm, every=3, rows=2, length=256, large=large)
  return measure(
      lm, every=3, rows=16, length=256, numbers=(1, 8, 32), rounds=10,
      large=large)


def measure(
    lm: Mapping[str, object], *, every: int, rows: int, length: int,
    numbers: Sequence[int] = NUMBERS, places: int = 256,
    visual_width: int = 1024, small: tuple[int, int] = (256, 8),
    resampler_layers: int = 6, rounds: int = 3, with_peer: bool = True,
    large: Mapping | None = None,
) -> dict:
  """Times a forward pass with latents given, the resampler, and an update.

  Args:
    lm: arguments of `LM`, llama family.
    every: LM layers a gated block.
    rows: of a batch.
    length: tokens of a row.
    numbers: of images in a row.
    places: features of an image.
    visual_width: of features and latents.
    small: width and number of the latents of a second, smaller model, whose
      forward pass is timed too.
    resampler_layers: of the first model; OpenFlamingo's has 6.
    rounds: calls timed.
    with_peer: whether OpenFlamingo's update is timed, if it is installed.
    large: config of sizes, such as experiments/configs/flamingo.py, of a third
      model, of which a forward pass with the least and the most images is
      timed.
  """
  least, most = min(numbers), max(numbers)
  shape = (1, places, visual_width)
  batches = {
      n: make_batch(rows, length, n, shape, lm['vocab_size']) for n in numbers}
  width, latents = small
  block = openflamingo_like(lm, every=every, visual_width=visual_width).xattn[0]
  seconds = {}
  for name, model in (
      ('', openflamingo_like(
          lm, every=every, visual_width=visual_width,
          resampler_layers=resampler_layers)),
      (f', {latents} latents', openflamingo_like(
          lm, every=every, visual_width=width, resampler_layers=1,
          latents=latents))):
    wide = (1, places, model.resampler.visual_width)
    params = make_params(model, wide)
    seconds |= {
        f'forward{name}, {_images(n)}': t for n, t in clock.medians(
            {n: _forward(model, params, batch) for n, batch in batches.items()},
            rounds=rounds).items()}
    if name:
      continue
    seconds |= {
        f'resampler, {_images(n)}': t for n, t in clock.medians(
            {n: _resampler(model, params, batch)
             for n, batch in batches.items()}, rounds=rounds).items()}
    seconds |= {
        f'update, {_images(n)}': t for n, t in clock.medians(
            _updates(model, params, batches), rounds=rounds).items()}
  for part in ('update', 'resampler'):
    seconds[f'growth of {part}'] = (
        seconds[f'{part}, {_images(most)}']
        - seconds[f'{part}, {_images(least)}'])
  names = lambda what: (
      f'{what}, {_images(most)}', f'{what}, {_images(least)}')
  small_name = f'forward, {latents} latents'
  ratios = [
      Ratio('forward with latents given', *names('forward'), 1.2, at_most=True),
      Ratio(f'forward with {latents} small latents given', *names(small_name),
            1.2, at_most=True),
      Ratio('update', *names('update')),
      Ratio("an update's growth over its resampler's", 'growth of update',
            'growth of resampler', 1.1, at_most=True)]
  if large is not None:
    seconds |= _forward_of(large, rows, length, (least, most), rounds)
    ratios.append(Ratio(
        f'{LARGE} with latents given', *names(LARGE), 1.2, at_most=True))
  notes = [
      'A gated block sees in the form that is cheapest for its shapes, see '
      '`GatedCrossAttention.choose_form`.']
  if with_peer and not peer_needs.lacking():
    seconds |= time_peer(
        peer.Work(lm, every, rows, length, most, places, visual_width),
        (least, most))
    ratios.append(Ratio("OpenFlamingo's update", *names('OpenFlamingo')))
  elif with_peer:
    notes.append(
        f'OpenFlamingo is not here ({", ".join(peer_needs.lacking())}), so its '
        'growth is left out: `make parity` installs it.')
  return result(
      seconds, ratios,
      {'layers': lm['layers'], 'every': every, 'rows': rows, 'length': length,
       'places': places, 'visual_width': visual_width, 'small': list(small),
       'form': {
           _images(n): block.choose_form(length, n, 64) for n in numbers},
       'dtype': 'bfloat16', 'threads': clock.cores()}, notes)


def _images(n: int) -> str:
  return f'{n} image{"s" * (n > 1)}'


def _forward(model: Flamingo, params, batch: Batch) -> Callable:
  """Final states of the LM, with latents given."""
  n, resampler = batch.images.shape[1], model.resampler
  latents = jax.numpy.ones(
      (batch.tokens.shape[0], n, resampler.latents, resampler.width))
  read = jax.jit(lambda params, latents, tokens, index: model.apply(
      {'params': params}, latents, tokens, index, method='read')[0])
  return lambda: read(params, latents, batch.tokens, batch.image_index)


def _forward_of(config, rows, length, numbers, rounds) -> dict[str, float]:
  """Seconds of a forward pass of a model of a config of sizes."""
  model, shape = slice_of_3b.make_model(config)
  params = make_params(model, shape)
  return clock.medians({
      f'{LARGE}, {_images(n)}': _forward(model, params, make_batch(
          rows, length, n, shape, model.lm.vocab_size))
      for n in numbers}, rounds=rounds)


def _resampler(model: Flamingo, params, batch: Batch) -> Callable:
  """Latents of all images, and the gradient of the resampler."""
  trainable, frozen = params_lib.split(params)

  def see(resampler, images):
    all_params = params_lib.merge(trainable | {'resampler': resampler}, frozen)
    return model.apply({'params': all_params}, images, method='see').sum()

  gradient = jax.jit(jax.grad(see))
  images = jax.numpy.asarray(batch.images)
  return lambda: gradient(trainable['resampler'], images)


def _updates(model: Flamingo, params, batches) -> dict[int, Callable]:
  """Updates of one training, which takes over the parameters."""
  training = Training(model, params, {'pages': next(iter(batches.values()))})
  call = lambda batch: lambda: training({'pages': batch})
  return {
      n: call(jax.tree.map(jax.numpy.asarray, batch))
      for n, batch in batches.items()}


def time_peer(work: peer.Work, numbers: Sequence[int]) -> dict[str, float]:
  """Seconds of OpenFlamingo's update with so many images, in bfloat16."""
  seconds = {}
  for n in numbers:
    of_n = dataclasses.replace(work, images=n)
    with apart(peer.their_update, of_n, 'bf16', clock.cores()) as update:
      seconds[f'OpenFlamingo, {_images(n)}'] = clock.medians(
          {'it': update}, rounds=1)['it']
  return seconds
