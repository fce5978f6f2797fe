"""Our update against OpenFlamingo's: equal work, and as a user runs them.

Equal work: the same architecture (SmolLM2-135M's layers, OpenFlamingo's blocks
before every third and its resampler), the same batch, features given to both,
the rows of new tokens frozen in both. As a user runs them: OpenFlamingo's
vision encoder (a ViT-L/14) encodes every image in every step, ours reads
features from the cache on disk, and new tokens train, as is the default of
both. Each side has a process of its own.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from experiments.bench import clock
from experiments.bench import peer_needs
from experiments.bench.apart import apart
from experiments.bench.made import (
    make_batch, make_params, openflamingo_like, SMOLLM2, Training)
from experiments.bench.quickstart import Quickstart
from experiments.bench.result import Ratio, result
from flamingo import hardware
from flamingo import params as params_lib
from flamingo.types import Batch

ABOUT = "An update against OpenFlamingo's: equal work, and as a user runs them"
COST = 686
DTYPES = ('bfloat16', 'float32')


@dataclasses.dataclass(frozen=True)
class Work:
  """What both sides do in an update.

  Attributes:
    lm: arguments of `LM` for a model of the llama family.
    every: LM layers a gated block.
    rows: of a batch.
    length: tokens of a row.
    images: of a row.
    places: features of an image.
    visual_width: of its features.
    pixels: of a side of a picture, for OpenFlamingo's vision encoder.
    vit: what of that encoder is to be smaller, for a test.
  """

  lm: Mapping[str, object]
  every: int
  rows: int
  length: int
  images: int
  places: int = 256
  visual_width: int = 1024
  pixels: int = 224
  vit: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """[T S D] of an image's features."""
    return (1, self.places, self.visual_width)

  def batch(self) -> Batch:
    """The batch that every update is on."""
    return make_batch(
        self.rows, self.length, self.images, self.image_shape,
        self.lm['vocab_size'])


def run(quickstart: Quickstart) -> dict:
  """Rows of 256 tokens with 6 images: what OpenFlamingo trains on (MMC4)."""
  del quickstart
  peer_needs.check()  # says what is missing before minutes have passed
  return measure(Work(SMOLLM2, every=3, rows=4, length=256, images=6))


def measure(work: Work, *, rounds: int = 5, limit: float = 60.0) -> dict:
  """Times updates in turns, each side at the best of its types and threads.

  Args:
    work: what is done.
    rounds: updates timed on each side.
    limit: seconds, see `clock.in_turns`.
  """
  ours = {dtype: _alone(our_update, work, dtype) for dtype in DTYPES}
  dtype = min(ours, key=ours.get)
  cores = clock.cores()
  theirs = {
      (precision, threads): _alone(their_update, work, precision, threads)
      for precision in peer_needs.PRECISIONS
      for threads in sorted({max(1, cores // 2), cores})}
  precision, threads = min(theirs, key=theirs.get)
  in_turns = functools.partial(_in_turns, rounds=rounds, limit=limit)
  times = in_turns({
      'ours': (our_update, work, dtype),
      'OpenFlamingo': (their_update, work, precision, threads)})
  times |= in_turns({
      'ours, from the feature cache': (our_update_from_cache, work, dtype),
      'OpenFlamingo, encoding': (
          their_update_with_encoding, work, precision, threads)})
  times |= {f'ours, {k}, first look': v for k, v in ours.items()}
  times |= {
      f'OpenFlamingo, {kind}, {n} thread{"s" * (n > 1)}, first look': v
      for (kind, n), v in theirs.items()}
  return result(
      times,
      [Ratio('equal work', 'OpenFlamingo', 'ours', 1.0),
       Ratio('equal work, towards the goal', 'OpenFlamingo', 'ours', 1.2),
       Ratio('as a user runs it', 'OpenFlamingo, encoding',
             'ours, from the feature cache', 3.0)],
      {'rows': work.rows, 'length': work.length, 'images': work.images,
       'places': work.places, 'ours': dtype, 'OpenFlamingo': precision,
       'threads': {'ours': cores, 'OpenFlamingo': threads}},
      ['Each side has a process of its own.',
       'Neither side reads or decodes pictures: OpenFlamingo gets pixels in '
       'memory, ours features from a file that was just written.',
       'In equal work the rows of new tokens are frozen on both sides '
       '(--freeze_lm_embeddings, with which OpenFlamingo is faster); as a user '
       'runs them, they train.'])


def _alone(make: Callable, *args) -> float:
  """Seconds of an update while nothing else runs, at a first look."""
  with apart(make, *args) as update:
    return clock.medians({'it': update}, rounds=2)['it']


def _in_turns(sides: Mapping[str, tuple], **how) -> dict[str, float]:
  """The medians of updates by name, each in its process, in turns."""
  with contextlib.ExitStack() as stack:
    return clock.medians(
        {name: stack.enter_context(apart(*side))
         for name, side in sides.items()}, **how)


def our_update(work: Work, dtype: str) -> Training:
  """Ours with features given and the rows of new tokens frozen."""
  return _training(
      work, dtype, lambda path: params_lib.is_trainable(path)
      and path != ('new_embedding',))


def our_update_from_cache(work: Work, dtype: str) -> Callable:
  """Ours with its features read from a file, as a training has them."""
  training, batch = _training(work, dtype), work.batch()
  file = tempfile.TemporaryFile()
  np.asarray(batch.images, ml_dtypes.bfloat16).tofile(file)

  def update():
    file.seek(0)
    features = np.fromfile(file, ml_dtypes.bfloat16)
    features = features.astype(np.float32).reshape(batch.images.shape)
    return training({'pages': jax.tree.map(
        jnp.asarray, batch.replace(images=features))})

  return update


def _training(
    work: Work, dtype: str, trains: Callable = params_lib.is_trainable
) -> Training:
  hardware.keep_memory()  # as training does
  model = openflamingo_like(
      dict(work.lm), every=work.every, visual_width=work.visual_width,
      dtype=jnp.dtype(dtype).type)
  return Training(
      model, make_params(model, work.image_shape), {'pages': work.batch()},
      trains=trains)


def their_update(work: Work, precision: str, threads: int) -> Callable:
  """OpenFlamingo's with features given and the vocabulary frozen."""
  of = peer_needs.load()
  of.torch.set_num_threads(threads)
  return of.Update(
      _openflamingo(work, of, of.Given()), work.batch(), precision=precision,
      freeze_embedding=True)


def their_update_with_encoding(
    work: Work, precision: str, threads: int
) -> Callable:
  """OpenFlamingo's as it comes: its encoder runs, its new tokens train."""
  of = peer_needs.load()
  of.torch.set_num_threads(threads)
  return of.Update(
      _openflamingo(work, of, of.ViTL14(**work.vit)), work.batch(),
      precision=precision, freeze_embedding=False, pixels=work.pixels)


def _openflamingo(work, of, encoder):
  return of.build(
      work.lm, every=work.every, visual_width=work.visual_width,
      encoder=encoder)
