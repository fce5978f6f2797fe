"""Scores, their errors, and the classifier that knows no language."""

import math

from flamingo.eval import metrics
from flamingo.eval.fewshot import Shot, Trial
import numpy as np
import pytest


def test_mean_and_error_are_numpys():
  values = np.random.default_rng(0).normal(size=37)
  mean, error = metrics.mean_and_stderr(values)
  assert mean == pytest.approx(values.mean())
  assert error == pytest.approx(values.std(ddof=1) / 37**0.5)


def test_equal_weights_are_no_weights():
  values = [0.0, 1.0, 1.0, 0.5]
  assert metrics.mean_and_stderr(values, [3, 3, 3, 3]) == pytest.approx(
      metrics.mean_and_stderr(values))


def test_the_weighted_mean_is_the_mean_over_tokens():
  rng = np.random.default_rng(0)
  losses = [rng.normal(size=n) for n in (3, 1, 5)]
  mean, _ = metrics.mean_and_stderr(
      [loss.mean() for loss in losses], [3, 1, 5])
  assert mean == pytest.approx(np.concatenate(losses).mean())


def test_the_error_is_what_repeated_draws_show():
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 9, (2000, 50))
  values = rng.normal(size=(2000, 50))
  drawn = [metrics.mean_and_stderr(v, n) for v, n in zip(values, lengths)]
  means, errors = np.transpose(drawn)
  assert np.sqrt((errors**2).mean()) == pytest.approx(means.std(), rel=0.05)


def test_the_mean_of_ones_is_one_without_an_error():
  for n in 3, 399, 3000:
    assert metrics.mean_and_stderr([1.0] * n) == (1.0, 0.0)


def test_one_example_has_no_error():
  mean, error = metrics.mean_and_stderr([0.25])
  assert mean == 0.25 and math.isnan(error)


@pytest.mark.parametrize('scores, answer, expected', [
    ([-1.0, -3.0, -2.0], 0, 1.0),
    ([-1.0, -3.0, -2.0], 2, 0.0),
    ([-1.0, -1.0, -2.0], 0, 0.5),
    ([-1.0, -1.0, -2.0], 2, 0.0),
    ([-4.0, -4.0, -4.0], 1, 1 / 3),
])
def test_an_answer_shares_a_first_place(scores, answer, expected):
  assert metrics.is_best(scores, answer) == pytest.approx(expected)


# Four classes of pictures, two places each: features point where a class does.
DIRECTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, 0]], float)
FEATURES = np.stack(
    [s * (d + e) for d in DIRECTIONS for s in (1, 5) for e in (0, 0.1)]
).astype(np.float32)[:, None].repeat(2, axis=1)


def trial(query, support, answer, candidates=('a', 'b')):
  return Trial(
      id=0, support=tuple(Shot(image=i, answer=a) for i, a in support),
      query=Shot(image=query, answer=answer), candidates=candidates)


def test_nearest_centroid_names_the_class_of_alike_pictures():
  support = [(0, 'a'), (4, 'b'), (1, 'a'), (5, 'b')]
  trials = [
      trial(2, support, 'a'), trial(2, support, 'b'), trial(7, support, 'b')]
  assert metrics.nearest_centroid(trials, FEATURES.__getitem__) == [1, 0, 1]


def test_nearest_centroid_counts_every_picture_alike_whatever_its_size():
  """Class a: one along x and one, five times as long, along y."""
  trials = [trial(1, [(0, 'a'), (6, 'a'), (12, 'b')], 'a')]
  assert metrics.nearest_centroid(trials, FEATURES.__getitem__) == [1]
  large = [trial(1, [(0, 'a'), (6, 'b')], 'a')]
  assert metrics.nearest_centroid(large, FEATURES.__getitem__) == [1]


def test_nearest_centroid_of_equal_classes_is_chance():
  trials = [trial(2, [(0, 'a'), (0, 'b')], 'b')]
  assert metrics.nearest_centroid(trials, FEATURES.__getitem__) == [0.5]


def test_nearest_centroid_asks_for_each_picture_once():
  asked = []

  def features(rows):
    asked.extend(rows.tolist())
    return FEATURES[rows]

  support = [(0, 'a'), (4, 'b')]
  trials = [trial(query, support, 'a') for query in (1, 2, 2)]
  metrics.nearest_centroid(trials, features)
  assert asked == [0, 1, 2, 4]
