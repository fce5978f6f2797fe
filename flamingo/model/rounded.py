"""Attention whose products have bfloat16 operands both ways, on one CPU.

A CPU multiplies bfloat16 several times as fast as float32. But JAX's
derivatives of einsum multiply float32 cotangents, and XLA turns arrays of
scores round and widens operands that do not lie as its kernels want them. Here
operands are laid out first (see `products`), and the backward pass is
FlashAttention's (Dao et al., 2022, appendix B.4), which goes over the scores
once less.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flamingo.model.products import Dtype, laid_out, on_one_cpu

_HALF = jnp.bfloat16


def is_faster(dtype: Dtype) -> bool:
  """Whether operands are to be `dtype` on a machine this module is for."""
  return dtype == _HALF and on_one_cpu()


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend_rounded(
    query: Float[Array, 'b l h d'],
    key: Float[Array, 'b m k d'],
    value: Float[Array, 'b m k e'],
    mask: Bool[Array, 'b l m'] | None,
    scale: float,
) -> Float[Array, 'b l h e']:
  """`attention.attend` without a bias, with bfloat16 operands.

  Args:
    query: h heads of each of l tokens.
    key: k heads, each of a group of h / k.
    value: likewise.
    mask: what each token may look at; if nothing, its result is zero.
    scale: of the scores.
  """
  return _forward(query, key, value, mask, scale)[0]


def _forward(query, key, value, mask, scale):
  l = query.shape[1]
  # Types alone, for gradients to come back in.
  types = tuple(x[:0] for x in (query, key, value))
  query = laid_out(_by_group(query, key.shape[2]).astype(_HALF))
  key, value = (laid_out(x.swapaxes(1, 2).astype(_HALF)) for x in (key, value))
  weights = _unnormed(_dot(query, key, over=3) * scale, mask).astype(_HALF)
  # Of the weights as they are rounded, so that they add up to 1.
  total = weights.astype(jnp.float32).sum(-1, keepdims=True)
  norm = 1 / jnp.where(total > 0, total, 1)
  out = _by_token(_dot(weights, value, over=2) * norm, l)
  return out, (query, key, value, weights, norm, out, types)


def _backward(scale, saved, cotangent):
  query, key, value, weights, norm, out, types = saved
  k = key.shape[1]
  # What softmax takes off each row of its scores' gradients: the sum of weights
  # times their gradients, which is this sum over the d of a head. It is of the
  # rounded cotangent, as they are: what all values have in common may be far
  # more than they differ by, and has to cancel.
  cotangent = cotangent.astype(_HALF)
  off = (cotangent.astype(jnp.float32) * out).sum(-1, keepdims=True)
  given = laid_out(_by_group(cotangent, k))
  dweights = _dot(given, value, over=3)
  dscores = (weights * norm * (dweights - _by_group(off, k))).astype(_HALF)
  dvalue = _dot(
      laid_out(weights.swapaxes(2, 3)), laid_out((given * norm).astype(_HALF)),
      over=2)
  dkey = _dot(laid_out(dscores.swapaxes(2, 3)), query, over=2) * scale
  dquery = _dot(dscores, key, over=2) * scale
  gradients = (
      _by_token(dquery, out.shape[1]), dkey.swapaxes(1, 2),
      dvalue.swapaxes(1, 2))
  return tuple(g.astype(t.dtype) for g, t in zip(gradients, types)) + (None,)


attend_rounded.defvjp(_forward, _backward)


def _by_group(x, k):
  """[b l h d] to [b k n d]: heads of a group as if they were more tokens."""
  b, l, h, d = x.shape
  return x.reshape(b, l, k, h // k, d).transpose(0, 2, 3, 1, 4).reshape(
      b, k, h // k * l, d)


def _by_token(x, l):
  """[b k n d] of l tokens back to [b l h d]."""
  b, k, n, d = x.shape
  return x.reshape(b, k, n // l, l, d).transpose(0, 3, 1, 2, 4).reshape(
      b, l, k * (n // l), d)


def _unnormed(scores, mask):
  """Softmax of [b k n m] before the division; zero where nothing is seen."""
  if mask is None:
    return jnp.exp(scores - scores.max(-1, keepdims=True))
  b, k, n, m = scores.shape
  l = mask.shape[1]
  seen = jnp.broadcast_to(mask[:, None, None], (b, k, n // l, l, m))
  scores = jnp.where(
      seen, scores.reshape(seen.shape), jnp.finfo(scores.dtype).min)
  weights = jnp.exp(scores - scores.max(-1, keepdims=True))
  return jnp.where(seen, weights, 0).reshape(b, k, n, m)


def _dot(a, b, *, over):
  """Sums [b k n i] over its last axis with axis `over` of b."""
  return jax.lax.dot_general(
      a, b, (((3,), (over,)), ((0, 1), (0, 1))),
      preferred_element_type=jnp.float32)
