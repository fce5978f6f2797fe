"""A tiny Flamingo, and batches of three datasets for it; sizes are prime."""

from flamingo.model.flamingo import Flamingo
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.types import Batch
import jax
import jax.numpy as jnp
import numpy as np

VOCAB = 31
WEIGHTS = {'pages': 1.0, 'captions': 0.2, 'clips': 0.03}  # the paper's


def make_model():
  return Flamingo(
      lm=LM(
          vocab_size=VOCAB, width=11, layers=1, heads=2, kv_heads=1, head_dim=4,
          hidden=17),
      resampler=PerceiverResampler(
          visual_width=13, width=13, layers=1, latents=3, heads=1, head_dim=7,
          ff_hidden=19, frames=2),
      xattn=(GatedCrossAttention(
          width=11, visual_width=13, heads=1, head_dim=7, ff_hidden=19),))


def make_batch(seed, rows, length, images, frames, learnt=0.5):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, VOCAB + 2, (rows, length + 1))
  index = np.sort(rng.integers(0, images + 1, (rows, length)), axis=1)
  return jax.tree.map(jnp.asarray, Batch(
      images=rng.normal(
          size=(rows, images, frames, 5, 13)).astype(np.float32),
      tokens=tokens[:, :-1], image_index=index, targets=tokens[:, 1:],
      loss_mask=rng.random((rows, length)) < learnt))


def make_batches(times=1):
  """Two datasets of one shape and one of another, of `times` the rows."""
  pages = dict(length=7, images=2, frames=1)
  return {
      'pages': make_batch(0, rows=2 * times, **pages),
      'captions': make_batch(1, rows=2 * times, learnt=0.9, **pages),
      'clips': make_batch(2, rows=2 * times, length=5, images=1, frames=2)}
