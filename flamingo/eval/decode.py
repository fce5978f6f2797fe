"""What a trained model says to a prompt: likelihoods of answers, or new text.

An image is seen once: its latents are kept by its row in the feature store and
serve every prompt, shot count, control and candidate.
"""

from collections.abc import Callable, Sequence

from jax.sharding import Mesh
from jaxtyping import Float
import numpy as np

from flamingo.data.encode import Example
from flamingo.eval.beam import Beam, Generation
from flamingo.eval.rank import Asked, rank
from flamingo.eval.reader import Reader
from flamingo.eval.sample import Draws, Sampling
from flamingo.eval.search import search
from flamingo.model.flamingo import Flamingo
from flamingo.types import Params

_SEEN_AT_ONCE = 64


class Predictor(Reader):
  """Reads prompts in batches whose shapes are few, so that few are compiled.

  Results depend neither on the batch size, nor on what else is in the batch,
  nor on the number of devices.

  With T = `tokens_at_once`, a device holds the keys and values of T tokens, or
  of one prompt if that is longer; attention weights [heads T L] of prompts of L
  tokens, 512 more where candidates are many; and logits of 256 tokens.

  Args:
    model: the network.
    params: all parameters, frozen ones included.
    features: rows of the feature store to features [n S D].
    pad_id: fills up batches.
    never: tokens that are never generated, such as image tags.
    tokens_at_once: bounds a device's batch: rows times length.
    mesh: of devices that share batches and parameters; None for one device.
  """

  def __init__(
      self,
      model: Flamingo,
      params: Params,
      features: Callable[[np.ndarray], np.ndarray],
      *,
      pad_id: int,
      never: Sequence[int] = (),
      tokens_at_once: int = 2048,
      mesh: Mesh | None = None,
  ):
    super().__init__(
        model, params, pad_id=pad_id, tokens_at_once=tokens_at_once, mesh=mesh)
    self.features, self.never = features, list(never)
    self._latents: dict[int, np.ndarray] = {}
    self._introduced = 0

  def latents(self, rows: Sequence[int]) -> Float[np.ndarray, 'n r c']:
    """Latents of rows of the feature store, computed once."""
    missing = sorted(set(map(int, rows)) - self._latents.keys())
    for start in range(0, len(missing), _SEEN_AT_ONCE):
      some = missing[start : start + _SEEN_AT_ONCE]
      padded = np.asarray(some + some[:1] * (_SEEN_AT_ONCE - len(some)))
      (features,) = self.put(self.features(padded))
      seen = np.asarray(self.see(self.params, features))
      self._latents.update(zip(some, seen))
    return np.stack([self._latents[int(row)] for row in rows])

  def introduce(self, features: np.ndarray) -> list[int]:
    """Makes rows for features [n S D] that are not in the store.

    Returns:
      their numbers, which are negative.
    """
    rows = []
    for start in range(0, len(features), _SEEN_AT_ONCE):
      some = features[start : start + _SEEN_AT_ONCE]
      # One picture of a chat is not worth 64; shapes are few all the same.
      short = (1 << (len(some) - 1).bit_length()) - len(some)
      (padded,) = self.put(
          np.concatenate([some, np.repeat(some[:1], short, axis=0)]))
      for latents in np.asarray(self.see(self.params, padded))[: len(some)]:
        self._introduced += 1
        rows.append(-self._introduced)
        self._latents[rows[-1]] = latents
    return rows

  def rank(
      self, groups: Sequence[Sequence[Asked]]
  ) -> list[list[np.ndarray]]:
    """Log-likelihood of each candidate continuation of each prompt.

    Args:
      groups: of (prompt, token ids of its candidates). Where prompts of a
        group begin alike, and where candidates do, that is read once.

    Returns:
      for each prompt of each group, the summed log-probability of each of its
      candidates.

    Raises:
      ValueError: a prompt is empty, or has no candidates, or is too long for
        the model.
    """
    return rank(self, groups)

  def generate(
      self,
      prompts: Sequence[Example],
      *,
      max_tokens: int,
      stop: int,
      beams: int = 1,
      length_penalty: float = 0.0,
  ) -> list[Generation]:
    """Continues each prompt, greedily or by beam search.

    Args:
      prompts: encoded documents, left open at their end.
      max_tokens: most tokens of a continuation, the end included.
      stop: the token that ends one, `<EOC>`.
      beams: hypotheses kept; 1 is greedy. The paper has 3.
      length_penalty: see `Beam`.

    Raises:
      ValueError: a prompt is empty, or too long for the model.
    """
    searches = [
        Beam(beams, stop=stop, length_penalty=length_penalty) for _ in prompts]
    search(
        self, prompts, searches, max_tokens=max_tokens, never=self.never)
    return [each.best() for each in searches]

  def sample(
      self,
      prompts: Sequence[Example],
      *,
      max_tokens: int,
      stop: int,
      sampling: Sampling,
      draws: int = 1,
      names: Sequence[str] | None = None,
  ) -> list[list[Generation]]:
    """Continues each prompt at random, some times.

    What is drawn is a pure function of the sampling's seed, the prompt, its
    name and the number of the draw.

    Args:
      prompts: as of `generate`.
      max_tokens: likewise.
      stop: likewise.
      sampling: what is drawn from.
      draws: continuations of each prompt.
      names: of the prompts, each the root of a chance of its own; by default
        their tokens, so that prompts which differ in images alone share it.

    Raises:
      ValueError: a prompt is empty, or too long for the model; or no draws.
    """
    if names is None:
      names = [' '.join(map(str, prompt.tokens)) for prompt in prompts]
    searches = [
        Draws(draws, stop=stop, sampling=sampling, name=name)
        for _, name in zip(prompts, names, strict=True)]
    search(
        self, prompts, searches, max_tokens=max_tokens, never=self.never)
    return [list(each.all()) for each in searches]
