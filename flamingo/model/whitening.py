"""A fixed linear map that makes frozen features comparable.

Features behind a ReLU share a large common part, and what varies most in them
is often not what a picture shows: to an encoder of photographs, two line
drawings of different things are more alike than a thing in colour and the same
thing in lines. Fisher's linear discriminants have neither fault: they whiten
what varies among pictures of one thing, and keep the directions in which things
differ most.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np


class Whitening(nn.Module):
  """Maps features to `width` discriminants.

  Its parameters are measured by `fit`, not learnt: no gradient reaches them.
  They stand among the trainables so that they travel with a checkpoint.

  Attributes:
    visual_width: width of the vision features.
    width: directions kept.
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
    features: Float[np.ndarray, 'e p c'], width: int, ridge: float = 1.0
) -> dict[str, np.ndarray]:
  """Measures the parameters of `Whitening`.

  Args:
    features: of P pictures of each of E things: other styles, sizes, angles.
      Averaged over places, of training pictures alone.
    width: directions kept, those first in which things differ most for what
      pictures of one thing do.
    ridge: added to the variance within things, as a share of its mean over
      directions. With fewer pictures than channels there are directions in
      which nothing was seen to vary; they are not for that free of noise.

  Returns:
    `mean` [C] and `kernel` [C width], such that a component's RMS over the
    pictures is 1 on average.

  Raises:
    ValueError: one picture a thing, which says nothing about what varies.
  """
  things, pictures, channels = features.shape
  if pictures < 2:
    raise ValueError(
        f'Whitening needs several pictures of each thing, and {pictures} came. '
        'Raise `views` of the training split.')
  features = features.astype(np.float64)
  centres = features.mean(axis=1)
  mean = centres.mean(axis=0)
  around = (features - centres[:, None]).reshape(-1, channels)
  within = around.T @ around / (things * (pictures - 1))
  within += ridge * np.trace(within) / channels * np.eye(channels)
  between = (centres - mean).T @ (centres - mean) / (things - 1)

  # Whiten by the Cholesky factor, then principal components of the centres.
  factor = np.linalg.cholesky(within)
  half = np.linalg.solve(factor, between)
  _, directions = np.linalg.eigh(np.linalg.solve(factor, half.T))
  kernel = np.linalg.solve(factor.T, directions[:, ::-1][:, :width])
  # A direction's sign is arbitrary; make it the same on every machine.
  largest = np.abs(kernel).argmax(axis=0)
  kernel *= np.sign(kernel[largest, np.arange(kernel.shape[1])])
  kernel /= np.sqrt(np.square((features - mean) @ kernel).mean())
  return {'mean': mean.astype(np.float32), 'kernel': kernel.astype(np.float32)}
