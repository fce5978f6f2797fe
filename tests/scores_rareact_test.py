"""mWAP ranks the clips that show an action above its near misses."""

import math

import numpy as np
import pytest

from flamingo.eval.scores import rareact

ACTIONS = [('cut', 'laptop'), ('cut', 'shoe'), ('wash', 'laptop'),
           ('wash', 'hat')]
CLIPS = [
    rareact.Clip('v0', 'cut', 'laptop', 1),
    rareact.Clip('v0', 'cut', 'laptop', 1),
    rareact.Clip('v1', 'cut', 'laptop', 1),
    rareact.Clip('v2', 'cut', 'laptop', 0),
    rareact.Clip('v0', 'cut', 'laptop', 3),
    rareact.Clip('v3', 'cut', 'shoe', 1),
    rareact.Clip('v3', 'cut', 'shoe', 4),
    rareact.Clip('v3', 'wash', 'hat', 1),
    rareact.Clip('v4', 'wash', 'hat', 1),
    rareact.Clip('v5', 'wash', 'laptop', 2),
]


def _by_thresholds(scores, positive, weights):
  """Average precision from its definition."""
  total, recall = 0.0, 0.0
  for threshold in sorted(set(scores), reverse=True):
    taken = [s >= threshold for s in scores]
    right = sum(w for w, t, p in zip(weights, taken, positive) if t and p)
    share = right / sum(w for w, p in zip(weights, positive) if p)
    total += (share - recall) * right / sum(
        w for w, t in zip(weights, taken) if t)
    recall = share
  return total


@pytest.mark.parametrize('levels', [2, 5, 1000])
def test_average_precision_is_its_definition_ties_included(levels):
  rng = np.random.default_rng(levels)
  scores = rng.integers(0, levels, 41).astype(float)
  positive, weights = rng.random(41) < 0.3, rng.random(41)
  assert rareact.weighted_average_precision(
      scores, positive, weights) == pytest.approx(
          _by_thresholds(scores, positive, weights), abs=1e-12)


@pytest.mark.original
def test_average_precision_is_scikit_learn_s():
  metrics = pytest.importorskip(
      'sklearn.metrics', reason='scikit-learn is not installed')
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 9, 97).astype(float)
  positive, weights = rng.random(97) < 0.3, rng.random(97)
  assert rareact.weighted_average_precision(
      scores, positive, weights) == pytest.approx(
          metrics.average_precision_score(
              positive, scores, sample_weight=weights), abs=1e-12)


def test_mwap_is_the_official_script_s():
  # What compute_score.py of RareAct gives for these clips and scores.
  scores = np.cos(np.arange(40.0)).round(1).reshape(10, 4)
  found = rareact.mwap(scores, CLIPS, ACTIONS)
  assert found.value == pytest.approx(0.4962962962962963, abs=1e-12)
  assert len(found.examples) == 3  # nobody washes a laptop


def test_clips_of_one_video_share_a_vote():
  scores = np.zeros((10, 4))
  # Positive of 'cut laptop': v0 twice and v1, so v1 weighs as both of v0. Its
  # negatives: v2, and as neither verb nor noun is its own, v3 and v4; its near
  # misses: v0 and v3.
  scores[2, 0] = 1
  found = rareact.mwap(scores, CLIPS, ACTIONS).examples[0]
  assert found == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 7)


def test_the_order_of_clips_makes_no_difference():
  rng = np.random.default_rng(1)
  scores = rng.integers(0, 3, (10, 4)).astype(float)
  order = rng.permutation(10)
  assert rareact.mwap(scores, CLIPS, ACTIONS).value == pytest.approx(
      rareact.mwap(scores[order], [CLIPS[i] for i in order], ACTIONS).value)


def test_only_scores_that_count_are_needed():
  rng = np.random.default_rng(2)
  scores = rng.random((10, 4))
  value = rareact.mwap(scores, CLIPS, ACTIONS).value
  scores[3, 1:] = np.nan  # a clip that shows nothing, under others' actions
  scores[9, :] = np.nan  # an action that no clip shows
  assert rareact.mwap(scores, CLIPS, ACTIONS).value == value
  scores[7, 0] = np.nan
  with pytest.raises(ValueError, match='"cut laptop" for clip 7'):
    rareact.mwap(scores, CLIPS, ACTIONS)


def test_what_cannot_be_scored_is_told():
  with pytest.raises(ValueError, match=r'10 clips and 4 actions.*\(10, 3\)'):
    rareact.mwap(np.zeros((10, 3)), CLIPS, ACTIONS)
  with pytest.raises(ValueError, match="'wash', 'hat'"):
    rareact.mwap(np.zeros((10, 3)), CLIPS, ACTIONS[:3])
  with pytest.raises(ValueError, match='at least one clip that shows'):
    rareact.mwap(np.zeros((1, 4)), CLIPS[3:4], ACTIONS)
  assert not math.isnan(rareact.mwap(np.zeros((10, 4)), CLIPS, ACTIONS).value)
