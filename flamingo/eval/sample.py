"""Text drawn at random, in numpy; a model only gives log-probabilities.

Each draw is a pure function of a seed, the prompt's name and the number of the
draw: neither the batch it is in nor the other draws have a part in it.
"""

from collections.abc import Sequence
import dataclasses
import hashlib

from jaxtyping import Float
import numpy as np

from flamingo.eval.beam import Generation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """What is drawn from: a distribution over the next token, made narrower.

  In the order of `transformers`: temperature, then `top_k`, then `top_p`.

  Attributes:
    temperature: log-probabilities are divided by it; greedy text is its limit
      at 0, which `Predictor.generate` gives.
    top_k: only so many of the most probable tokens; 0 for all of them.
    top_p: of those the fewest that have this share of the probability (nucleus
      sampling, Holtzman et al., arXiv:1904.09751); 1 for all of them.
    seed: of chance.

  Tokens as probable as the last one kept are kept too: ties favour no index.

  Raises:
    ValueError: a value is out of its range.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0

  def __post_init__(self):
    for name, good, expected in (
        ('temperature', 0 < self.temperature < np.inf, 'a positive number'),
        ('top_k', self.top_k >= 0, 'at least 0, which keeps all tokens'),
        ('top_p', 0 < self.top_p <= 1, 'more than 0, and 1 at most'),
        ('seed', self.seed >= 0, 'at least 0')):
      if not good:
        raise ValueError(
            f'Sampling has {name}={getattr(self, name)!r}; expected '
            f'{expected}.')

  def narrow(
      self, log_p: Float[np.ndarray, 'k v']
  ) -> Float[np.ndarray, 'k v']:
    """Log-probabilities of what is drawn from; -inf for what never is."""
    x = _normed(np.asarray(log_p, np.float64) / self.temperature)
    if 0 < self.top_k < x.shape[1]:
      x = _at_least(x, np.partition(x, -self.top_k)[:, [-self.top_k]])
    if self.top_p < 1:
      falling = -np.sort(-x)
      before = np.cumsum(np.exp(falling), axis=1) - np.exp(falling)
      kept = np.maximum((before < self.top_p).sum(1, keepdims=True), 1)
      x = _at_least(x, np.take_along_axis(falling, kept - 1, axis=1))
    return x


class Draws:
  """Several continuations of one prompt, drawn token by token.

  What is drawn is the token whose log-probability plus Gumbel noise of its own
  is greatest. So a rounding error of a batch changes a draw only where two such
  sums are equal to within it; where a cumulative sum is compared with a random
  number, the errors of a whole vocabulary add up.

  Args:
    size: how many continuations.
    stop: the token that ends one.
    sampling: what is drawn from.
    name: of the prompt.
  """

  def __init__(self, size: int, *, stop: int, sampling: Sampling, name: str):
    if size < 1:
      raise ValueError(f'Expected at least one draw a prompt; came {size}.')
    self.size, self.stop, self.sampling = size, stop, sampling
    self.open = [Generation((), 0.0)]  # one prompt, from which all set out
    self._numbers = list(range(size))
    self._ended: dict[int, Generation] = {}
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    self._chance = [
        np.random.default_rng(
            [sampling.seed, number, *np.frombuffer(digest, np.uint32).tolist()])
        for number in range(size)]

  def advance(self, log_p: Float[np.ndarray, 'k v']) -> list[int]:
    """Extends every open continuation by one token.

    Args:
      log_p: of the next token of each open continuation.

    Returns:
      which old continuation each one that is still open extends.
    """
    narrow = self.sampling.narrow(log_p)
    parents, extended, numbers = [], [], []
    for place, number in enumerate(self._numbers):
      parent = min(place, len(self.open) - 1)
      token = int(np.argmax(
          narrow[parent] + _gumbel(self._chance[number], log_p.shape[1])))
      said = self.open[parent]
      total = said.log_likelihood + float(log_p[parent, token])
      if token == self.stop:
        self._ended[number] = Generation(said.tokens, total)
      else:
        parents.append(parent)
        extended.append(Generation((*said.tokens, token), total))
        numbers.append(number)
    self.open, self._numbers = extended, numbers
    return parents

  def all(self) -> Sequence[Generation]:
    """Each draw, in order, whether it has ended or not.

    Log-likelihoods are the model's own, not those of the narrower distribution.
    """
    said = self._ended | dict(zip(self._numbers, self.open))
    return [said[number] for number in range(self.size)]


def _normed(x):
  x = x - x.max(axis=1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _at_least(x, least):
  return _normed(np.where(x >= least, x, -np.inf))


def _gumbel(chance: np.random.Generator, size: int) -> np.ndarray:
  # Uniform numbers are the same in all versions of numpy; `gumbel` need not be.
  uniform = 1 - chance.random(size)  # in (0, 1]
  return -np.log(np.maximum(-np.log(uniform), np.finfo(np.float64).tiny))
