"""How sure a score is: intervals over examples and seeds, and a paired test.

Scores of a run vary with the examples that a benchmark happens to have and with
the demonstrations that a seed happens to draw. Both are resampled: seeds and
examples independently, since every seed is asked the same examples: Owen's
pigeonhole bootstrap (Annals of Applied Statistics, 2007), which is a little
wide rather than narrow. Everything is a pure function of its arguments.
"""

from collections.abc import Callable, Sequence
import dataclasses
import statistics

from jaxtyping import Float, Int
import numpy as np

from flamingo.eval.scores import draws
from flamingo.eval.scores import score

# Of seeds and of examples, each with repetitions, to the score of those.
Statistic = Callable[[Int[np.ndarray, ' s'], Int[np.ndarray, ' n']], float]


@dataclasses.dataclass(frozen=True)
class Interval:
  """A score and where it would lie with other examples and seeds.

  Attributes:
    value: the score as measured.
    low: lower end; NaN where there is only one example.
    high: upper end; NaN likewise.
  """

  value: float
  low: float
  high: float


def mean_interval(
    values: score.Numbers | score.Rows,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    corrected: bool = False,
) -> Interval:
  """Bootstrap interval of a mean over examples and seeds.

  Of the resampled means, the part in the middle (percentile), or that part
  corrected for bias and skew (BCa, Efron 1987). With few seeds, as three, their
  share of the variance is understated by a factor (s - 1) / s.

  Args:
    values: score of each example under each seed; one row for one seed.
    level: how often such an interval should contain the truth.
    resamples: how many means.
    seed: of the resampling.
    corrected: whether to correct for bias and skew.

  Raises:
    ValueError: if a value is NaN, or there is none.
  """
  values = _checked(values)
  if values.shape[1] == 1:
    return Interval(float(values.mean()), float('nan'), float('nan'))
  means = np.concatenate(list(draws.means(values, resamples, seed)))
  return _interval(
      float(values.mean()), means, level,
      _acceleration(values) if corrected else None)


