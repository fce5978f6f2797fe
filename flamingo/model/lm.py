"""A decoder-only language model; the families are settings of its attributes.

The frozen half of Flamingo. `Flamingo` owns the loop over layers, so what it
needs stands here as parts: `embed`, `layer[i]`, `final_norm`, `logits`.
"""

from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flamingo.model.attention import (
    attend, Dtype, FeedForward, Linear, Norm, project, rotate)


@flax.struct.dataclass
class Cache:
  """Keys and values of the tokens read so far; an argument, never a state.

  New tokens are appended at slot `length`, the same for all rows; a row that is
  padded there marks the slot invalid. So prompts may be padded on either side.

  Attributes:
    keys: a tuple over layers of [B M K d].
    values: likewise.
    positions: int32 [B M], position of the token in each slot.
    valid: bool [B M], whether the slot holds a token.
    length: int32 scalar, slots used.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  positions: jax.Array
  valid: jax.Array
  length: jax.Array


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


class SelfAttention(nn.Module):
  """Causal self-attention with rotary positions and grouped key heads."""

  width: int
  heads: int
  kv_heads: int
  head_dim: int
  rope_base: float
  dtype: Dtype

  def setup(self):
    make = lambda heads: Linear(
        (self.width,), (heads, self.head_dim), dtype=self.dtype)
    self.query = make(self.heads)
    self.key = make(self.kv_heads)
    self.value = make(self.kv_heads)
    self.out = Linear(
        (self.heads, self.head_dim), (self.width,), dtype=self.dtype)

  def __call__(self, x, positions, mask, cache):
    """Returns the branch [B L D] and the keys and values [B M K d]."""
    query = rotate(self.query(x), positions, self.rope_base).astype(self.dtype)
    key = rotate(self.key(x), positions, self.rope_base).astype(self.dtype)
    value = self.value(x).astype(self.dtype)
    if cache is not None:
      old_key, old_value, length = cache
      append = jax.lax.dynamic_update_slice_in_dim
      key = append(old_key, key, length, axis=1)
      value = append(old_value, value, length, axis=1)
    return self.out(attend(query, key, value, mask)), (key, value)


class Layer(nn.Module):
  """One pre-norm decoder layer."""

  width: int
  heads: int
  kv_heads: int
  head_dim: int
  hidden: int
  rope_base: float
  norm_eps: float
  activation: str
  gated_ff: bool
  dtype: Dtype

  def setup(self):
    self.attn_norm = Norm(self.width, kind='rms', eps=self.norm_eps)
    self.attn = SelfAttention(
        self.width, self.heads, self.kv_heads, self.head_dim, self.rope_base,
        self.dtype)
    self.mlp_norm = Norm(self.width, kind='rms', eps=self.norm_eps)
    self.mlp = FeedForward(
        self.width, self.hidden, self.activation, self.gated_ff,
        dtype=self.dtype)

  def __call__(self, x, positions, mask, cache=None):
    """Returns the residual stream [B L D] and this layer's keys and values."""
    branch, key_value = self.attn(self.attn_norm(x), positions, mask, cache)
    x = x + branch
    return x + self.mlp(self.mlp_norm(x)), key_value


class Embedding(nn.Module):
  """A table of rows, one a token."""

  size: int
  width: int

  def setup(self):
    self.embedding = self.param(
        'embedding', nn.initializers.normal(0.02), (self.size, self.width))

  def __call__(self, tokens: Int[Array, 'b l']) -> Float[Array, 'b l d']:
    return self.embedding[tokens].astype(jnp.float32)

  def attend(
      self, x: Float[Array, '*b d'], dtype: Dtype
  ) -> Float[Array, '*b v']:
    """Inner product of `x` with every row."""
    return project(x, self.embedding.T, dtype)


class LM(nn.Module):
  """A llama-family decoder.

  Attributes:
    vocab_size: rows of the pretrained embedding; new tokens are not among them.
    width: residual width D.
    layers: depth.
    heads: query heads.
    kv_heads: key and value heads.
    head_dim: width of a head.
    hidden: feed-forward width.
    rope_base: base of the rotary embedding.
    norm_eps: epsilon of the RMS norms.
    activation: of the feed-forward, a name in `attention.ACTIVATIONS`.
    gated_ff: whether the feed-forward is act(gate(x)) * up(x).
    tied: whether the output projection is the embedding.
    dtype: type of matrix operands; sums and the residual stream are float32.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  hidden: int
  rope_base: float = 10_000.0
  norm_eps: float = 1e-5
  activation: str = 'silu'
  gated_ff: bool = True
  tied: bool = True
  dtype: Dtype = jnp.float32

  def setup(self):
    if self.heads % self.kv_heads:
      raise ValueError(
          f'LM has heads={self.heads}, which kv_heads={self.kv_heads} does not '
          'divide; each key head serves a whole group of query heads.')
    self.embed = Embedding(self.vocab_size, self.width)
    self.layer = [
        Layer(
            self.width, self.heads, self.kv_heads, self.head_dim, self.hidden,
            self.rope_base, self.norm_eps, self.activation, self.gated_ff,
            self.dtype)
        for _ in range(self.layers)
    ]
    self.final_norm = Norm(self.width, kind='rms', eps=self.norm_eps)
    if not self.tied:
      self.unembed = Linear(
          (self.width,), (self.vocab_size,), dtype=self.dtype)

  def logits(self, x: Float[Array, '*b d']) -> Float[Array, '*b v']:
    """Logits over the pretrained vocabulary, of normed states."""
    if self.tied:
      return self.embed.attend(x, self.dtype)
    return self.unembed(x)

  def __call__(
      self,
      tokens: Int[Array, 'b l'],
      *,
      valid: Bool[Array, 'b l'] | None = None,
      cache: Cache | None = None,
  ) -> tuple[Float[Array, 'b l v'], Cache | None]:
    """The bare language model.

    Args:
      tokens: what is read.
      valid: False where a token is padding, on either side.
      cache: what was read before, to be continued.

    Returns:
      Logits, and the cache with these tokens in it, if one was given.
    """
    place = Place.of(tokens, valid=valid, cache=cache)
    x = self.embed(tokens)
    key_values = []
    for i, layer in enumerate(self.layer):
      x, key_value = layer(x, place.positions, place.mask, layer_of(cache, i))
      key_values.append(key_value)
    return self.logits(self.final_norm(x)), place.appended(cache, key_values)

  def residual_rms(self, tokens: Int[Array, 'b l']) -> Float[Array, 'n b l']:
    """Root mean square of the residual stream before each layer.

    It can grow a hundredfold with depth, which a branch added to it must know.
    """
    place = Place.of(tokens)
    x, sizes = self.embed(tokens), []
    for layer in self.layer:
      sizes.append(jnp.sqrt((x * x).mean(-1)))
      x, _ = layer(x, place.positions, place.mask)
    return jnp.stack(sizes)

  def empty_cache(self, batch: int, size: int) -> Cache:
    """A cache with room for `size` tokens in each of `batch` rows."""
    shape = (batch, size, self.kv_heads, self.head_dim)
    zeros = tuple(jnp.zeros(shape, self.dtype) for _ in range(self.layers))
    return Cache(
        keys=zeros, values=zeros,
        positions=jnp.zeros((batch, size), jnp.int32),
        valid=jnp.zeros((batch, size), bool), length=jnp.int32(0))


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
    """Fills in what is not given: no padding, next positions, causal mask."""
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


def layer_of(cache: Cache | None, i: int) -> tuple | None:
  """Keys, values and length for layer `i`, or None without a cache."""
  if cache is None:
    return None
  return cache.keys[i], cache.values[i], cache.length
