"""Models of any shape with made-up weights, and batches to train them on.

How long a product takes depends on its shape, not on what is in it: so a slice
of the 3B model needs no weights that were never released.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flamingo import params as params_lib
from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.train import step as step_lib
from flamingo.train.optimizer import make_optimizer
from flamingo.types import Batch, Params, TrainState

# Arguments of `LM` for SmolLM2-135M.
SMOLLM2 = dict(
    vocab_size=49_152, width=576, layers=30, heads=9, kv_heads=3, head_dim=64,
    hidden=1536, rope_base=100_000.0)
# What of OpenFlamingo is the same in all sizes: heads of 64, GELU.
_OPENFLAMINGO = dict(heads=8, head_dim=64, activation='gelu')


def openflamingo_like(
    lm: dict,
    *,
    every: int,
    visual_width: int,
    resampler_layers: int = 6,
    latents: int = 64,
    dtype=jnp.bfloat16,
) -> Flamingo:
  """Ours, in the architecture of OpenFlamingo (Awadalla et al., 2023).

  Args:
    lm: arguments of `LM`.
    every: a gated block stands before the last of every so many layers.
    visual_width: of the features, and of its resampler.
    resampler_layers: its resampler's depth; it knows no other than 6.
    latents: of an image; it knows no other number than 64.
    dtype: of matrix operands.
  """
  offset = every - 1
  block = GatedCrossAttention(
      width=lm['width'], visual_width=visual_width, ff_hidden=4 * lm['width'],
      norm_visual=False, dtype=dtype, **_OPENFLAMINGO)
  return Flamingo(
      lm=LM(**lm, dtype=dtype),
      resampler=PerceiverResampler(
          visual_width=visual_width, width=visual_width,
          layers=resampler_layers, latents=latents,
          ff_hidden=4 * visual_width, frames=0, dtype=dtype, **_OPENFLAMINGO),
      xattn=tuple(
          block.clone() for _ in gated_layers(lm['layers'], every, offset)),
      every=every, offset=offset)


def make_params(model: Flamingo, image_shape: tuple[int, ...]) -> Params:
  """Small noise in every matrix, ones in norms, gates a little open.

  Args:
    model: whose parameters they are; the frozen ones in its `dtype`.
    image_shape: [T S D] of features.
  """
  images = jax.ShapeDtypeStruct((1, 1, *image_shape), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images, tokens, tokens)
  # The same 64k numbers over and over: billions take a while to draw.
  noise = np.random.default_rng(0).normal(scale=0.02, size=1 << 16)
  noise = noise.astype(np.float32)

  def fill(path, leaf):
    if path[-1] == 'scale':
      value = np.ones(leaf.shape, np.float32)
    elif path[-1].endswith('_gate'):
      value = np.full(leaf.shape, 0.1, np.float32)
    else:
      value = np.resize(noise, leaf.shape)
    kept = leaf.dtype if params_lib.is_trainable(path) else model.lm.dtype
    return jnp.asarray(value, kept)

  return params_lib.unflatten(
      (path, fill(path, leaf))
      for path, leaf in params_lib.flatten(shapes['params']))


def make_batch(
    rows: int, length: int, images: int, image_shape: tuple[int, ...],
    vocab_size: int,
) -> Batch:
  """Random pages: images evenly over the text, everything but tags learnt.

  The first new token, number `vocab_size`, is the image tag.
  """
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, vocab_size, (rows, length + 1), dtype=np.int32)
  tags = np.linspace(0, length, images, endpoint=False).astype(int)
  if len(set(tags)) < images:
    raise ValueError(
        f'{images} images do not go into {length} tokens, one tag each. Take '
        'fewer, or a longer text.')
  tokens[:, tags] = vocab_size
  index = np.cumsum(tokens == vocab_size, axis=1).astype(np.int32)
  noise = rng.normal(size=(1, 1, *image_shape)).astype(np.float32)
  scale = 1 + np.arange(rows * images, dtype=np.float32) / 64
  features = noise * scale.reshape(rows, images, *[1] * len(image_shape))
  return Batch(
      images=features, tokens=tokens[:, :-1], image_index=index[:, :-1],
      targets=tokens[:, 1:], loss_mask=tokens[:, 1:] != vocab_size)


class Training:
  """An update with its state, to be called again and again.

  Attributes:
    model: what is trained.
    state: after the updates so far.
    batches: one for each dataset; every update is on the same.
    optimizer: of the paper.

  Args:
    model: the network.
    params: all of them; the state takes them over.
    batches: one for each dataset.
    weights: lambda of each dataset; by default 1.
    optimizer: by default the paper's AdamW.
    trains: whether a path's parameter is trained; by default as in the paper.
  """

  def __init__(
      self, model: Flamingo, params: Params, batches: dict[str, Batch],
      weights: dict[str, float] | None = None, optimizer=None,
      trains: Callable[[params_lib.Path], bool] = params_lib.is_trainable,
  ):
    self.model = model
    self.batches = jax.tree.map(jnp.asarray, batches)
    self.optimizer = optimizer or make_optimizer(steps=1000)
    trainable, frozen = params_lib.split(params, trains)
    self.state = TrainState(
        step=jnp.int32(0), trainable=trainable, frozen=frozen,
        opt_state=self.optimizer.init(trainable))
    weights = weights or dict.fromkeys(batches, 1.0)
    self.jitted = jax.jit(
        step_lib.make_train_step(model, self.optimizer, weights),
        donate_argnums=0)

  def __call__(self, batches: dict[str, Batch] | None = None) -> jax.Array:
    """One update; returns its loss, which is there when the update is done."""
    self.state, metrics = self.jitted(
        self.state, self.batches if batches is None else batches)
    # The optimizer's part ends after the loss is known.
    jax.block_until_ready(self.state)
    return metrics['loss']

  @property
  def params(self) -> Params:
    """All parameters as they are now."""
    return params_lib.merge(self.state.trainable, self.state.frozen)
