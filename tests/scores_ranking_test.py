"""Metrics of ranked candidates; ties never favour an index."""

import itertools
import math

import numpy as np
import pytest

from flamingo.eval.metrics import is_best
from flamingo.eval.scores import ranking


def _with_ties(rng, *shape):
  return rng.integers(0, 4, shape).astype(float)


def _over_orders(scores, metric):
  """Mean of a metric of a list without ties over all ways to break them."""
  values = [
      metric(sorted(order, key=lambda i: -scores[i]))
      for order in itertools.permutations(range(len(scores)))]
  return sum(values) / len(values)


@pytest.mark.parametrize('k', [1, 2, 5, 7])
def test_top_k_is_the_mean_over_all_ways_to_break_ties(k):
  rng = np.random.default_rng(0)
  for answer in range(5):
    scores = _with_ties(rng, 5)
    assert ranking.top_k([scores], [answer], k).value == pytest.approx(
        _over_orders(scores, lambda order, a=answer: a in order[:k]))


def test_top_1_is_the_house_s_rule_for_ties():
  rng = np.random.default_rng(1)
  for answer in range(6):
    scores = _with_ties(rng, 6)
    assert ranking.top_k([scores], [answer]).value == is_best(
        scores.tolist(), answer)


def test_a_model_that_scores_all_alike_gets_chance():
  for answer in range(7):
    assert ranking.top_k([np.zeros(7)], [answer], 3).value == (
        pytest.approx(3 / 7))


def test_examples_may_have_different_numbers_of_candidates():
  found = ranking.top_k([[1, 2], [5, 3, 4]], [1, 1])
  assert found.examples.tolist() == [1, 0]
  assert found.value == 0.5


def test_kinetics_takes_the_mean_of_top_1_and_top_5():
  scores = np.arange(8.0)[None]
  for answer, value in [(7, 1), (6, 0.5), (3, 0.5), (2, 0)]:
    assert ranking.mean_of_top_1_and_top_5(scores, [answer]).value == value


def test_ndcg_is_the_definition_where_nothing_ties():
  scores, relevance = [3.0, 1.0, 2.0, 0.0], [0.2, 0.0, 0.0, 1.0]
  # Two candidates are relevant, so the two best ranks count.
  gain = 0.2 / math.log2(2) + 0.0 / math.log2(3)
  best = 1.0 / math.log2(2) + 0.2 / math.log2(3)
  assert ranking.ndcg([scores], [relevance]).value == pytest.approx(gain / best)


def test_ndcg_is_the_official_script_s():
  # What visdialch/metrics.py gives for these.
  found = ranking.ndcg(
      [[0.1, 0.7, -0.3, 2.0, 0.4], [5.0, 4.0, 3.0, 2.0, 1.0]],
      [[0.0, 0.5, 1.0, 0.2, 0.0], [0.4, 0.0, 0.0, 0.8, 0.0]])
  assert found.value == pytest.approx(0.3721301, abs=1e-6)


def test_ndcg_is_the_mean_over_all_ways_to_break_ties():
  rng = np.random.default_rng(2)
  for _ in range(5):
    scores, relevance = _with_ties(rng, 5), rng.integers(0, 3, 5) / 2
    relevance[0] = 1.0
    count = int((relevance > 0).sum())
    discount = [1 / math.log2(r + 2) for r in range(count)]

    def gain(order, relevance=relevance, discount=discount):
      return sum(relevance[i] * d for i, d in zip(order, discount))

    best = gain(sorted(range(5), key=lambda i, r=relevance: -r[i]))
    assert ranking.ndcg([scores], [relevance]).value == pytest.approx(
        _over_orders(scores, gain) / best)


def _auc_by_counting(scores, labels):
  pairs = [
      (p > n) + (p == n) / 2
      for p, is_p in zip(scores, labels) if is_p
      for n, is_n in zip(scores, labels) if not is_n]
  return sum(pairs) / len(pairs)


@pytest.mark.parametrize('n', [2, 13, 101])
def test_auc_is_the_share_of_pairs_in_order(n):
  rng = np.random.default_rng(n)
  labels = rng.permutation(np.arange(n) % 2)
  for scores in _with_ties(rng, n), rng.standard_normal(n), np.zeros(n):
    assert ranking.roc_auc(scores, labels).value == pytest.approx(
        _auc_by_counting(scores, labels), abs=1e-12)


@pytest.mark.original
def test_auc_is_scikit_learn_s():
  metrics = pytest.importorskip(
      'sklearn.metrics', reason='scikit-learn is not installed')
  rng = np.random.default_rng(3)
  labels, scores = rng.integers(0, 2, 97), _with_ties(rng, 97)
  assert ranking.roc_auc(scores, labels).value == pytest.approx(
      metrics.roc_auc_score(labels, scores), abs=1e-12)


def test_every_metric_is_the_same_in_another_order_of_candidates():
  rng = np.random.default_rng(4)
  scores, relevance = _with_ties(rng, 7), rng.random(7)
  order = rng.permutation(7)
  answer = int(np.flatnonzero(order == 2)[0])
  for k in 1, 3:
    assert ranking.top_k([scores], [2], k).value == (
        ranking.top_k([scores[order]], [answer], k).value)
  assert ranking.ndcg([scores], [relevance]).value == pytest.approx(
      ranking.ndcg([scores[order]], [relevance[order]]).value, abs=1e-12)


@pytest.mark.parametrize('call, message', [
    (lambda: ranking.top_k([[1.0]], [0, 0]), '1 predictions and 2 references'),
    (lambda: ranking.top_k([[1.0, math.nan]], [0]), 'NaN'),
    (lambda: ranking.top_k([[1.0, 2.0]], [2]), '2 for example 0'),
    (lambda: ranking.top_k([[]], [0]), 'score for each candidate'),
    (lambda: ranking.ndcg([[1.0, 2.0]], [[0.0, 0.0]]), 'at least one above 0'),
    (lambda: ranking.ndcg([[1.0, 2.0]], [[1.0]]), '2 candidates'),
    (lambda: ranking.roc_auc([1.0, 2.0], [1, 1]), r'at least one of each'),
    (lambda: ranking.roc_auc([1.0, 2.0], [0, 2]), r'labels 0 and 1'),
    (lambda: ranking.roc_auc([1.0, math.nan], [0, 1]), 'NaN'),
])
def test_what_cannot_be_scored_is_told(call, message):
  with pytest.raises(ValueError, match=message):
    call()
