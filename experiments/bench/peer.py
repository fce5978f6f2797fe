"""Our update against OpenFlamingo's: equal work, and as a user runs them.

Equal work: the same architecture (SmolLM2-135M's layers, OpenFlamingo's blocks
before every third and its resampler), the same batch, features given to both;
OpenFlamingo spared the rows of its new tokens. As a user runs them: its vision
encoder (a ViT-L/14) encodes every image in every step and its new tokens train,
as is its default; ours reads features from the cache on disk.
"""

from collections.abc import Mapping
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from experiments.bench import clock
from experiments.bench import peer_needs
from experiments.bench.made import (
    make_batch, make_params, openflamingo_like, SMOLLM2, Training)
from experiments.bench.quickstart import Quickstart
from experiments.bench.result import Ratio, result

ABOUT = "An update against OpenFlamingo's: equal work, and as a user runs them"
COST = 434
DTYPES = ('bfloat16', 'float32')


def run(quickstart: Quickstart) -> dict:
  """Rows of 256 tokens with 6 images: what OpenFlamingo trains on (MMC4)."""
  del quickstart
  peer_needs.load()  # says what is missing before minutes have passed
  return measure(SMOLLM2, every=3, rows=4, length=256, images=6)


def measure(
    lm: Mapping[str, object], *, every: int, rows: int, length: int,
    images: int, places: int = 256, visual_width: int = 1024, pixels: int = 224,
    vit: Mapping[str, int] | None = None, rounds: int = 5, limit: float = 60.0,
) -> dict:
  """Times updates in turns, each side at the best of its types and threads.

  Args:
    lm: arguments of `LM` for a model of the llama family.
    every: LM layers a gated block.
    rows: of a batch.
    length: tokens of a row.
    images: of a row.
    places: features of an image.
    visual_width: of its features.
    pixels: of a side of a picture, for OpenFlamingo's vision encoder.
    vit: what of that encoder is to be smaller, for a test.
    rounds: updates timed on each side.
    limit: seconds, see `clock.in_turns`.
  """
  of = peer_needs.load()
  shape = (1, places, visual_width)
  batch = make_batch(rows, length, images, shape, lm['vocab_size'])
  ours = {
      dtype: _training(lm, every, batch, shape, dtype) for dtype in DTYPES}
  ours_first = clock.medians(ours, rounds=2)
  best = min(ours_first, key=ours_first.get)
  training = ours[best]
  del ours

  make = lambda encoder, **how: of.Update(
      of.build(lm, every=every, visual_width=visual_width, encoder=encoder),
      batch, **how)
  tried = _try_peer(
      of, lambda precision: make(
          of.Given(), precision=precision, freeze_embedding=True))
  (precision, threads) = min(tried, key=tried.get)
  with of.threads(threads):
    equal = make(of.Given(), precision=precision, freeze_embedding=True)
    times = clock.medians(
        {'ours': training, 'OpenFlamingo': equal}, rounds=rounds, limit=limit)
    del equal
    encoder = of.ViTL14(**(vit or {}))
    user = make(
        encoder, precision=precision, freeze_embedding=False, pixels=pixels)
    with tempfile.TemporaryDirectory() as directory:
      cached = _from_cache(training, batch, directory)
      as_user = clock.medians(
          {'ours, from the feature cache': cached,
           'OpenFlamingo, encoding': user}, rounds=max(1, rounds - 2),
          limit=limit)
  kinds = {f'ours, {k}, first look': v for k, v in ours_first.items()}
  kinds |= {
      f'OpenFlamingo, {kind}, {n} thread{"s" * (n > 1)}, first look': v
      for (kind, n), v in tried.items()}
  return result(
      times | as_user | kinds,
      [Ratio('equal work', 'OpenFlamingo', 'ours', 1.0),
       Ratio('equal work, towards the goal', 'OpenFlamingo', 'ours', 1.2),
       Ratio('as a user runs it', 'OpenFlamingo, encoding',
             'ours, from the feature cache', 3.0)],
      {'rows': rows, 'length': length, 'images': images, 'places': places,
       'ours': best, 'OpenFlamingo': precision,
       'threads': {'ours': clock.cores(), 'OpenFlamingo': threads}},
      ['Neither side reads or decodes pictures: OpenFlamingo gets pixels in '
       'memory, ours features from a file that was just written.',
       'In equal work OpenFlamingo runs with --freeze_lm_embeddings, which is '
       'the faster way for it; ours trains its two rows.'])


def _training(lm, every, batch, shape, dtype) -> Training:
  model = openflamingo_like(
      dict(lm), every=every, visual_width=shape[-1],
      dtype=jnp.dtype(dtype).type)
  return Training(model, make_params(model, shape), {'pages': batch})


def _try_peer(of, make) -> dict[tuple[str, int], float]:
  """Seconds of an update by (precision, threads)."""
  all_cores = clock.cores()
  times = {}
  for precision in of.PRECISIONS:
    update = make(precision)
    for threads in sorted({max(1, all_cores // 2), all_cores}):
      with of.threads(threads):
        times[precision, threads] = clock.medians(
            {'it': update}, rounds=1)['it']
  return times


def _from_cache(training: Training, batch, directory: str):
  """The update with its features read from a file, as a training has them."""
  path = pathlib.Path(directory) / 'features'
  np.asarray(batch.images, ml_dtypes.bfloat16).tofile(path)
  shape = batch.images.shape

  def update():
    features = np.fromfile(path, ml_dtypes.bfloat16).reshape(shape)
    return training({'pages': jax.tree.map(
        jnp.asarray, batch.replace(images=features.astype(np.float32)))})

  return update
