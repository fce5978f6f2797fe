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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 6, 7, 8))
def weighted_nll(
    head: Head,
    trainable: Params,
    frozen: Params,
    x: Float[Array, 'k d'],
    targets: Int[Array, 'k'],
    weights: Float[Array, 'k'],
    chunk: int = 64,
    z_loss: float = 0.0,
    shares: int = 1,
) -> tuple[Float[Array, ''], Float[Array, 'k'], Float[Array, 'k']]:
  """Sum of weights * (-log p(target) + z_loss * log(Z)^2), and its parts.

  Z is the sum of exp(logits). To keep it near 1 keeps logits from drifting
  (PaLM, section 5, has z_loss 1e-4).

  Args:
    head: maps states to logits, from trainable and frozen parameters.
    trainable: parameters that get a gradient.
    frozen: parameters that get none.
    x: final states.
    targets: the next token.
    weights: of each token; where it is 0 nothing is computed and the other
      results are 0. It gets no gradient, and they pass none on.
    chunk: tokens whose logits are held at once, of each share.
    z_loss: weight of the second term.
    shares: parts of equal size that tokens are spread over, one device after
      another. A chunk is of all shares, so that all devices have work.

  Returns:
    The sum; and of each token, -log p(target) and log(Z).
  """
  results, _ = _results_and_gradient(
      head, trainable, frozen, x, targets, weights, chunk, z_loss, shares,
      gradient=False)
  return results


def _results_and_gradient(
    head, trainable, frozen, x, targets, weights, chunk, z_loss, shares,
    gradient):
  width, k = x.shape[1], x.shape[0] // shares
  x, targets, weights = (
      a.reshape((shares, k) + a.shape[1:]) for a in (x, targets, weights))
  chunk = min(chunk, k)
  short = -k % chunk
  in_chunks = lambda a: a.reshape(shares, -1, chunk).swapaxes(0, 1)
  # Those that count come first; the padding repeats token 0, without weight.
  order = jnp.argsort(weights == 0, axis=1, stable=True)
  order = jnp.pad(order, ((0, 0), (0, short)))
  taken = jnp.take_along_axis(weights, order, axis=1)
  taken = jnp.where((jnp.arange(k + short) < k)[None], taken, 0)

  def compute(rows, w):
    w = w.reshape(-1)
    picked = jnp.take_along_axis(x, rows[:, :, None], axis=1)
    target = jnp.take_along_axis(targets, rows, axis=1).reshape(-1)

    def loss(trainable, picked):
      logits = head(trainable, frozen, picked)
      # A sum, not a lookup: the gradient of a lookup is a scatter into zeros
      # of all words, one more array to write and read.
      words = jnp.arange(logits.shape[1])[None]
      chosen = jnp.where(words == target[:, None], logits, 0).sum(axis=1)
      log_z = jax.nn.logsumexp(logits, axis=1)
      nll = log_z - chosen
      each = nll + z_loss * log_z**2 if z_loss else nll
      return (w * each).sum(), (
          jnp.where(w == 0, 0, nll), jnp.where(w == 0, 0, log_z))

    picked = picked.reshape(-1, width)
    if gradient:
      (total, tokens), (d_trainable, dx) = jax.value_and_grad(
          loss, argnums=(0, 1), has_aux=True)(trainable, picked)
    else:
      total, tokens = loss(trainable, picked)
      d_trainable, dx = zeros, jnp.zeros_like(picked)
    return (
        total, d_trainable, *(a.reshape(shares, chunk) for a in tokens),
        dx.reshape(shares, chunk, width))

  def skip(rows, w):
    del rows, w
    none = jnp.zeros((shares, chunk))
    return (
        jnp.zeros(()), zeros, none, none,
        jnp.zeros((shares, chunk, width), x.dtype))

  def body(carry, rows_and_weights):
    rows, w = rows_and_weights
    total, d_trainable, *tokens = jax.lax.cond(
        jnp.any(w != 0), compute, skip, rows, w)
    return jax.tree.map(jnp.add, carry, (total, d_trainable)), tokens

  zeros = jax.tree.map(jnp.zeros_like, trainable)
  (loss, d_trainable), tokens = jax.lax.scan(
      body, (jnp.zeros(()), zeros), (in_chunks(order), in_chunks(taken)))

  def in_place(sorted_):
    """Back to the order of the tokens, from chunks [i s c ...]."""
    sorted_ = sorted_.swapaxes(0, 1)
    sorted_ = sorted_.reshape((shares, k + short) + sorted_.shape[3:])
    # The padding has nothing to add, so adding is scattering.
    tokens = jax.vmap(lambda to, values: jnp.zeros(
        (k,) + values.shape[1:], values.dtype).at[to].add(values))(
            order, sorted_)
    return tokens.reshape((shares * k,) + tokens.shape[2:])

  nll, log_z, dx = map(in_place, tokens)
  return (loss, nll, log_z), (d_trainable, dx)


def _forward(head, trainable, frozen, *args):
  results, (d_trainable, dx) = _results_and_gradient(
      head, trainable, frozen, *args, gradient=True)
  return results, (d_trainable, frozen, dx)


def _backward(head, chunk, z_loss, shares, saved, cotangents):
  del head, chunk, z_loss, shares
  d_trainable, frozen, dx = saved
  scale, _, _ = cotangents
  times = lambda tree: jax.tree.map(lambda leaf: leaf * scale, tree)
  return (
      times(d_trainable), jax.tree.map(jnp.zeros_like, frozen), dx * scale,
      None, None)


weighted_nll.defvjp(_forward, _backward)
