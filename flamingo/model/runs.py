"""Tokens laid out by the image they see, so that a token meets R latents alone.

All latents of N images at once are N x R for each token. Laid out in runs, all
of whose tokens see one image, they are R, whatever N: images follow each other,
or not, as they like.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# A matrix product of fewer rows or columns takes the time of one of so many.
TILE = 64


def run_size(tokens: int, images: int) -> int:
  """Tokens of a run: a power of 2.

  An image leaves up to a run less 1 empty, so that half an image's share of
  tokens makes at most half as many slots again as there are tokens.
  """
  share = tokens // (2 * images)
  return 1 << max(share.bit_length() - 1, 0)


def run_count(tokens: int, images: int) -> int:
  """Runs that are enough, whichever image each token sees."""
  size = run_size(tokens, images)
  return (tokens + min(images, tokens) * (size - 1)) // size


@flax.struct.dataclass
class Runs:
  """Where tokens stand when they are laid out in runs.

  Three tokens of image 2, one of none, and two of image 1, in runs of 2:

    image_index 2 2 2 0 1 1      image of each run  0   1   1
    slot        2 3 4 . 0 1      token in its slots 4 5 0 1 2 .

  Attributes:
    slot: int32 [B L], of each token; 0 for one that sees no image.
    sees: bool [B L], whether a token sees an image, and so has a slot.
    token: int32 [B U*T], the token in each slot of U runs; in one that is
      empty 0, of which no one reads what becomes.
    image: int32 [B U], the image of each run, from 0.
  """

  slot: jax.Array
  sees: jax.Array
  token: jax.Array
  image: jax.Array

  @classmethod
  def of(cls, image_index: Int[Array, 'b l'], images: int) -> 'Runs':
    """Lays out tokens by the image each sees, from 1; 0 sees none."""
    tokens = image_index.shape[1]
    size, count = run_size(tokens, images), run_count(tokens, images)
    numbers = jnp.arange(1, images + 1)[None, None]
    own = image_index[:, :, None] == numbers  # [b l n]
    # Of one image: tokens, runs, and the run behind its last.
    of_image = own.sum(axis=1)
    runs = -(-of_image // size)
    end = jnp.cumsum(runs, axis=1)
    of_token = lambda a: jnp.where(own, a, 0).sum(axis=2)
    place = of_token(jnp.cumsum(own, axis=1) - 1)
    slot = of_token((end - runs)[:, None] * size) + place
    sees = own.any(axis=2)
    # One that sees nothing is put behind the last slot, that is, dropped.
    put = lambda slots: jnp.zeros(count * size, jnp.int32).at[slots].set(
        jnp.arange(tokens), mode='drop')
    token = jax.vmap(put)(jnp.where(sees, slot, count * size))
    run = jnp.arange(count)[None, :, None]
    image = (end[:, None] <= run).sum(axis=2)
    return cls(slot, sees, token, jnp.minimum(image, images - 1))

  def lay_out(self, x: Float[Array, 'b l *x']) -> Float[Array, 'b u t *x']:
    """Each run's tokens."""
    x = jax.vmap(lambda x, i: x[i])(x, self.token)
    return x.reshape(self.image.shape + (-1,) + x.shape[2:])

  def collect(self, x: Float[Array, 'b u t *x']) -> Float[Array, 'b l *x']:
    """The tokens as they were; zero where one sees no image."""
    x = x.reshape(x.shape[:1] + (-1,) + x.shape[3:])
    x = jax.vmap(lambda x, i: x[i])(x, self.slot)
    sees = self.sees.reshape(self.sees.shape + (1,) * (x.ndim - 2))
    return jnp.where(sees, x, 0)

  def seen(self, images: Float[Array, 'b n *x']) -> Float[Array, 'b u *x']:
    """What each run sees, of something that is there for each image."""
    return jax.vmap(lambda x, i: x[i])(images, self.image)


def cost(
    form: str, *, tokens: int, images: int, latents: int, visual_width: int,
    heads: int, head_dim: int,
) -> int:
  """FLOPs of a row's keys, values, scores and sums, small products in tiles.

  Queries and outputs, which are the same in all forms, are left out.

  Args:
    form: 'projected', 'gathered' or 'absorbed', see `GatedCrossAttention`.
    tokens: L of a row.
    images: N of a row.
    latents: R of an image.
    visual_width: C of a latent.
    heads: of the attention.
    head_dim: width of a head.
  """
  full = lambda n: -(-n // TILE) * TILE
  keys_and_values = 4 * images * latents * visual_width * heads * head_dim
  if form == 'projected':
    return keys_and_values + (
        4 * heads * full(tokens) * full(images * latents) * head_dim)
  size, count = run_size(tokens, images), run_count(tokens, images)
  if form == 'gathered':
    return keys_and_values + (
        4 * count * heads * full(size) * full(latents) * head_dim)
  # All heads of a run share its latents, and so are one product.
  return 4 * count * (
      size * heads * head_dim * visual_width
      + full(size * heads) * full(latents) * visual_width)
