"""The weighted next-token loss, without ever holding [B L V].

The head's product with the vocabulary is the largest single product of a small
model, and most tokens of an interleaved page or an episode have no target. So
tokens that count are sorted to the front, taken a chunk at a time, and chunks
without any are skipped. Each chunk's gradient is taken while its logits are at
hand (the loss is a sum, so the cotangent is known beforehand), which makes it
two products a token that counts, and no logits kept for the backward pass.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flamingo.types import Params

Head = Callable[[Params, Params, Float[Array, 'c d']], Float[Array, 'c v']]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 6))
def weighted_nll(
    head: Head,
    trainable: Params,
    frozen: Params,
    x: Float[Array, 'k d'],
    targets: Int[Array, 'k'],
    weights: Float[Array, 'k'],
    chunk: int = 64,
) -> tuple[Float[Array, ''], Float[Array, 'k']]:
  """Sum of weights * -log p(target), and -log p(target) of each token.

  Args:
    head: maps states to logits, from trainable and frozen parameters.
    trainable: parameters that get a gradient.
    frozen: parameters that get none.
    x: final states.
    targets: the next token.
    weights: of each token; where it is 0 nothing is computed and the second
      result is 0. It gets no gradient, and the second result passes none on.
    chunk: tokens whose logits are held at once.
  """
  loss, nll, _, _ = _nll_and_gradient(
      head, trainable, frozen, x, targets, weights, chunk, gradient=False)
  return loss, nll


def _nll_and_gradient(
    head, trainable, frozen, x, targets, weights, chunk, gradient):
  k, width = x.shape
  chunk = min(chunk, k)
  short = -k % chunk
  order = jnp.argsort(weights == 0, stable=True)  # those that count come first
  order = jnp.pad(order, (0, short))
  weights_sorted = jnp.pad(weights, (0, short))[order]
  weights_sorted = jnp.where(jnp.arange(k + short) < k, weights_sorted, 0)

  def compute(rows, w):
    picked, target = x[rows], targets[rows]

    def loss(trainable, picked):
      logits = head(trainable, frozen, picked)
      chosen = jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]
      nll = jax.nn.logsumexp(logits, axis=1) - chosen
      return (w * nll).sum(), jnp.where(w == 0, 0, nll)

    if not gradient:
      return loss(trainable, picked) + (zeros, jnp.zeros_like(picked))
    (total, nll), grads = jax.value_and_grad(
        loss, argnums=(0, 1), has_aux=True)(trainable, picked)
    return (total, nll) + grads

  def skip(rows, w):
    del w
    return (jnp.zeros(()), jnp.zeros(chunk), zeros,
            jnp.zeros((rows.shape[0], width), x.dtype))

  def body(carry, rows_and_weights):
    rows, w = rows_and_weights
    total, nll, d_trainable, dx = jax.lax.cond(
        jnp.any(w != 0), compute, skip, rows, w)
    carry = (carry[0] + total,
             jax.tree.map(jnp.add, carry[1], d_trainable))
    return carry, (nll, dx)

  zeros = jax.tree.map(jnp.zeros_like, trainable)
  (loss, d_trainable), (nll, dx) = jax.lax.scan(
      body, (jnp.zeros(()), zeros),
      (order.reshape(-1, chunk), weights_sorted.reshape(-1, chunk)))
  # The padding repeats row 0 with nothing to add, so adding is scattering.
  nll = jnp.zeros(k).at[order].add(nll.reshape(-1))
  dx = jnp.zeros_like(x).at[order].add(dx.reshape(-1, width))
  return loss, nll, d_trainable, dx


def _forward(head, trainable, frozen, x, targets, weights, chunk):
  loss, nll, d_trainable, dx = _nll_and_gradient(
      head, trainable, frozen, x, targets, weights, chunk, gradient=True)
  return (loss, nll), (d_trainable, frozen, dx)


def _backward(head, chunk, saved, cotangents):
  d_trainable, frozen, dx = saved
  scale, _ = cotangents
  times = lambda tree: jax.tree.map(lambda leaf: leaf * scale, tree)
  return (
      times(d_trainable), jax.tree.map(jnp.zeros_like, frozen), dx * scale,
      None, None)


weighted_nll.defvjp(_forward, _backward)
