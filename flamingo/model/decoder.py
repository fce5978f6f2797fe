"""One layer of a decoder: self-attention and feed-forward, in every family."""

from collections.abc import Callable

from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from flamingo.model.attention import (
    attend, FeedForward, Linear, masked_softmax, Norm)
from flamingo.model.cache import Place
from flamingo.model.positions import alibi, alibi_slopes, window_mask
from flamingo.model.products import Dtype


@flax.struct.dataclass
class Beside:
  """What queries and keys of a layer have besides what is made of its input.

  The inner product of the two is added to the scores of some heads.

  Attributes:
    query: [B L R], of each new token.
    key: likewise. All key heads have it, and a cache holds it with them.
    heads: query heads that are told.
  """

  query: jax.Array
  key: jax.Array
  heads: tuple[int, ...] = flax.struct.field(pytree_node=False)

  def widen(
      self, query: Float[Array, 'b l h d'], key: Float[Array, 'b l k d'],
      scale: float,
  ) -> tuple[Float[Array, 'b l h e'], Float[Array, 'b l k e']]:
    """Both with it behind, for products that are multiplied by `scale`."""
    told = np.isin(np.arange(query.shape[2]), self.heads)[:, None]
    asked = jnp.where(told, self.query[:, :, None] / scale, 0)
    answered = jnp.broadcast_to(
        self.key[:, :, None], key.shape[:3] + self.key.shape[2:])
    return tuple(
        jnp.concatenate([x, more.astype(x.dtype)], axis=-1)
        for x, more in ((query, asked), (key, answered)))


class SelfAttention(nn.Module):
  """Causal self-attention with grouped key heads.

  Attributes:
    width: residual width D.
    heads: query heads.
    kv_heads: key and value heads.
    head_dim: width of a head.
    make_norm: a norm of a given size.
    rotate: (heads [B L H d], positions [B L]) to heads that know their place;
      None if positions come in otherwise.
    alibi_max: the steepest of ALiBi's slopes is 2 ** -(alibi_max / heads) and
      the flattest 2 ** -alibi_max; None for no such bias.
    window: tokens that a token sees, itself included; None for all before it.
    norm_heads: a norm on queries and keys: 'head' for each head by itself,
      'width' for all heads together; None for none.
    clip: queries, keys and values are cut off at this size.
    scale: of the scores; None for head_dim ** -0.5.
    use_bias: whether queries, keys and values have biases.
    out_bias: whether the output has one.
    dtype: type of matrix operands.
  """

  width: int
  heads: int
  kv_heads: int
  head_dim: int
  make_norm: Callable[[int], Norm]
  rotate: Callable | None = None
  alibi_max: float | None = None
  window: int | None = None
  norm_heads: str | None = None
  clip: float | None = None
  scale: float | None = None
  use_bias: bool = False
  out_bias: bool = False
  dtype: Dtype = jnp.float32

  def setup(self):
    if self.heads % self.kv_heads:
      raise ValueError(
          f'heads={self.heads}, which kv_heads={self.kv_heads} does not '
          'divide; each key head serves a whole group of query heads.')
    if self.norm_heads not in (None, 'head', 'width'):
      raise ValueError(
          f'norm_heads={self.norm_heads!r} is no norm of queries and keys. '
          "Choose 'head', 'width' or None.")
    if self.window is not None and self.window < 1:
      raise ValueError(
          f'window={self.window} must be at least 1: a token sees itself.')
    make = lambda heads: Linear(
        (self.width,), (heads, self.head_dim), use_bias=self.use_bias,
        dtype=self.dtype)
    self.query = make(self.heads)
    self.key = make(self.kv_heads)
    self.value = make(self.kv_heads)
    if self.norm_heads is not None:
      size = lambda heads: (
          heads * self.head_dim if self.norm_heads == 'width'
          else self.head_dim)
      self.norm_query = self.make_norm(size(self.heads))
      self.norm_key = self.make_norm(size(self.kv_heads))
    self.out = Linear(
        (self.heads, self.head_dim), (self.width,), use_bias=self.out_bias,
        dtype=self.dtype)

  def __call__(
      self, x: Float[Array, 'b l d'], place: Place, cache: tuple | None,
      beside: Beside | None = None,
  ) -> tuple[Float[Array, 'b l d'], tuple[jax.Array, jax.Array]]:
    """Returns the branch [B L D] and the keys and values [B M K d]."""
    query, key = self._query_and_key(x, place)
    if beside is not None:
      query, key = beside.widen(query, key, self._scale)
    value = self._clipped(self.value(x)).astype(self.dtype)
    if cache is not None:
      old_key, old_value, length = cache
      append = jax.lax.dynamic_update_slice_in_dim
      key = append(old_key, key, length, axis=1)
      value = append(old_value, value, length, axis=1)
    mask, bias = self._mask_and_bias(place)
    seen = attend(
        query, key, value, mask, bias, self._scale, dtype=self.dtype)
    return self.out(seen), (key, value)

  def weights(
      self, x: Float[Array, 'b l d'], place: Place
  ) -> Float[Array, 'b h l l']:
    """How much each token looks at each, in float32."""
    query, key = self._query_and_key(x, place)
    key = jnp.repeat(key, self.heads // self.kv_heads, axis=2)
    scores = self._scale * jnp.einsum(
        'blhd,bmhd->bhlm', query, key, preferred_element_type=jnp.float32)
    mask, bias = self._mask_and_bias(place)
    return masked_softmax(
        scores if bias is None else scores + bias, mask[:, None])

  @property
  def _scale(self) -> float:
    return self.head_dim**-0.5 if self.scale is None else self.scale

  def _query_and_key(self, x, place):
    return (
        self._turned(self._normed(self.query(x), 'norm_query'), place),
        self._turned(self._normed(self.key(x), 'norm_key'), place))

  def _mask_and_bias(self, place):
    mask, bias = place.mask, None
    if self.window is not None:
      mask &= window_mask(place.positions, place.key_positions, self.window)
    if self.alibi_max is not None:
      slopes = alibi_slopes(self.heads, self.alibi_max)
      bias = alibi(place.positions, place.key_positions, slopes)
    return mask, bias

  def _clipped(self, x):
    return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)

  def _normed(self, x, norm):
    x = self._clipped(x)
    if self.norm_heads is None:
      return x
    if self.norm_heads == 'head':
      return getattr(self, norm)(x)
    b, l, h, d = x.shape
    return getattr(self, norm)(x.reshape(b, l, h * d)).reshape(x.shape)

  def _turned(self, x, place):
    if self.rotate is not None:
      x = self.rotate(x, place.positions)
    return x.astype(self.dtype)


