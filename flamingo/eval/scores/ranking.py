"""Metrics of candidates that are ranked by their scores.

Equal scores never favour an index: each metric is what it would be on average
if ties were broken at random. A model that scores everything alike so gets
chance, whatever the order of its candidates.
"""

from jaxtyping import Bool, Float
import numpy as np

from flamingo.eval.scores import score


def _scores(scores: score.Numbers, example: int) -> np.ndarray:
  """One example's scores; refuses what has no rank."""
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 1 or not scores.size or np.isnan(scores).any():
    raise ValueError(
        'Expected a score for each candidate, none of them NaN, got '
        f'{scores!r} for example {example}.')
  return scores


def top_k(
    predictions: score.Rows, references: score.Numbers, k: int = 1
) -> score.Score:
  """Share of examples whose answer is among the k best candidates.

  Where several candidates tie for the last of the k places, the answer gets
  its share of them: `flamingo.eval.metrics.is_best` for k = 1. Scripts that
  sort break ties by place in the list.

  Args:
    predictions: a score for each candidate of each example; examples may have
      different numbers of candidates.
    references: place of the right candidate.
    k: how many guesses count.

  Raises:
    ValueError: if the numbers differ, or a score is NaN.
  """
  score.check_aligned(predictions, references)
  examples = []
  for i, (scores, answer) in enumerate(zip(predictions, references)):
    scores = _scores(scores, i)
    if not 0 <= answer < len(scores):
      raise ValueError(
          f'Expected the place of one of {len(scores)} candidates, got '
          f'{answer} for example {i}.')
    places = k - (scores > scores[answer]).sum()  # left for it and its equals
    equal = (scores == scores[answer]).sum()
    examples.append(min(max(places / equal, 0.0), 1.0))
  return score.mean_score(examples)


def mean_of_top_1_and_top_5(
    predictions: score.Rows, references: score.Numbers
) -> score.Score:
  """Mean of top-1 and top-5 accuracy, as Kinetics-700 is scored.

  The Kinetics challenge's measure (Carreira et al. 2019,
  https://arxiv.org/abs/1907.06987); arguments and errors as for `top_k`.
  """
  first = top_k(predictions, references, 1).examples
  fifth = top_k(predictions, references, 5).examples
  return score.mean_score((first + fifth) / 2)


def ndcg(predictions: score.Rows, references: score.Rows) -> score.Score:
  """Normalized discounted cumulative gain of VisDial's dense annotations.

  The gain at a rank is the relevance over log2(rank + 1), and as many ranks
  count as candidates have a relevance that is not 0; over that of the best
  order. As visdialch/metrics.py of batra-mlp-lab/visdial-challenge-starter-
  pytorch, but that candidates with equal scores share their ranks' discounts
  (McSherry and Najork 2008), where its sort puts them in any order.

  Args:
    predictions: a score for each candidate of each example.
    references: the relevance of each candidate, 0 to 1.

  Raises:
    ValueError: if the numbers differ, a score is NaN, or nothing is relevant.
  """
  score.check_aligned(predictions, references)
  examples = []
  for i, (scores, relevance) in enumerate(zip(predictions, references)):
    scores = _scores(scores, i)
    relevance = np.asarray(relevance, np.float64)
    if relevance.shape != scores.shape or not (relevance > 0).any():
      raise ValueError(
          f'Expected a relevance for each of {len(scores)} candidates, at '
          f'least one above 0, got {relevance!r} for example {i}.')
    count = (relevance != 0).sum()
    discounts = np.where(
        np.arange(len(scores)) < count,
        1 / np.log2(np.arange(len(scores)) + 2), 0.0)
    best = (np.sort(relevance)[::-1] * discounts).sum()
    _, group, sizes = np.unique(
        -scores, return_inverse=True, return_counts=True)
    # Candidates of a group hold its ranks in any order, so each gets the mean
    # of their discounts.
    ends = np.cumsum(sizes)
    sums = np.diff(np.concatenate([[0.0], np.cumsum(discounts)[ends - 1]]))
    examples.append((relevance * (sums / sizes)[group]).sum() / best)
  return score.mean_score(examples)


def roc_auc(
    predictions: score.Numbers, references: score.Numbers
) -> score.Score:
  """Area under the ROC curve, as HatefulMemes is scored.

  The probability that a positive example scores above a negative one, a tie
  counting half, which is also what scikit-learn's roc_auc_score gives. It has
  no values of examples.

  Args:
    predictions: a score for each example, higher for positive.
    references: whether each is positive; or 0 and 1.

  Raises:
    ValueError: if the numbers differ, a score is NaN, or all are of one kind.
  """
  score.check_aligned(predictions, references)
  scores = _scores(predictions, 0)
  positive = np.asarray(references)
  if not np.isin(positive, (0, 1)).all() or len(set(positive.tolist())) < 2:
    raise ValueError(
        'Expected labels 0 and 1, at least one of each, got '
        f'{sorted(set(positive.tolist()))}.')
  return score.Score(_auc(scores, positive.astype(bool)), np.empty(0))


def _auc(scores: Float[np.ndarray, ' n'], positive: Bool[np.ndarray, ' n']
         ) -> float:
  _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
  middle = (np.cumsum(sizes) - (sizes - 1) / 2)[group]  # rank, ties' in common
  p, n = positive.sum(), (~positive).sum()
  return float((middle[positive].sum() - p * (p + 1) / 2) / (p * n))
