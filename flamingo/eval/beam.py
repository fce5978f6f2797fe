"""Beam search over one prompt, in numpy; a model only gives log-probabilities.

The paper decodes open answers with a beam of 3 (section 3.2) and gives no
length penalty.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Generation:
  """A continuation, without what ended it, and its log-likelihood."""

  tokens: tuple[int, ...]
  log_likelihood: float


class Beam:
  """The hypotheses of one prompt; a beam of 1 is greedy decoding.

  It says what `transformers` does with `early_stopping=False`, its default.

  Args:
    size: open hypotheses kept.
    stop: the token that ends a hypothesis.
    length_penalty: hypotheses are compared by log-likelihood over
      length ** length_penalty, the end counted.
  """

  def __init__(self, size: int, *, stop: int, length_penalty: float = 0.0):
    self.size, self.stop, self.length_penalty = size, stop, length_penalty
    self.open = [Generation((), 0.0)]
    self.ended: list[Generation] = []

  def advance(self, log_p: np.ndarray) -> list[int]:
    """Extends every hypothesis by one token.

    Args:
      log_p: [k V], of the next token of each open hypothesis.

    Returns:
      which old hypothesis each new one extends; empty when the search is over.
    """
    vocabulary = log_p.shape[1]
    before = np.array([[h.log_likelihood] for h in self.open])
    total = (before + log_p.astype(np.float64)).ravel()
    few = min(2 * self.size, total.size)
    best = np.argpartition(-total, few - 1)[:few]
    parents, extended = [], []
    for rank, j in enumerate(sorted(best, key=lambda j: (-total[j], j))):
      parent, token = divmod(int(j), vocabulary)
      said, score = self.open[parent].tokens, float(total[j])
      if token != self.stop:
        parents.append(parent)
        extended.append(Generation(said + (token,), score))
      elif rank < self.size:  # an end that is not among the best is none
        self.ended.append(Generation(said, score))
      if len(extended) == self.size:
        break
    self.open = extended
    if self._over():
      self.open = []
    return parents[: len(self.open)]

  def best(self) -> Generation:
    """The best that has ended, or is still open where nothing more is read."""
    return max(
        [(self._worth(h, ended=True), h) for h in self.ended]
        + [(self._worth(h, ended=False), h) for h in self.open],
        key=lambda entry: entry[0])[1]

  def _over(self) -> bool:
    if self.size == 1:
      return bool(self.ended)
    if len(self.ended) < self.size or not self.open:
      return not self.open
    kept = sorted(
        (self._worth(h, ended=True) for h in self.ended), reverse=True)
    hope = max(self._worth(h, ended=False) for h in self.open)
    return kept[self.size - 1] >= hope

  def _worth(self, hypothesis: Generation, *, ended: bool) -> float:
    length = len(hypothesis.tokens) + ended
    return hypothesis.log_likelihood / max(length, 1) ** self.length_penalty
