"""Scores with their standard errors, and the baselines to set beside them."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
import numpy as np

from flamingo.eval.fewshot import Trial


def mean_and_stderr(
    values: Sequence[float], weights: Sequence[float] | None = None
) -> tuple[float, float]:
  """Weighted mean over examples and its standard error.

  Args:
    values: of each example; for a loss, its mean over the example's tokens.
    weights: of each example, as its number of tokens; 1 by default.
  """
  values = np.asarray(values, np.float64)
  weights = np.ones_like(values) if weights is None else np.asarray(weights)
  share = weights / weights.sum()
  mean = float((weights * values).sum() / weights.sum())  # of ones, exactly 1
  n = len(values)
  if n < 2:
    return mean, float('nan')
  variance = n / (n - 1) * (share**2 * (values - mean) ** 2).sum()
  return mean, float(np.sqrt(variance))


def is_best(scores: Sequence[float], answer: int) -> float:
  """1 if the answer alone scores best, 1/k if it shares that with k - 1 others.

  So a model that scores everything alike gets chance, whatever the order.
  """
  scores = np.asarray(scores)
  best = scores == scores.max()
  return float(best[answer]) / float(best.sum())


def nearest_centroid(
    trials: Sequence[Trial],
    features: Callable[[np.ndarray], Float[np.ndarray, 'n s d']],
) -> list[float]:
  """Correctness of a classifier that knows no language.

  It names the class whose demonstrations' mean is nearest (cosine), on the same
  frozen features, averaged over places and normalised.

  Args:
    trials: with at least one demonstration of each candidate.
    features: rows of the feature store to features.
  """
  rows = sorted({
      shot.image for t in trials for shot in (*t.support, t.query)})
  pooled = {}
  for start in range(0, len(rows), 256):
    some = np.asarray(rows[start : start + 256])
    mean = np.asarray(features(some), np.float32).mean(axis=1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    pooled.update(zip(some.tolist(), mean))
  correct = []
  for trial in trials:
    scores = []
    for name in trial.candidates:
      mine = [pooled[s.image] for s in trial.support if s.answer == name]
      centroid = np.mean(mine, axis=0)
      scores.append(
          pooled[trial.query.image] @ centroid / np.linalg.norm(centroid))
    correct.append(
        is_best(scores, trial.candidates.index(trial.query.answer)))
  return correct
