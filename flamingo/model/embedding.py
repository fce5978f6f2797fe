"""Tables of learnt rows: one a token, one a position."""

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flamingo.model.products import Dtype, project_to_rows


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
    return project_to_rows(x, self.embedding, dtype)


class LearnedPositions(nn.Module):
  """A table of rows, one a position.

  Attributes:
    size: number of positions.
    width: residual width D.
    offset: rows in front of that of position 0 (OPT: 2).
  """

  size: int
  width: int
  offset: int = 0

  def setup(self):
    self.embedding = self.param(
        'embedding', nn.initializers.normal(0.02),
        (self.offset + self.size, self.width))

  def __call__(self, positions: Int[Array, 'b l']) -> Float[Array, 'b l d']:
    """Rows of positions; one beyond the last gives NaN.

    Only the running program knows it, and any row would be silently wrong.
    """
    # Padding in front of the first token has position -1.
    at = jnp.clip(positions, 0, self.size - 1) + self.offset
    rows = self.embedding[at].astype(jnp.float32)
    return jnp.where((positions < self.size)[:, :, None], rows, jnp.nan)
