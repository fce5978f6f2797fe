"""What is compiled: pure functions of parameters and arrays.

The states are most of what is compiled, so their shapes are kept few: what is
read off them is a function of its own.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flamingo.model.cache import Cache
from flamingo.model.flamingo import Flamingo
from flamingo.types import Params

# The latents that new text sees, one image a row, and whether it does.
Image = tuple[jax.Array, jax.Array]


def see(
    model: Flamingo, params: Params, features: Float[Array, 'n s d']
) -> Float[Array, 'n r c']:
  """Latents of images, one by one."""
  latents = model.apply(
      {'params': params}, features[:, None, None], method='see')
  return latents[:, 0]


def states(model: Flamingo, params: Params, *arrays) -> Float[Array, 'b l d']:
  """Final states of a batch; a row of the mask that is empty is padding."""
  return _read(model, params, *arrays, cache=None)[0]


def stem(model: Flamingo, params: Params, *arrays, room: int) -> Cache:
  """A cache of a batch, with room for more tokens."""
  rows, length = arrays[1].shape
  cache = model.empty_cache(rows, length + room)
  return _read(model, params, *arrays, cache=cache)[1]


def branch(
    model: Flamingo, params: Params, cache: Cache, *arrays
) -> Float[Array, 'b l d']:
  """Final states of what is behind a stem; the cache stays as it is."""
  return _read(model, params, *arrays, cache=cache)[0]


def score(
    model: Flamingo,
    params: Params,
    x: Float[Array, 'b l d'],
    nodes: Int[Array, 'b n c'],
    slots: Int[Array, 'b n q'],
    targets: Int[Array, 'b n q'],
) -> Float[Array, 'b n q']:
  """Log-probabilities of targets at the tokens `nodes[slots]`.

  A chunk of n after the other, so that there are logits [B c V] of one alone.
  """
  def read(chunk):
    nodes, slots, targets = chunk
    log_p = jax.nn.log_softmax(_logits(
        model, params, jnp.take_along_axis(x, nodes[:, :, None], axis=1)))
    return jax.vmap(lambda row, slots, targets: row[slots, targets])(
        log_p, slots, targets)

  chunks = [jnp.moveaxis(a, 1, 0) for a in (nodes, slots, targets)]
  return jnp.moveaxis(jax.lax.map(read, tuple(chunks)), 0, 1)


def prefill(
    model: Flamingo, params: Params, latents, tokens, image_index, positions,
    mask, last: Int[Array, 'b 1'], *, room: int,
) -> tuple[Float[Array, 'b v'], Cache, Image]:
  """Reads prompts: log-probabilities behind the last token, and what stays."""
  rows, length = tokens.shape
  x, cache = _read(
      model, params, latents, tokens, image_index, positions, mask,
      cache=model.empty_cache(rows, length + room))
  x = jnp.take_along_axis(x, last[:, :, None], axis=1)[:, 0]
  # New text sees what the last token saw, so one image a row is all it needs.
  index = jnp.take_along_axis(image_index, last, axis=1)
  seen = jnp.take_along_axis(
      latents, jnp.maximum(index - 1, 0)[:, :, None, None], axis=1)
  image = seen, jnp.minimum(index, 1)
  return jax.nn.log_softmax(_logits(model, params, x)), cache, image


def step(
    model: Flamingo, params: Params, image: Image, tokens: Int[Array, 'b 1'],
    cache: Cache,
) -> tuple[Float[Array, 'b v'], Cache]:
  """Log-probabilities behind one more token of each row."""
  latents, image_index = image
  x, cache = model.apply(
      {'params': params}, latents, tokens, image_index, cache=cache,
      method='read')
  return jax.nn.log_softmax(_logits(model, params, x[:, 0])), cache


def reorder(tree, parents: Int[Array, 'b w']):
  """Rows [B W ...] of hypotheses that extend old ones of the same prompt.

  Args:
    tree: of arrays [B * W', ...], and scalars.
    parents: of each new hypothesis the old one, from 0 to W' - 1.
  """
  rows, width = parents.shape

  def take(leaf):
    if not leaf.ndim:
      return leaf
    grouped = leaf.reshape((rows, -1) + leaf.shape[1:])
    # A prompt's rows stay where they are, on whatever device.
    taken = jax.vmap(lambda some, parents: some[parents])(grouped, parents)
    return taken.reshape((rows * width,) + leaf.shape[1:])

  return jax.tree.map(take, tree)


def _logits(model, params, x):
  return model.apply({'params': params}, x, method='logits')


def _read(model, params, latents, tokens, image_index, positions, mask, cache):
  valid = jnp.any(mask, axis=2)
  if cache is not None:
    room = cache.valid.shape[1] - mask.shape[2]
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, room)))
  return model.apply(
      {'params': params}, latents, tokens, image_index, positions=positions,
      mask=mask, valid=valid, cache=cache, method='read')
