"""A batch as real ones are, for tests that compare with an original.

Rows of several lengths, padded on either side; with two, three and seven
images, one of them with text before its first.
"""

import dataclasses

import agreement
from flamingo.model.vision import pixels
import jax
import jax.numpy as jnp
import numpy as np

# Where the image tags are, what is padding (-), what is the end of a chunk (;).
ROWS = (
    '..#.##..#.;##..#.......',
    '#...;....#.......------',
    '------....#.#..;....#..',
)


@dataclasses.dataclass(frozen=True)
class Batch:
  """Arrays for a Flamingo, and for its original in torch's layout."""

  images: np.ndarray  # uint8 [3 7 T H W 3]
  tokens: np.ndarray  # [3 23]
  image_index: np.ndarray  # [3 23]
  valid: np.ndarray  # [3 23]

  @property
  def pixels(self) -> np.ndarray:
    """Scaled as CLIP's preprocessor does, [3 7 T 3 H W]."""
    scaled = (self.images / 255.0 - pixels.CLIP_MEAN) / pixels.CLIP_STD
    return np.moveaxis(scaled, -1, 3).astype(np.float32)


def batch(
    side: int, *, words: int, pad: int, image: int | None = None,
    eoc: int | None = None, frames: int = 1
) -> Batch:
  """Random pictures and tokens.

  Args:
    side: height and width of the pictures.
    words: ordinary tokens have ids below.
    pad: id of padding.
    image: id of the image tag; None for plain text, whose place is not marked.
    eoc: id of the end of a chunk, likewise.
    frames: of each image.
  """
  rng = np.random.default_rng(0)
  kinds = np.array([list(row) for row in ROWS])
  tokens = rng.integers(0, words, kinds.shape)
  for kind, name in (('-', pad), ('#', image), (';', eoc)):
    if name is not None:
      tokens = np.where(kinds == kind, name, tokens)
  return Batch(
      rng.integers(0, 256, (3, 7, frames, side, side, 3), np.uint8), tokens,
      np.cumsum(kinds == '#', axis=1), kinds != '-')


def logits(loaded, batch: Batch, jit=jax.jit) -> np.ndarray:
  """Of a model that `flamingo.load` returned, [3 23 V]."""
  def run(model, images, tokens, index, valid):
    return model.logits(
        model.read(model.see(images), tokens, index, valid=valid)[0])

  apply = jit(lambda params, *x: loaded.model.apply(
      {'params': params}, *x, method=run))
  return np.asarray(apply(loaded.params, batch.images, *map(
      jnp.asarray, (batch.tokens, batch.image_index, batch.valid))))


def embeddings(loaded, batch: Batch) -> np.ndarray:
  """What the first row's images are compared by, [7*T E]."""
  images = batch.images[0].reshape(-1, *batch.images.shape[3:])
  return np.asarray(loaded.model.vision.apply(
      {'params': loaded.params['vision']}, images, method='embed'))


def close(came: np.ndarray, expected: np.ndarray, batch: Batch) -> None:
  """Asserts that logits of tokens that are no padding are the original's."""
  assert came.shape == expected.shape
  expected = expected[batch.valid]
  assert expected.std() > 0.5  # else small differences would mean nothing
  agreement.close(came[batch.valid], expected, atol=1e-4)
