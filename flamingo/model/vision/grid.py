"""Coarser grids of features."""

import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np


def pool_grid(
    features: Float[Array, 'b s c'], side: int
) -> Float[Array, 'b q c']:
  """Averages a square grid of features down to `side` x `side`.

  Where the sides don't divide, windows overlap: 7 to 4 has rows 0-1, 1-3, 3-5,
  5-6.
  """
  known = round(features.shape[1] ** 0.5)
  if known**2 != features.shape[1] or not 1 <= side <= known:
    raise ValueError(
        f'{features.shape[1]} features cannot be pooled to a grid of {side} x '
        f'{side}: expected a square grid at least as large.')
  weights = np.zeros((side, known), np.float32)
  for i in range(side):
    low, high = i * known // side, -(-(i + 1) * known // side)
    weights[i, low:high] = 1 / (high - low)
  grid = features.reshape(features.shape[0], known, known, -1)
  pooled = jnp.einsum('bhwc,ih,jw->bijc', grid, weights, weights)
  return pooled.reshape(features.shape[0], side * side, -1)
