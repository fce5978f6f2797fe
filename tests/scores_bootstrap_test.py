"""Intervals contain the truth as often as they say, and tests are exact."""

import itertools
import tracemalloc

import numpy as np
import pytest

from flamingo.eval.scores import bootstrap
from flamingo.eval.scores import ranking
from flamingo.eval.scores import score


def _width(interval):
  return interval.high - interval.low


@pytest.mark.parametrize('corrected', [False, True])
def test_an_interval_contains_the_truth_as_often_as_it_says(corrected):
  rng = np.random.default_rng(0)
  hits = 0
  for seed in range(300):
    found = bootstrap.mean_interval(
        rng.random(60) < 0.3, level=0.9, resamples=500, seed=seed,
        corrected=corrected)
    hits += found.low <= 0.3 <= found.high
  assert 0.84 < hits / 300 < 0.95


def test_the_interval_of_many_examples_is_the_normal_one():
  values = np.random.default_rng(1).standard_normal(1_000)
  found = bootstrap.mean_interval(values)
  half = 1.96 * values.std() / np.sqrt(1_000)
  assert found.value == values.mean()
  assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
  assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_seeds_that_disagree_widen_the_interval():
  rng = np.random.default_rng(2)
  values = rng.random((5, 400))
  shifts = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[:, None]
  alike = bootstrap.mean_interval(values)
  apart = bootstrap.mean_interval(values + shifts)
  assert _width(apart) > 3 * _width(alike)
  # The variance of both adds up.
  variance = (shifts.var() + values.mean(axis=1).var()) / 5
  assert _width(apart) == pytest.approx(2 * 1.96 * variance**0.5, rel=0.15)


def test_asking_the_same_examples_again_makes_nothing_surer():
  values = np.random.default_rng(3).random(200)
  once = bootstrap.mean_interval(values)
  thrice = bootstrap.mean_interval(np.stack([values] * 3))
  assert _width(thrice) == pytest.approx(_width(once), rel=0.05)


def test_the_correction_moves_the_interval_of_a_skewed_score():
  values = np.random.default_rng(4).exponential(size=40) ** 2
  plain = bootstrap.mean_interval(values)
  corrected = bootstrap.mean_interval(values, corrected=True)
  assert corrected.low > plain.low and corrected.high > plain.high


def test_any_score_has_an_interval():
  rng = np.random.default_rng(5)
  labels = rng.integers(0, 2, 80)
  scores = labels + rng.standard_normal(80)

  def auc(seeds, examples):
    del seeds
    if len(set(labels[examples])) < 2:
      return float('nan')
    return ranking.roc_auc(scores[examples], labels[examples]).value

  found = bootstrap.interval(auc, examples=80, resamples=300)
  assert found.value == ranking.roc_auc(scores, labels).value
  assert found.low < found.value < found.high
  values = rng.random((3, 50))
  by_index = bootstrap.interval(
      lambda s, e: values[np.ix_(s, e)].mean(), examples=50, seeds=3)
  mean = bootstrap.mean_interval(values)
  assert by_index.value == pytest.approx(mean.value)
  assert by_index.low == pytest.approx(mean.low, abs=0.02)
  assert by_index.high == pytest.approx(mean.high, abs=0.02)


def _ratio(totals):
  return totals[..., 0] / totals[..., 1]


def _ratios(parts):
  return [score.Sums(np.asarray(each), _ratio) for each in parts]


def test_a_ratio_of_sums_is_resampled_as_any_score_of_the_corpus():
  rng = np.random.default_rng(13)
  parts = rng.integers(1, 9, (3, 47, 2)).astype(float)
  parts[:, :, 0] *= np.array([1, 1.1, 1.2])[:, None]  # seeds that disagree
  found = bootstrap.sums_interval(_ratios(parts))
  slow = bootstrap.interval(
      lambda s, e: np.mean([_ratio(parts[i][e].sum(axis=0)) for i in s]),
      examples=47, seeds=3)
  assert found.value == pytest.approx(slow.value)
  assert found.low == pytest.approx(slow.low, abs=0.05 * _width(slow))
  assert found.high == pytest.approx(slow.high, abs=0.05 * _width(slow))
  assert bootstrap.sums_interval(_ratios(parts)) == found


def test_a_mean_as_a_ratio_of_sums_has_the_interval_of_the_mean():
  values = np.random.default_rng(14).random((2, 61))
  mean = bootstrap.mean_interval(values)
  ones = np.ones_like(values)
  found = bootstrap.sums_interval(_ratios(np.stack([values, ones], axis=-1)))
  assert found.value == pytest.approx(mean.value)
  assert found.low == pytest.approx(mean.low, abs=0.05 * _width(mean))
  assert found.high == pytest.approx(mean.high, abs=0.05 * _width(mean))


def test_the_interval_of_a_ratio_contains_the_truth_as_often_as_it_says():
  rng = np.random.default_rng(15)
  hits = 0
  for seed in range(300):
    lengths = rng.integers(1, 13, 53)
    parts = np.stack([rng.binomial(lengths, 0.4), lengths], axis=-1)
    found = bootstrap.sums_interval(
        _ratios([parts]), level=0.9, resamples=300, seed=seed)
    hits += found.low <= 0.4 <= found.high
  assert 0.84 < hits / 300 < 0.95