def sums_interval(
    sums: Sequence[score.Sums],
    *,
    level: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
  """Percentile interval of a function of sums over examples, as BLEU.

  Every draw is a corpus of its own: its sums are taken under each seed drawn,
  and their scores are averaged.

  Args:
    sums: of each seed, of the same examples in the same order.
    level: how often such an interval should contain the truth.
    resamples: how many scores.
    seed: of the resampling.

  Raises:
    ValueError: there is no seed or no example, or the shapes differ.
  """
  shapes = sorted({one.parts.shape for one in sums})
  if len(shapes) != 1 or not shapes[0][0]:
    raise ValueError(
        'Expected numbers of the same examples under each seed, got arrays of '
        f'shapes {shapes}.')
  s, (n, k) = len(sums), shapes[0]
  parts = np.concatenate([one.parts for one in sums], axis=1)

  def scores(totals):
    return np.stack([
        one.of(totals[..., i * k : (i + 1) * k])
        for i, one in enumerate(sums)], axis=-1)

  value = float(scores(parts.sum(axis=0)).mean())
  if n == 1:
    return Interval(value, float('nan'), float('nan'))
  rng, found = np.random.default_rng(seed), []
  for size in draws.chunks(resamples, n):
    of_seeds = rng.multinomial(s, np.full(s, 1 / s), size)
    of_examples = draws.of_kinds(rng, np.ones(n, np.int64), size)
    found.append((of_seeds * scores(of_examples @ parts)).sum(axis=1) / s)
  return _interval(value, np.concatenate(found), level, None)


def interval(
    statistic: Statistic,
    *,
    examples: int,
    seeds: int = 1,
    level: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
  """Percentile interval of any score, as an area under a curve.

  Args:
    statistic: the score of some seeds and examples by index; NaN where those
      have none, as an area of positives alone: such draws are left out.
    examples: how many there are.
    seeds: how many there are.
    level: how often such an interval should contain the truth.
    resamples: how many scores.
    seed: of the resampling.

  Raises:
    ValueError: if the score as measured is NaN.
  """
  value = float(statistic(np.arange(seeds), np.arange(examples)))
  if np.isnan(value):
    raise ValueError('Expected a score of all examples, got NaN.')
  rng = np.random.default_rng(seed)
  found = np.asarray([
      statistic(rng.integers(seeds, size=seeds),
                rng.integers(examples, size=examples))
      for _ in range(resamples)])
  found = found[~np.isnan(found)]
  if examples == 1 or not found.size:
    return Interval(value, float('nan'), float('nan'))
  return _interval(value, found, level, None)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One run against another on the same examples.

  Attributes:
    difference: of their means, the first less the second, with its interval.
    p_value: how often a difference as great comes about if the two runs'
      values may be exchanged in any example.
  """

  difference: Interval
  p_value: float


def compare(
    first: score.Numbers | score.Rows,
    second: score.Numbers | score.Rows,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
  """Paired bootstrap and permutation test of two runs on the same examples.

  The test exchanges the two runs' values of an example, under all seeds
  together, so it needs no more than that examples are independent. All ways to
  exchange are tried if they are no more than `resamples`; otherwise as many
  are drawn, and p is (1 + those as great) / (1 + resamples), never 0.

  Args:
    first: score of each example under each seed; one row for one seed.
    second: likewise, the same examples and seeds in the same order.
    level: of the interval of the difference.
    resamples: how many differences, for the interval and for the test each.
    seed: of the resampling.

  Raises:
    ValueError: if the shapes differ or a value is NaN.
  """
  first, second = _checked(first), _checked(second)
  if first.shape != second.shape:
    raise ValueError(
        'Expected two runs on the same seeds and examples, got shapes '
        f'{first.shape} and {second.shape}.')
  difference = first - second
  per_example = difference.mean(axis=0)
  n = len(per_example)
  exact = n < 31 and 2**n <= resamples
  if exact:
    signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    found = signs @ per_example
  else:
    rng = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(per_example), return_counts=True)
    # Of so many equal differences, those that come out positive less the rest.
    found = np.concatenate([
        (2 * rng.binomial(counts, 0.5, (some, len(counts))) - counts) @ sizes
        for some in draws.chunks(resamples, len(counts))])
  # Equal sums must count as equal, whatever their rounding.
  measured = abs(per_example.sum())
  as_great = (np.abs(found) >= measured - 1e-9 * max(1.0, measured)).sum()
  return Comparison(
      mean_interval(difference, level=level, resamples=resamples, seed=seed),
      float(as_great / len(found) if exact
            else (1 + as_great) / (1 + len(found))))


def _checked(values: score.Numbers | score.Rows) -> Float[np.ndarray, 's n']:
  values = np.atleast_2d(np.asarray(values, np.float64))
  if values.ndim != 2 or not values.size or np.isnan(values).any():
    raise ValueError(
        'Expected a value of each example, or of each seed and example, none '
        f'of them NaN, got shape {values.shape} with '
        f'{np.isnan(values).sum()} NaN.')
  return values


def _acceleration(values: Float[np.ndarray, 's n']) -> float:
  """Skew of the mean, from what each example and each seed adds to it."""
  mean, (s, n) = values.mean(), values.shape
  parts = np.concatenate([
      (values.mean(axis=0) - mean) / n, (values.mean(axis=1) - mean) / s])
  square = (parts**2).sum()
  return float((parts**3).sum() / (6 * square**1.5)) if square > 0 else 0.0


def _interval(
    value: float, found: np.ndarray, level: float, acceleration: float | None
) -> Interval:
  """The middle of the resampled scores, corrected if there is a skew."""
  if not 0 < level < 1:
    raise ValueError(f'Expected a level between 0 and 1, got {level}.')
  ends = [(1 - level) / 2, (1 + level) / 2]
  if acceleration is not None:
    normal = statistics.NormalDist()
    below = ((found < value).sum() + 0.5 * (found == value).sum()) / len(found)
    bias = normal.inv_cdf(min(max(below, 1e-6), 1 - 1e-6))
    shifted = [bias + normal.inv_cdf(end) for end in ends]
    ends = [normal.cdf(bias + z / (1 - acceleration * z)) for z in shifted]
  low, high = np.quantile(found, ends)
  return Interval(value, float(low), float(high))
