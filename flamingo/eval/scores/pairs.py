"""Winoground's three scores, and POPE's five."""

from collections.abc import Sequence
import dataclasses

from jaxtyping import Shaped
import numpy as np

from flamingo.eval.scores import score


@dataclasses.dataclass(frozen=True)
class Winoground:
  """Shares of examples solved.

  Attributes:
    text: for each image its own caption scores above the other.
    image: for each caption its own image scores above the other.
    group: both.
  """

  text: score.Score
  image: score.Score
  group: score.Score


def winoground(
    predictions: Shaped[np.ndarray, 'n caption=2 image=2']) -> Winoground:
  """Winoground's scores (Thrush et al. 2022, https://arxiv.org/abs/2204.03162).

  By strict inequalities as in the paper, so a tie is not solved, whatever the
  order: a model that scores everything alike gets 0, and one that guesses 1/4,
  1/4 and 1/6.

  Args:
    predictions: [example, caption, image] how well a caption fits an image;
      caption i belongs to image i.

  Raises:
    ValueError: if the shape is another, or a score is NaN.
  """
  s = np.asarray(predictions, np.float64)
  if s.ndim != 3 or s.shape[1:] != (2, 2) or not len(s) or np.isnan(s).any():
    raise ValueError(
        'Expected scores of two captions for two images of each example, none '
        f'of them NaN, got shape {s.shape} with {np.isnan(s).sum()} NaN.')
  text = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
  image = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
  return Winoground(*map(score.mean_score, (text, image, text & image)))


@dataclasses.dataclass(frozen=True)
class Pope:
  """Scores of answers to 'Is there a ... in the image?'.

  Attributes:
    accuracy: share of right answers.
    precision: share of 'yes' answers that are right; NaN without any.
    recall: share of things in the image that were said to be there; NaN where
      no image has any.
    f1: of precision and recall; NaN where nothing is there or said to be.
    yes_ratio: share of 'yes' answers.
  """

  accuracy: score.Score
  precision: float
  recall: float
  f1: float
  yes_ratio: float


def says_yes(answer: str) -> bool:
  """Whether POPE's script takes an answer for 'yes'.

  It does unless the first sentence, up to a full stop and without commas, has
  the word 'No', 'no' or 'not': 'NO' and 'nothing' are 'yes', as is no answer.
  """
  words = answer.split('.')[0].replace(',', '').split(' ')
  return not {'No', 'no', 'not'} & set(words)


def pope(
    predictions: Sequence[str] | score.Numbers, references: score.Numbers
) -> Pope:
  """POPE's scores (Li et al. 2023, https://arxiv.org/abs/2305.10355).

  As evaluate.py of AoiDragon/POPE, which fails where precision or recall is a
  division by zero.

  Args:
    predictions: answers as written, read by `says_yes`; or numbers, 1 for yes
      and 0 for no, and 0.5 where both score alike: half an answer each.
    references: whether the thing is in the image.

  Raises:
    ValueError: if the numbers differ, or a number is not from 0 to 1.
  """
  score.check_aligned(predictions, references)
  yes = np.asarray(
      [says_yes(p) if isinstance(p, str) else p for p in predictions],
      np.float64)
  if not ((yes >= 0) & (yes <= 1)).all():
    raise ValueError('Expected answers, or numbers from 0 to 1.')
  there = np.asarray(references, bool)
  right = float(yes[there].sum())

  def share(part: float, whole: float) -> float:
    return part / whole if whole else float('nan')

  return Pope(
      accuracy=score.mean_score(np.where(there, yes, 1 - yes)),
      precision=share(right, float(yes.sum())),
      recall=share(right, float(there.sum())),
      f1=share(2 * right, float(yes.sum() + there.sum())),
      yes_ratio=float(yes.mean()))
