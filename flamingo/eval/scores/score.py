"""What every metric returns."""

from collections.abc import Sequence, Sized
import dataclasses

from jaxtyping import Float
import numpy as np


@dataclasses.dataclass(frozen=True)
class Score:
  """A metric over a benchmark, and over each of its examples.

  Attributes:
    value: of the whole; a fraction, which papers print times 100.
    examples: of each example, in the order given; empty where the metric has
      none. Their mean is the value except where the metric says otherwise.
  """

  value: float
  examples: Float[np.ndarray, ' n']


def mean_score(examples: Sequence[float]) -> Score:
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
