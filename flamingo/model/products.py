"""Matrix products with operands in low precision and sums in float32.

They have derivatives of their own, because JAX's would multiply a float32
cotangent with a low-precision operand, that is, in float32.

What a CPU's kernels for bfloat16 can do decides how products are written: the
first operand contracted along its last axis, the second along either. Other
products XLA does in float32, which here takes two to four times as long.

On a GPU results leave in the operands' type, rounded once after the sum: they
are half the bytes to write, to keep for the backward pass and to read again.
Logits and gradients of weights leave in float32 everywhere.
"""

import functools

import jax
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp
from jaxtyping import Array, Float

Dtype = jnp.dtype | type


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(
    x: Float[Array, '*b k'], kernel: Float[Array, 'k n'], dtype: Dtype
) -> Float[Array, '*b n']:
  """Matrix product with operands in `dtype` and a float32 sum."""
  return _dot(x, kernel, ((x.ndim - 1,), (0,)), dtype, _leaves(dtype))


def _project_forward(x, kernel, dtype):
  # A plain product, not `project`: recomputation that is to remember matrix
  # products (`scan.rematerialised`) doesn't look into custom derivatives.
  y = _dot(x, kernel, ((x.ndim - 1,), (0,)), dtype, _leaves(dtype))
  return y, (x.astype(dtype), kernel)


def _project_backward(dtype, saved, cotangent):
  x, kernel = saved
  dx = _dot(cotangent, kernel, ((x.ndim - 1,), (1,)), dtype, _leaves(dtype))
  # A frozen kernel's gradient is never asked for, so XLA drops this product.
  dkernel = _dot_of_rows(x, cotangent, dtype)
  return dx, dkernel.astype(kernel.dtype)


project.defvjp(_project_forward, _project_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project_to_rows(
    x: Float[Array, '*b k'], table: Float[Array, 'n k'], dtype: Dtype
) -> Float[Array, '*b n']:
  """`project` by a table of rows, which is the kernel lying on its side.

  Its results are logits, and leave in float32 on a GPU too.
  Not `project(x, table.T)`: XLA's CPU multiplies what is turned in float32.
  """
  return _dot(x, table, ((x.ndim - 1,), (1,)), dtype)


def _project_to_rows_forward(x, table, dtype):
  y = _dot(x, table, ((x.ndim - 1,), (1,)), dtype)
  return y, (x.astype(dtype), table)


def _project_to_rows_backward(dtype, saved, cotangent):
  x, table = saved
  dx = _dot(cotangent, table, ((x.ndim - 1,), (0,)), dtype, _leaves(dtype))
  return dx, _dot_of_rows(cotangent, x, dtype).astype(table.dtype)


project_to_rows.defvjp(_project_to_rows_forward, _project_to_rows_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project_heads(
    x: Float[Array, '*b h k'], kernel: Float[Array, 'h k n'], dtype: Dtype
) -> Float[Array, '*b h n']:
  """`project` of each head by a kernel of its own."""
  return _dot_heads(x, kernel, ((x.ndim - 1,), (1,)), dtype)


def _dot_heads(x, kernel, contract, dtype):
  y = jax.lax.dot_general(
      x.astype(dtype), kernel.astype(dtype),
      (contract, ((x.ndim - 2,), (0,))), preferred_element_type=jnp.float32)
  return jnp.moveaxis(y, 0, -2)


def _project_heads_forward(x, kernel, dtype):
  y = _dot_heads(x, kernel, ((x.ndim - 1,), (1,)), dtype)
  return y, (x.astype(dtype), kernel)


def _project_heads_backward(dtype, saved, cotangent):
  x, kernel = saved
  dx = _dot_heads(cotangent, kernel, ((x.ndim - 1,), (2,)), dtype)
  heads = (x.ndim - 2,)
  if _turns(dtype):
    by_head = lambda a: jnp.moveaxis(
        a.reshape((-1,) + a.shape[-2:]), 1, 0).astype(dtype)
    x, cotangent = _turned(by_head(x)), by_head(cotangent)
    contract, heads = ((2,), (1,)), (0,)
  else:
    x, cotangent = x.astype(_wide(dtype)), cotangent.astype(_wide(dtype))
    contract, heads = (tuple(range(x.ndim - 2)),) * 2, (x.ndim - 2,)
  dkernel = jax.lax.dot_general(
      x, cotangent, (contract, (heads, heads)),
      preferred_element_type=jnp.float32)
  if _turns(dtype):
    dkernel = jax.lax.optimization_barrier(dkernel)
  return dx, dkernel.astype(kernel.dtype)


project_heads.defvjp(_project_heads_forward, _project_heads_backward)


def _dot(a, b, contract, dtype, out=jnp.float32):
  return jax.lax.dot_general(
      a.astype(dtype), b.astype(dtype), (contract, ((), ())),
      preferred_element_type=out).astype(jnp.float32)


def _leaves(dtype) -> Dtype:
  """The type that results leave in, before they are float32 again."""
  return dtype if jax.default_backend() == 'gpu' else jnp.float32


def _dot_of_rows(x, y, dtype):
  """Sum over all rows of the outer products of [*b k] and [*b n]: [k n]."""
  if _turns(dtype):
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    x = _turned(x.astype(dtype))
    return jax.lax.optimization_barrier(_dot(x, y, ((1,), (0,)), dtype))
  rows = tuple(range(x.ndim - 1))
  return _dot(x, y, (rows, rows), _wide(dtype))


def _turns(dtype) -> bool:
  """Whether rows are turned into columns before they are summed over.

  Several devices would gather what is turned, so they sum in float32.
  """
  return on_one_cpu() and dtype == jnp.bfloat16


def on_one_cpu() -> bool:
  """Whether this program has a CPU, taken as one device, and nothing else."""
  return jax.default_backend() == 'cpu' and jax.device_count() == 1


def _wide(dtype) -> Dtype:
  """The type that sums over leading axes are exact and fast in."""
  return jnp.float32 if jax.default_backend() == 'cpu' else dtype


def _turned(x):
  """[..., m, k] to [..., k, m], in memory and not only in name.

  Without the layout, and without the barrier behind the product, XLA makes one
  product of turning and multiplying, which has no kernel.
  """
  return _in_order(x.swapaxes(-1, -2))


def laid_out(x: Array) -> Array:
  """An operand in memory as its shape says, for kernels that take no other."""
  return jax.lax.optimization_barrier(_in_order(x))


def _in_order(x):
  return with_layout_constraint(
      x, Layout(major_to_minor=tuple(range(x.ndim))))
