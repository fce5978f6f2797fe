"""Accuracy of short answers written freely, other than VQA's own (vqa.py)."""

from collections.abc import Sequence

from flamingo.eval.scores import score


def _plain(text: str) -> str:
  return ' '.join(text.lower().split())


def exact_match(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> score.Score:
  """Share of predictions equal to one of their references.

  Top-1 accuracy of MSVD-QA and MSRVTT-QA (Xu et al. 2017), whose answers are
  single words. The official evaluation chooses among known answers, so it
  compares indices; here case and white space make no difference.

  Args:
    predictions: one for each example.
    references: answers of each example that count as right.

  Raises:
    ValueError: if the numbers differ, or an example has no reference.
  """
  score.check_aligned(predictions, references)
  _check_answers(references)
  return score.mean_score([
      float(_plain(prediction) in map(_plain, answers))
      for prediction, answers in zip(predictions, references)])


def ivqa_accuracy(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> score.Score:
  """iVQA's accuracy: 1 if two annotators gave the answer, 1/2 if one did.

  min(number of annotators / 2, 1), as in the training code of Just Ask (Yang et
  al. 2021, https://arxiv.org/abs/2012.00451, antoyang/just-ask). That code
  chooses among known answers; here case and white space make no difference.

  Args:
    predictions: one for each example.
    references: the five annotators' answers of each example.

  Raises:
    ValueError: if the numbers differ, or an example has no reference.
  """
  score.check_aligned(predictions, references)
  _check_answers(references)
  return score.mean_score([
      min(1.0, list(map(_plain, answers)).count(_plain(prediction)) / 2)
      for prediction, answers in zip(predictions, references)])


def _check_answers(references: Sequence[Sequence[str]]) -> None:
  for i, answers in enumerate(references):
    if isinstance(answers, str) or not len(answers):
      raise ValueError(
          'Expected a list of at least one answer for each example, got '
          f'{answers!r} for example {i}.')
