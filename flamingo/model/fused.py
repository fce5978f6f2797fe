"""Attention by one kernel of a GPU, which never writes the scores down.

Scores of all heads and pairs of tokens, and what softmax makes of them, are the
largest arrays of a step and are read and written several times. cuDNN's kernel
(after FlashAttention, Dao et al., 2022) holds a tile of them at a time. It
multiplies in half precision only.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Widths of a head that the kernel has on every GPU since Ampere.
WIDEST_HEAD, HEAD_STEP = 128, 8


def has_kernel(
    query: jax.Array, key: jax.Array, value: jax.Array
) -> bool:
  """Whether one GPU runs this program, and its kernel takes such shapes.

  It is there, and not only compiled for: where it isn't, nobody can say what it
  can do. Over several GPUs it was not tried.
  """
  l, _, d = query.shape[1:]
  m = key.shape[1]
  return (
      jax.default_backend() == 'gpu' and jax.device_count() == 1
      and _is_since_ampere(jax.devices()[0])
      and value.shape[-1] == d
      and not l % 2 and not m % 2 and not d % HEAD_STEP and d <= WIDEST_HEAD)


def _is_since_ampere(device: jax.Device) -> bool:
  """Whether a device is a GPU that cuDNN has the kernel for (not a T4)."""
  # Of AMD's, which are 'gpu' too, the capability is a name such as gfx90a.
  return device.device_kind.startswith('NVIDIA') and (
      float(device.compute_capability) >= 8)


def attend_fused(
    query: Float[Array, 'b l h d'],
    key: Float[Array, 'b m k d'],
    value: Float[Array, 'b m k d'],
    mask: Bool[Array, 'b l m'] | None,
    scale: float,
    implementation: str = 'cudnn',
) -> Float[Array, 'b l h d']:
  """`attention.attend` without a bias, with bfloat16 operands and results.

  Args:
    query: h heads of each of l tokens.
    key: k heads, each of a group of h / k.
    value: likewise.
    mask: what each token may look at; if nothing, its result is zero.
    scale: of the scores.
    implementation: 'cudnn', or 'xla' for its definition on any machine.
  """
  half = lambda x: x.astype(jnp.bfloat16)
  out = jax.nn.dot_product_attention(
      half(query), half(key), half(value),
      mask=None if mask is None else mask[:, None],
      scale=scale, implementation=implementation)
  out = out.astype(jnp.float32)
  if mask is None:
    return out
  # Where nothing may be looked at, softmax is uniform over everything.
  return jnp.where(mask.any(axis=-1)[:, :, None, None], out, 0)
