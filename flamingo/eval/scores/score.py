"""What every metric returns."""

from collections.abc import Callable, Sequence, Sized
import dataclasses

from jaxtyping import Float, Shaped
import numpy as np

# What predictions and labels may be: numbers or truth values, in a sequence or
# an array; and one row of those for each example, of equal length or not.
Number = int | float | np.number | np.bool_
Numbers = Sequence[Number] | Shaped[np.ndarray, ' _']
Rows = Sequence[Numbers] | Shaped[np.ndarray, '_ _']


@dataclasses.dataclass(frozen=True)
class Sums:
  """What a metric of the corpus adds up over examples, and what it makes of it.

  Attributes:
    parts: numbers of each example.
    of: from sums [... k] of such numbers to scores [...].
  """

  parts: Float[np.ndarray, 'n k']
  of: Callable[[Float[np.ndarray, '... k']], Float[np.ndarray, '...']]


@dataclasses.dataclass(frozen=True)
class Score:
  """A metric over a benchmark, and over each of its examples.

  Attributes:
    value: of the whole; a fraction, which papers print times 100.
    examples: of each example, in the order given; empty where the metric has
      none. Their mean is the value except where the metric says otherwise.
    sums: what the value is made of where it is no mean but a function of sums.
  """

  value: float
  examples: Float[np.ndarray, ' n']
  sums: Sums | None = None


def mean_score(examples: Numbers) -> Score:
  """Score whose value is the mean of its examples."""
  examples = np.asarray(examples, np.float64)
  return Score(float(examples.mean()), examples)


def check_aligned(predictions: Sized, references: Sized) -> None:
  """Demands as many predictions as references, and at least one.

  Raises:
    ValueError: otherwise.
  """
  if len(predictions) != len(references) or not len(predictions):
    raise ValueError(
        'Expected a prediction for each example and at least one example, got '
        f'{len(predictions)} predictions and {len(references)} references.')