class Layer(nn.Module):
  """A decoder layer: both halves, and where their norms stand.

  Attributes:
    width: residual width D.
    attn: self-attention.
    mlp: feed-forward.
    make_norm: a norm of a given size.
    norm_first: norms stand before the halves; else after each addition to the
      residual stream, as in the first Transformer.
    norm_after: a second pair of norms stands behind the halves, before the
      addition.
    parallel: both halves read the same residual stream, and are added at once.
  """

  width: int
  attn: SelfAttention
  mlp: FeedForward
  make_norm: Callable[[int], Norm]
  norm_first: bool = True
  norm_after: bool = False
  parallel: bool = False

  def setup(self):
    if self.parallel and not self.norm_first:
      raise ValueError(
          'parallel=True needs norm_first=True: halves that are added at once '
          'have no norm between them.')
    self.attn_norm = self.make_norm(self.width)
    self.mlp_norm = self.make_norm(self.width)
    if self.norm_after:
      self.attn_after_norm = self.make_norm(self.width)
      self.mlp_after_norm = self.make_norm(self.width)

  def weights(
      self, x: Float[Array, 'b l d'], place: Place
  ) -> Float[Array, 'b h l l']:
    """What attention's weights are, of the residual stream before it."""
    return self.attn.weights(self.attn_norm(x) if self.norm_first else x, place)

  def __call__(
      self,
      x: Float[Array, 'b l d'],
      place: Place,
      cache: tuple | None = None,
      beside: Beside | None = None,
  ) -> tuple[Float[Array, 'b l d'], tuple[jax.Array, jax.Array]]:
    """Returns the residual stream [B L D] and this layer's keys and values."""
    before = lambda norm, x: norm(x) if self.norm_first else x
    after = lambda norm, x: x if self.norm_first else norm(x)
    branch, key_value = self.attn(
        before(self.attn_norm, x), place, cache, beside)
    if self.norm_after:
      branch = self.attn_after_norm(branch)
    y = after(self.attn_norm, x + branch)
    branch = self.mlp(before(self.mlp_norm, x if self.parallel else y))
    if self.norm_after:
      branch = self.mlp_after_norm(branch)
    return after(self.mlp_norm, y + branch), key_value
