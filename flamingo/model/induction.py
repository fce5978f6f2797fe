"""Pictures written where a frozen LM's induction heads look for what to copy.

An induction head copies what followed a token that comes again (Olsson et al.
2022): at a token it asks for those that follow one like it. Few-shot prompts
are read so, `<image>` being the token that comes again, and a name what is
copied. But what makes two pictures alike has then to go through all layers
below those heads, and through the few dimensions that their queries and keys
share. This path leads past the layers: it adds to `<image>` what such a head's
queries ask with, and to the words behind it what its keys answer to.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from flamingo.model.lm import LM
from flamingo.types import Params

# (layer, head)
Head = tuple[int, int]


class InductionPath(nn.Module):
  """Two linear maps of a picture's gist, into the residual stream of one layer.

  At zero, as they are made, they say nothing; `match` has better first values.

  Attributes:
    visual_width: width C of gists.
    width: residual width D of the language model.
    layer: LM layer before which they are added.
    tag: token id of `<image>`; ids from it on are of new tokens.
    branch_scale: factor on both: a share of the norm of the residual stream.
  """

  visual_width: int
  width: int
  layer: int
  tag: int
  branch_scale: float = 1.0

  def setup(self):
    shape = self.visual_width, self.width
    self.asked = self.param('asked', nn.initializers.zeros, shape)
    self.answered = self.param('answered', nn.initializers.zeros, shape)

  def __call__(
      self,
      x: Float[Array, 'b l d'],
      gists: Float[Array, 'b n c'],
      tokens: Int[Array, 'b l'],
      image_index: Int[Array, 'b l'],
  ) -> Float[Array, 'b l d']:
    """Adds what each token's picture has for it.

    Of two pictures with a name each, and a text in front:

      tokens       text  <image>  dog  <EOC>  <image>  cat
      image_index     0        1    1      1        2    2
      asked           0        1    0      0        1    0
      answered        0        0    1      0        0    1

    Args:
      x: residual stream before the layer.
      gists: of each image, see `gist`.
      tokens: ids.
      image_index: the image each token sees, from 1; 0 sees none.
    """
    # Written for each image once, then looked up.
    own = jnp.maximum(image_index - 1, 0)[:, :, None]
    asked, answered = (
        jnp.take_along_axis(gists @ kernel, own, axis=1)
        for kernel in (self.asked, self.answered))
    sees = (image_index > 0)[:, :, None]
    tokens = tokens[:, :, None]
    said = jnp.where(sees & (tokens == self.tag), asked, 0)
    said += jnp.where(sees & (tokens < self.tag), answered, 0)
    return x + self.branch_scale * said


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


def match(
    lm: LM, params: Params, heads: Sequence[Head], visual_width: int, *,
    rank: int, distance: int = 62,
) -> dict[str, np.ndarray]:
  """First values of an `InductionPath`: alike pictures find each other.

  A head's score of two states is a bilinear form; with rotary embeddings one
  for each distance, whose mean is taken. Its singular vectors are pairs of
  directions, one to ask along and one to answer along. The first `rank`
  components of gists go along the first pairs of each layer. (In SmolLM2 a
  layer has about 20 that are of any use.)

  Args:
    lm: the language model.
    params: of it.
    heads: its induction heads, as (layer, head); those of a layer are summed.
    visual_width: components of gists, the most telling in front.
    rank: how many of them are written.
    distance: tokens between the two, at most.

  Returns:
    `asked` and `answered`, [C D] each.

  Raises:
    ValueError: no heads, or heads that the model lacks; or more components
      than gists or states have.
  """
  check_heads(lm, heads)
  if not 0 < rank <= min(visual_width, lm.width):
    raise ValueError(
        'An induction path has a rank of 1 to '
        f'{min(visual_width, lm.width)}, the components of gists and states; '
        f'came {rank}.')
  asked = np.zeros((visual_width, lm.width), np.float32)
  answered = np.zeros_like(asked)
  for layer in sorted({layer for layer, _ in heads}):
    forms = lm.apply(
        {'params': params}, layer, jnp.arange(2, distance + 1),
        method='score_forms')
    form = sum(np.asarray(forms)[head] for at, head in heads if at == layer)
    left, _, right = np.linalg.svd(form)
    left, right = left.T[:rank], right[:rank]
    # A pair's sign is arbitrary; make it the same on every machine.
    largest = np.abs(left).argmax(axis=1)
    signs = np.sign(left[np.arange(rank), largest])[:, None]
    asked[:rank] += signs * left
    answered[:rank] += signs * right
  return {'asked': asked, 'answered': answered}
