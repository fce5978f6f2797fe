"""Draws of examples, with repetitions, and their means.

Examples with equal values are exchangeable, so how many of them are drawn is
all that counts: a benchmark of 200,000 questions, whose scores are few, takes
no longer than one of a hundred.
"""

from collections.abc import Iterator

from jaxtyping import Float, Int
import numpy as np


def chunks(total: int, n: int) -> Iterator[int]:
  """Sizes that add up to `total`, with a million numbers or so in memory."""
  size = max(1, 1_000_000 // n)
  for start in range(0, total, size):
    yield min(size, total - start)


def means(
    values: Float[np.ndarray, 's n'], resamples: int, seed: int
) -> Iterator[Float[np.ndarray, ' b']]:
  """Of examples and seeds, both drawn anew, as often as asked."""
  s, n = values.shape
  columns, first, counts = np.unique(
      values, axis=1, return_index=True, return_counts=True)
  # In the order of the examples: of values with all signs changed the same.
  order = np.argsort(first)
  columns, counts = columns[:, order], counts[order]
  rng = np.random.default_rng(seed)
  for size in chunks(resamples, len(counts)):
    # How often each seed and each example is drawn is all that a mean needs.
    of_seeds = rng.multinomial(s, np.full(s, 1 / s), size)
    of_examples = of_kinds(rng, counts, size)
    yield (of_seeds @ columns * of_examples).sum(axis=1) / (s * n)


def of_kinds(
    rng: np.random.Generator, counts: Int[np.ndarray, ' k'], size: int
) -> Int[np.ndarray, 'b k']:
  """How often each kind is drawn, of kinds of which there are so many."""
  n, kinds = counts.sum(), len(counts)
  if kinds < n / 10:
    return rng.multinomial(n, counts / n, size)
  # As many binomial numbers would cost more than n examples one by one.
  kind, drawn = np.repeat(np.arange(kinds), counts), []
  for part in chunks(size, n):
    # Draw after draw has counters of its own, so that one call counts all.
    counter = kinds * np.arange(part)[:, None] + kind[
        rng.integers(n, size=(part, n))]
    drawn.append(np.bincount(counter.ravel(), minlength=part * kinds))
  return np.concatenate(drawn).reshape(size, kinds)
