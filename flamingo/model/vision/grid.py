"""Square grids of features, made coarser or finer."""

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num
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


class PooledGrid(nn.Module):
  """An encoder whose grid of features is made coarser: see `pool_grid`.

  Attributes:
    encoder: of pixels [B H W 3] to a square grid of features [B S C].
    side: of the grid that is left.
    rounded_to: type that features are rounded to, as a store of features keeps
      them, so that pixels give what cached features give; None for no rounding.
  """

  encoder: nn.Module
  side: int
  rounded_to: str | None = None

  def __call__(self, images: Num[Array, '...']) -> Float[Array, 'b q c']:
    """Encodes images: features in float32, row by row."""
    pooled = pool_grid(self.encoder(images), self.side)
    if self.rounded_to is None:
      return pooled
    return pooled.astype(self.rounded_to).astype(jnp.float32)


def resize_grid(
    grid: Float[np.ndarray, 's s c'], side: int
) -> Float[np.ndarray, 'q q c']:
  """Interpolates a square grid to `side` x `side`, bicubic.

  The points lie at the middles of equal cells, the kernel is that of Keys with
  a = -0.75, it is not widened to make a grid coarser, and the borders repeat:
  what PyTorch's `interpolate(mode='bicubic', align_corners=False)` does, so
  what published code does to position embeddings. In float64.
  """
  known = grid.shape[0]
  weights = np.zeros((side, known))
  for i in range(side):
    middle = (i + 0.5) * known / side - 0.5
    first = int(np.floor(middle)) - 1
    for j in range(first, first + 4):
      weights[i, min(max(j, 0), known - 1)] += _keys(abs(middle - j))
  return np.einsum('iy,jx,yxc->ijc', weights, weights, grid.astype(np.float64))


def _keys(distance: float, a: float = -0.75) -> float:
  """Keys' cubic kernel (1981): 1 at 0, and 0 at all other whole distances."""
  t = distance
  if t <= 1:
    return (a + 2) * t**3 - (a + 3) * t**2 + 1
  return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0