def test_one_example_says_nothing_of_others():
  found = bootstrap.mean_interval([[0.5], [1.0]])
  assert found.value == 0.75
  assert np.isnan([found.low, found.high]).all()
  found = bootstrap.sums_interval(_ratios([[[1.0, 2.0]], [[2.0, 2.0]]]))
  assert found.value == 0.75
  assert np.isnan([found.low, found.high]).all()


def test_the_same_seed_gives_the_same_interval_and_another_another():
  values = np.random.default_rng(6).random(37)
  first = bootstrap.mean_interval(values, seed=7)
  assert bootstrap.mean_interval(values, seed=7) == first
  assert bootstrap.mean_interval(values, seed=8) != first


def test_the_permutation_test_is_exact_for_few_examples():
  first = np.array([1.0, 0.0, 1.0, 1.0, 0.5, 1.0, 1.0])
  second = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5])
  difference = first - second
  sums = [abs(np.dot(signs, difference))
          for signs in itertools.product([-1, 1], repeat=7)]
  expected = np.mean([s >= abs(difference.sum()) - 1e-12 for s in sums])
  assert bootstrap.compare(first, second).p_value == pytest.approx(expected)
  # Drawn instead of all, it is near that.
  drawn = bootstrap.compare(first, second, resamples=127)
  assert drawn.p_value == pytest.approx(expected, abs=0.15)


def test_pairs_find_a_difference_that_two_intervals_would_hide():
  rng = np.random.default_rng(8)
  hard = rng.standard_normal(300)
  first, second = hard + 0.05 + 0.1 * rng.standard_normal(300), hard
  one, other = map(bootstrap.mean_interval, (first, second))
  assert one.low < other.high
  found = bootstrap.compare(first, second)
  assert found.difference.low > 0
  assert found.p_value < 0.001


def test_runs_that_differ_by_chance_are_rarely_called_different():
  rng = np.random.default_rng(9)
  found = [
      bootstrap.compare(
          rng.random(50), rng.random(50), resamples=199, seed=i).p_value
      for i in range(400)]
  assert 0.02 < np.mean(np.asarray(found) <= 0.05) < 0.09


def test_a_run_against_itself_differs_by_nothing():
  values = np.random.default_rng(10).random((2, 40))
  found = bootstrap.compare(values, values)
  assert found == bootstrap.Comparison(bootstrap.Interval(0.0, 0.0, 0.0), 1.0)


def test_the_comparison_turned_round_is_the_same_with_the_sign_changed():
  rng = np.random.default_rng(11)
  first, second = rng.random((3, 30)), rng.random((3, 30))
  one, other = bootstrap.compare(first, second), bootstrap.compare(
      second, first)
  assert one.difference.value == -other.difference.value
  assert one.difference.low == pytest.approx(-other.difference.high)
  assert one.p_value == other.p_value


@pytest.mark.parametrize('call, message', [
    (lambda: bootstrap.mean_interval([]), r'shape \(1, 0\)'),
    (lambda: bootstrap.mean_interval([1.0, float('nan')]), '1 NaN'),
    (lambda: bootstrap.mean_interval([1.0, 0.0], level=95.0), 'got 95'),
    (lambda: bootstrap.compare([1.0], [1.0, 0.0]), r'\(1, 1\) and \(1, 2\)'),
    (lambda: bootstrap.interval(lambda s, e: float('nan'), examples=3), 'NaN'),
    (lambda: bootstrap.sums_interval(_ratios(map(np.ones, ((3, 2), (4, 2))))),
     r'\[\(3, 2\), \(4, 2\)\]'),
    (lambda: bootstrap.sums_interval([]), r'shapes \[\]'),
])
def test_what_has_no_interval_is_told(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_equal_values_are_drawn_together_as_they_would_be_apart():
  # Scores of few values, and the same with differences too small to count.
  rng = np.random.default_rng(6)
  few = rng.choice([0.0, 0.3, 1.0], (3, 2_000))
  apart = few + 1e-9 * rng.random(few.shape)
  assert len(np.unique(few, axis=1).T) == 27 < len(np.unique(apart, axis=1).T)
  one, other = map(bootstrap.mean_interval, (few, apart))
  assert one.low == pytest.approx(other.low, abs=0.05 * _width(other))
  assert one.high == pytest.approx(other.high, abs=0.05 * _width(other))
  less = np.where(rng.random(few.shape) < 0.02, few, np.roll(few, 1, axis=1))
  tests = [bootstrap.compare(few, less + 1e-9 * noise * rng.random(few.shape))
           for noise in (0, 1)]
  assert tests[0].p_value == pytest.approx(tests[1].p_value, abs=0.03)


def test_an_interval_of_as_many_questions_as_vqav2_has_takes_little_memory():
  values = np.random.default_rng(7).choice(
      [0.0, 0.3, 0.6, 0.9, 1.0], (3, 214_354))
  tracemalloc.start()
  found = bootstrap.mean_interval(values, resamples=1_000)
  bootstrap.compare(values, values[:, ::-1], resamples=1_000)
  _, most = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert most < 100e6  # all draws of examples would be 1.7 GB
  assert found.low < found.value < found.high
