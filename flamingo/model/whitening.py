"""A fixed linear map that makes frozen features comparable.

Features behind a ReLU share a large common part, and a few directions hold most
of their variance, so that any two pictures look alike to a random projection.
Principal components, scaled to about one variance, do not have that fault.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np


class Whitening(nn.Module):
  """Maps features to `width` scaled principal components.

  Its parameters are measured by `fit`, not learnt: no gradient reaches them.
  They stand among the trainables so that they travel with a checkpoint.

  Attributes:
    visual_width: width of the vision features.
    width: components kept.
  """

  visual_width: int
  width: int

  @nn.compact
  def __call__(self, x: Float[Array, '*b c']) -> Float[Array, '*b d']:
    mean = self.param('mean', nn.initializers.zeros, (self.visual_width,))
    kernel = self.param(
        'kernel', nn.initializers.orthogonal(), (self.visual_width, self.width))
    mean, kernel = jax.lax.stop_gradient((mean, kernel))
    y = x @ kernel
    return y - jnp.broadcast_to(mean @ kernel, y.shape)


def fit(
    features: Float[np.ndarray, 'n c'], width: int, floor: float = 0.3
) -> dict[str, np.ndarray]:
  """Measures the parameters of `Whitening`.

  Args:
    features: of training pictures, averaged over places.
    width: components kept.
    floor: added to each component's standard deviation, as a share of the
      fiftieth's, lest small ones be noise made large.
  """
  mean = features.mean(axis=0)
  variance, directions = np.linalg.eigh(np.cov((features - mean).T))
  variance, directions = variance[::-1], directions[:, ::-1]
  deviation = np.sqrt(np.maximum(variance[:width], 0))
  deviation += floor * deviation[min(50, width - 1)]
  # A direction's sign is arbitrary; make it the same on every machine.
  directions = directions[:, :width]
  largest = np.abs(directions).argmax(axis=0)
  sign = np.sign(directions[largest, np.arange(width)])
  return {
      'mean': mean.astype(np.float32),
      'kernel': (directions * sign / deviation).astype(np.float32)}
