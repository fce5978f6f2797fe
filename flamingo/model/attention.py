"""The primitives of every block: projections, norms, attention, feed-forward.

Matrix products take operands in the module's `dtype` and add up in float32,
which is faster and more exact than low-precision sums (`products.project`). The
residual stream stays in float32 throughout.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import numpy as np

from flamingo.model import fused
from flamingo.model import rounded
from flamingo.model.products import Dtype, project


class Linear(nn.Module):
  """A projection from the last `len(inputs)` axes to `outputs` axes.

  Attributes:
    inputs: sizes of the axes that are contracted.
    outputs: sizes of the axes that are made.
    use_bias: whether to add a bias.
    scale: standard deviation of the initial kernel is `scale / sqrt(fan_in)`.
    dtype: type of the operands; the result is float32.
  """

  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  use_bias: bool = False
  scale: float = 1.0
  dtype: Dtype = jnp.float32

  def setup(self):
    fan_in = int(np.prod(self.inputs))
    self.kernel = self.param(
        'kernel', nn.initializers.normal(self.scale / fan_in**0.5),
        self.inputs + self.outputs)
    if self.use_bias:
      self.bias = self.param('bias', nn.initializers.zeros, self.outputs)

  def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
    """Maps [*b, *inputs] to [*b, *outputs]."""
    fan_in, fan_out = int(np.prod(self.inputs)), int(np.prod(self.outputs))
    batch = x.shape[: x.ndim - len(self.inputs)]
    y = project(
        x.reshape(batch + (fan_in,)), self.kernel.reshape(fan_in, fan_out),
        self.dtype)
    y = y.reshape(batch + self.outputs)
    if self.use_bias:
      y = y + jnp.broadcast_to(self.bias.astype(jnp.float32), y.shape)
    return y


class Norm(nn.Module):
  """LayerNorm or RMSNorm over the last axis, computed in float32.

  Attributes:
    size: width of the last axis.
    kind: 'layer' (mean and variance) or 'rms' (root mean square only).
    use_bias: whether a LayerNorm has an offset.
    eps: added to the variance. PyTorch's LayerNorm has 1e-5, Flax's 1e-6.
    plus_one: multiplies by 1 + scale, with a scale that begins at 0 (Gemma).
  """

  size: int
  kind: str = 'layer'
  use_bias: bool = True
  eps: float = 1e-5
  plus_one: bool = False

  def setup(self):
    if self.kind not in ('layer', 'rms'):
      raise ValueError(
          f"kind={self.kind!r} is no kind of norm. Choose 'layer' or 'rms'.")
    start = nn.initializers.constant(0.0 if self.plus_one else 1.0)
    self.scale = self.param('scale', start, (self.size,))
    if self.kind == 'layer' and self.use_bias:
      self.bias = self.param('bias', nn.initializers.zeros, (self.size,))

  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
    x = standardize(x, self.kind, self.eps)
    scale = self.scale.astype(jnp.float32)
    scale = scale + 1 if self.plus_one else scale
    x = x * jnp.broadcast_to(scale, x.shape)
    if self.kind == 'layer' and self.use_bias:
      x = x + jnp.broadcast_to(self.bias.astype(jnp.float32), x.shape)
    return x


def standardize(
    x: Float[Array, '*b d'], kind: str = 'layer', eps: float = 1e-5
) -> Float[Array, '*b d']:
  """What `Norm` does before its parameters come in."""
  x = x.astype(jnp.float32)
  if kind == 'layer':
    x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps)


def attend(
    query: Float[Array, 'b l h d'],
    key: Float[Array, 'b m k d'],
    value: Float[Array, 'b m k e'],
    mask: Bool[Array, 'b l m'] | None = None,
    bias: Float[Array, 'b h l m'] | None = None,
    scale: float | None = None,
    dtype: Dtype = jnp.float32,
) -> Float[Array, 'b l h e']:
  """Attention in which a query that may look at nothing returns zero.

  Queries are scaled by `scale`, or d ** -0.5. With fewer key heads than query
  heads, each key head serves a group of them (grouped-query attention). With
  dtype=bfloat16 one GPU (`fused`) or one CPU (`rounded`) may do all of it in
  that; others take operands as they come.
  """
  b, l, h, d = query.shape
  scale = d**-0.5 if scale is None else scale
  if bias is None and dtype == jnp.bfloat16:
    if fused.has_kernel(query, key, value):
      return fused.attend_fused(query, key, value, mask, scale)
    if rounded.is_faster(dtype):
      return rounded.attend_rounded(query, key, value, mask, scale)
  k = key.shape[2]
  query = query.reshape(b, l, k, h // k, d) * scale
  scores = jnp.einsum(
      'blkgd,bmkd->bkglm', query, key, preferred_element_type=jnp.float32)
  if bias is not None:
    scores = scores + bias.reshape(b, k, h // k, l, -1)
  if mask is None:
    weights = jax.nn.softmax(scores)
  else:
    weights = masked_softmax(scores, mask[:, None, None])
  out = jnp.einsum(
      'bkglm,bmkd->blkgd', weights.astype(value.dtype), value,
      preferred_element_type=jnp.float32)
  return out.reshape(b, l, h, -1)


def masked_softmax(
    scores: Float[Array, '*b l m'], mask: Bool[Array, '*#b l m']
) -> Float[Array, '*b l m']:
  """Softmax over the allowed keys; all zero where no key is allowed."""
  mask = jnp.broadcast_to(mask, scores.shape)
  lowest = jnp.finfo(scores.dtype).min
  weights = jax.nn.softmax(jnp.where(mask, scores, lowest))
  # A row of nothing but `lowest` would come out uniform: the leak through which
  # IDEFICS let text before the first image see every image.
  return jnp.where(mask, weights, 0)


def squared_relu(x: Float[Array, '*b d']) -> Float[Array, '*b d']:
  """max(0, x) squared: the activation of Flamingo's new layers (Table 4)."""
  return jnp.square(jax.nn.relu(x))


