"""What every encoder does first: check the pixels, and scale them."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num
import numpy as np

RGB = tuple[float, float, float]

# Mean and deviation of the pixels, in 0..1, that encoders were trained with.
CLIP_MEAN: RGB = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: RGB = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)
HALF: RGB = (0.5, 0.5, 0.5)  # SigLIP, both


def check_rgb(images: Num[Array, '...']) -> None:
  """Raises ValueError if `images` is not [B H W 3]."""
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(
        f'Expected RGB images [B H W 3], came {images.shape}. Fold the axes '
        'of images and frames into the batch axis.')


def normalise(
    images: Num[Array, '...'], mean: RGB, std: RGB
) -> Float[Array, 'b h w 3']:
  """(pixel / 255 - mean) / std, in float32.

  Args:
    images: RGB in 0..255, uint8 or float, [B H W 3].
    mean: of each channel, in 0..1.
    std: standard deviation of each channel, in 0..1.

  Raises:
    ValueError: if `images` is not [B H W 3].
  """
  check_rgb(images)
  shape = (1, 1, 1, 3)
  mean = np.asarray(mean, np.float32).reshape(shape)
  std = np.asarray(std, np.float32).reshape(shape)
  return (images.astype(jnp.float32) / 255 - mean) / std
