"""Induction heads of a frozen LM that are told how alike two pictures are.

An induction head copies what followed a token that comes again (Olsson et al.
2022): at a token it asks for those that follow one like it. Few-shot prompts
are read so, `<image>` being the token that comes again, and a name what is
copied. But what makes two pictures alike has to go through all layers below
those heads, and through the few dimensions that their queries and keys share.
So a likeness of the pictures themselves is added to their scores: to its query
an `<image>` gets what it asks with, and to its key a word behind one what it
answers with. Weights, values and all other heads are the frozen LM's.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from flamingo.model.decoder import Beside
from flamingo.model.lm import LM
from flamingo.types import Params

# (layer, head)
Head = tuple[int, int]


class InductionPath(nn.Module):
  """A bilinear likeness of two pictures, in the scores of some heads.

  At a strength of zero, as it is, it says nothing at first and learns to.

  Attributes:
    visual_width: width C of gists, the most telling components in front.
    width: components R that are compared.
    heads: the heads that are told, as (layer, head).
    tag: token id of `<image>`; ids from it on are of new tokens.
    strength: at first, of the likeness: the inner product of the first R
      components of two gists, which have a norm of 1.
  """

  visual_width: int
  width: int
  heads: tuple[Head, ...]
  tag: int
  strength: float = 0.0

  def setup(self):
    shape = self.visual_width, self.width
    first = lambda size: lambda *_: size * jnp.eye(*shape)
    self.asked = self.param('asked', first(self.strength))
    self.answered = self.param('answered', first(1.0))

  def __call__(
      self,
      gists: Float[Array, 'b n c'],
      tokens: Int[Array, 'b l'],
      image_index: Int[Array, 'b l'],
  ) -> dict[int, Beside]:
    """What queries and keys have besides, by layer.

    Of two pictures with a name each, and a text in front:

      tokens       text  <image>  dog  <EOC>  <image>  cat
      image_index     0        1    1      1        2    2
      asked           0        1    0      0        1    0
      answered        0        0    1      0        0    1

    Args:
      gists: of each image, see `gist`.
      tokens: ids.
      image_index: the image each token sees, from 1; 0 sees none.
    """
    # Mapped once for each image, then looked up.
    own = jnp.maximum(image_index - 1, 0)[:, :, None]
    asked, answered = (
        jnp.take_along_axis(gists @ kernel, own, axis=1)
        for kernel in (self.asked, self.answered))
    sees = (image_index > 0)[:, :, None]
    tokens = tokens[:, :, None]
    asked = jnp.where(sees & (tokens == self.tag), asked, 0)
    answered = jnp.where(sees & (tokens < self.tag), answered, 0)
    return {
        layer: Beside(asked, answered, heads)
        for layer, heads in by_layer(self.heads).items()}

  @property
  def wider(self) -> dict[int, int]:
    """By how much keys are wider in a cache, by layer."""
    return dict.fromkeys(by_layer(self.heads), self.width)


def by_layer(heads: Sequence[Head]) -> dict[int, tuple[int, ...]]:
  """The heads of each layer that has some."""
  layers = sorted({layer for layer, _ in heads})
  return {
      layer: tuple(head for at, head in heads if at == layer)
      for layer in layers}


def gist(features: Float[Array, 'b n t s c']) -> Float[Array, 'b n c']:
  """A picture in one vector of norm 1: its features averaged over places."""
  mean = features.mean(axis=(2, 3))
  # Of a picture without features, which the padding of a batch is, zero.
  square = (mean * mean).sum(-1, keepdims=True)
  return mean / jnp.sqrt(jnp.maximum(square, 1e-6))


def find_heads(
    lm: LM, params: Params, words: Sequence[int], *, length: int = 30,
    rows: int = 16, least: float = 0.5, seed: int = 0,
) -> dict[Head, float]:
  """The induction heads of a language model.

  It reads words at random, twice: what weight has, from the second time, the
  token that followed the first time?

  Args:
    lm: the language model.
    params: of it.
    words: ids to draw from.
    length: words that come twice.
    rows: how often it is tried.
    least: mean weight from which on a head is one.
    seed: of the words.

  Returns:
    The mean weight of each, by (layer, head).
  """
  rng = np.random.default_rng(seed)
  once = rng.choice(np.asarray(words), (rows, length))
  weights = lm.apply(
      {'params': params}, jnp.asarray(np.tile(once, (1, 2))),
      method='attention_weights')
  at = np.arange(length, 2 * length - 1)
  found = np.asarray(weights)[..., at, at - length + 1].mean(axis=(1, 3))
  return {
      (int(layer), int(head)): float(found[layer, head])
      for layer, head in np.argwhere(found >= least)}


def check_heads(lm: LM, heads: Sequence[Head]) -> None:
  """Raises ValueError if there are none, or some that the model lacks."""
  absent = [
      (layer, head) for layer, head in heads
      if not (0 <= layer < lm.layers and 0 <= head < lm.heads)]
  if absent or not heads:
    raise ValueError(
        f'An induction path needs heads as (layer, head), of {lm.layers} '
        f'layers with {lm.heads} each; came {absent or "none"}. '
        '`induction.find_heads` finds those of a language model.')