def quick_gelu(x: Float[Array, '*b d']) -> Float[Array, '*b d']:
  """x times sigmoid(1.702 x): OpenAI's stand-in for GELU, in its CLIP."""
  return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable] = {
    'squared_relu': squared_relu,
    'relu': jax.nn.relu,
    'silu': jax.nn.silu,
    'gelu': functools.partial(jax.nn.gelu, approximate=False),
    'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
    'quick_gelu': quick_gelu,
}


class FeedForward(nn.Module):
  """Two projections with an activation between, or three in the gated form.

  Attributes:
    width: size of input and output.
    hidden: size between.
    activation: a name in `ACTIVATIONS`.
    gated: act(gate(x)) * up(x), as in SwiGLU; else act(up(x)).
    use_bias: whether the projections have biases.
    out_scale: scale of the last projection's initial kernel.
    dtype: type of matrix operands.
  """

  width: int
  hidden: int
  activation: str = 'squared_relu'
  gated: bool = False
  use_bias: bool = False
  out_scale: float = 1.0
  dtype: Dtype = jnp.float32

  def setup(self):
    if self.activation not in ACTIVATIONS:
      raise ValueError(
          f'activation={self.activation!r} is not known. Choose one of '
          f'{sorted(ACTIVATIONS)}.')
    wide = dict(use_bias=self.use_bias, dtype=self.dtype)
    if self.gated:
      self.gate = Linear((self.width,), (self.hidden,), **wide)
    self.up = Linear((self.width,), (self.hidden,), **wide)
    self.down = Linear(
        (self.hidden,), (self.width,), scale=self.out_scale, **wide)

  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
    act = ACTIVATIONS[self.activation]
    hidden = act(self.gate(x)) * self.up(x) if self.gated else act(self.up(x))
    return self.down(hidden)
