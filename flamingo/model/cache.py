"""What was read before, and where new tokens stand.

Everything follows from positions, never from the slots of the cache: so a
window or a bias over distances is right under padding on either side, and where
several continuations of one prompt lie side by side.
"""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from flamingo.model.products import Dtype


@flax.struct.dataclass
class Cache:
  """Keys and values of the tokens read so far; an argument, never a state.

  New tokens are appended at slot `length`, the same for all rows; a row that is
  padded there marks the slot invalid. So prompts may be padded on either side.

  Attributes:
    keys: a tuple over layers of [B M K d], some of them wider.
    values: a tuple over layers of [B M K d].
    positions: int32 [B M], position of the token in each slot.
    valid: bool [B M], whether the slot holds a token.
    length: int32 scalar, slots used.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  positions: jax.Array
  valid: jax.Array
  length: jax.Array

  @classmethod
  def empty(
      cls, batch: int, size: int, layers: int, heads: int, head_dim: int,
      dtype: Dtype, wider: Mapping[int, int] | None = None,
  ) -> 'Cache':
    """Room for `size` tokens in each of `batch` rows.

    `wider` says by how much keys are wider, by layer.
    """
    wider = wider or {}
    zeros = lambda more: jnp.zeros(
        (batch, size, heads, head_dim + more), dtype)
    return cls(
        keys=tuple(zeros(wider.get(i, 0)) for i in range(layers)),
        values=tuple(zeros(0) for _ in range(layers)),
        positions=jnp.zeros((batch, size), jnp.int32),
        valid=jnp.zeros((batch, size), bool), length=jnp.int32(0))


def layer_of(cache: Cache | None, i: int) -> tuple | None:
  """Keys, values and length for layer `i`, or None without a cache."""
  if cache is None:
    return None
  return cache.keys[i], cache.values[i], cache.length


def causal_mask(
    positions: Int[Array, 'b l'],
    key_positions: Int[Array, 'b m'],
    key_valid: Bool[Array, 'b m'],
) -> Bool[Array, 'b l m']:
  """What each token may see: itself and the tokens before it.

  Four tokens, the first of them padding:
    0 0 0 0
    0 1 0 0
    0 1 1 0
    0 1 1 1
  """
  past = key_positions[:, None, :] <= positions[:, :, None]
  return past & key_valid[:, None, :]


@flax.struct.dataclass
class Place:
  """Where new tokens stand, and what they may look at.

  Attributes:
    positions: int32 [B L], of the new tokens.
    mask: bool [B L M], over cached and new tokens.
    key_positions: int32 [B M].
    key_valid: bool [B M].
  """

  positions: jax.Array
  mask: jax.Array
  key_positions: jax.Array
  key_valid: jax.Array

  @classmethod
  def of(
      cls,
      tokens: Int[Array, 'b l'],
      *,
      valid: Bool[Array, 'b l'] | None = None,
      positions: Int[Array, 'b l'] | None = None,
      mask: Bool[Array, 'b l m'] | None = None,
      cache: Cache | None = None,
  ) -> 'Place':
    """Fills in what is not given: no padding, next positions, causal mask.

    Raises:
      ValueError: the cache has no room for the tokens. In a compiled function,
        which does not know how many it holds, only if it never had.
    """
    if cache is not None:
      _check_room(cache, tokens.shape[1])
    if valid is None:
      valid = jnp.ones(tokens.shape, bool)
    if positions is None:
      before = 0 if cache is None else cache.valid.sum(1, keepdims=True)
      positions = jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1 + before
    if cache is None:
      key_positions, key_valid = positions, valid
    else:
      append = jax.lax.dynamic_update_slice_in_dim
      key_positions = append(cache.positions, positions, cache.length, axis=1)
      key_valid = append(cache.valid, valid, cache.length, axis=1)
    if mask is None:
      mask = causal_mask(positions, key_positions, key_valid)
    return cls(positions, mask, key_positions, key_valid)

  def appended(self, cache: Cache | None, key_values: list) -> Cache | None:
    """The cache with the new tokens in it; None if there is none."""
    if cache is None:
      return None
    return Cache(
        keys=tuple(key for key, _ in key_values),
        values=tuple(value for _, value in key_values),
        positions=self.key_positions, valid=self.key_valid,
        length=cache.length + self.positions.shape[1])


def _check_room(cache: Cache, new: int) -> None:
  size = cache.valid.shape[1]
  traced = isinstance(cache.length, jax.core.Tracer)
  used = 0 if traced else int(cache.length)
  # XLA would write over the last slots without a word.
  if used + new > size:
    raise ValueError(
        f'The cache has {size} slots, {used} of them used, and {new} more '
        'tokens came. Make a larger one with `empty_cache(batch, size)`.')
