"""mWAP of RareAct: whether a rare action ranks above its near misses."""

from collections.abc import Sequence
import dataclasses
from typing import Literal

from jaxtyping import Bool, Float
import numpy as np

from flamingo.eval.scores import score


@dataclasses.dataclass(frozen=True)
class Clip:
  """One row of RareAct's annotations, rareact.csv.

  Attributes:
    video: id of the video that the clip is cut from.
    verb: of the action asked about.
    noun: of the action asked about.
    annotation: 1 where the clip shows the action, 2 to 4 where it shows only
      the verb, only the noun, or both apart, 0 where it shows neither.
  """

  video: str
  verb: str
  noun: str
  annotation: Literal[0, 1, 2, 3, 4]


def weighted_average_precision(
    scores: Float[np.ndarray, ' n'],
    positive: Bool[np.ndarray, ' n'],
    weights: Float[np.ndarray, ' n'],
) -> float:
  """Sum over thresholds of the gain in recall times the precision there.

  A threshold takes all examples with one score, so ties don't favour an order;
  scikit-learn's average_precision_score with sample_weight.
  """
  order = np.argsort(-scores, kind='stable')
  scores, weights, positive = scores[order], weights[order], positive[order]
  last = np.append(scores[1:] != scores[:-1], True)  # of its equals
  right = np.cumsum(weights * positive)[last]
  taken = np.cumsum(weights)[last]
  gains = np.diff(right, prepend=0.0) / right[-1]
  return float((gains * right / taken).sum())


def _per_video(videos: Sequence[str]) -> np.ndarray:
  """Weights that give each video one vote among the clips of its group."""
  if not len(videos):
    return np.empty(0)
  _, index, counts = np.unique(
      np.asarray(videos), return_inverse=True, return_counts=True)
  return 1.0 / counts[index]


def mwap(
    predictions: Float[np.ndarray, 'n a'],
    references: Sequence[Clip],
    actions: Sequence[tuple[str, str]],
) -> score.Score:
  """Mean weighted average precision of RareAct (Miech et al. 2020).

  Of each action that some clip shows, the average precision of these clips
  among the clips annotated for the action and those that show other actions;
  clips of one video share one vote among the positives, among the negatives,
  and among the hard negatives (same verb or same noun). As compute_score.py of
  antoine77340/RareAct, https://arxiv.org/abs/2008.01018. The values of examples
  are those of the actions, in the order given, without those no clip shows.

  Args:
    predictions: a score for each clip and action. NaN is allowed where none is
      needed: at clips that neither were annotated for the action nor show
      another.
    references: the annotation of each clip.
    actions: (verb, noun) of each column.

  Raises:
    ValueError: if shapes and annotations don't match, an annotated action is
      not among the actions, a score that is needed is NaN, or no clip shows
      its action.
  """
  predictions = np.asarray(predictions, np.float64)
  if predictions.shape != (len(references), len(actions)):
    raise ValueError(
        f'Expected scores of {len(references)} clips and {len(actions)} '
        f'actions, got shape {predictions.shape}.')
  asked = [(clip.verb, clip.noun) for clip in references]
  if unknown := set(asked) - set(actions):
    raise ValueError(f'Expected these among the actions: {sorted(unknown)}.')
  examples = []
  for column, (verb, noun) in enumerate(actions):
    positive, hard, easy = [], [], []
    for i, (clip, action) in enumerate(zip(references, asked)):
      if action == (verb, noun):
        {0: easy, 1: positive}.get(clip.annotation, hard).append(i)
      elif clip.annotation == 1:
        near = (clip.verb == verb) != (clip.noun == noun)
        (hard if near else easy).append(i)
    if not positive:
      continue
    rows = positive + easy + hard
    scores = predictions[rows, column]
    if np.isnan(scores).any():
      raise ValueError(
          f'Expected a score of "{verb} {noun}" for clip '
          f'{rows[int(np.isnan(scores).argmax())]}, got NaN.')
    weights = np.concatenate([
        _per_video([references[i].video for i in group])
        for group in (positive, easy, hard)])
    examples.append(weighted_average_precision(
        scores, np.arange(len(rows)) < len(positive), weights))
  if not examples:
    raise ValueError('Expected at least one clip that shows its action.')
  return score.mean_score(examples)
