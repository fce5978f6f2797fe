"""Winoground's three scores and POPE's five."""

import math

import numpy as np
import pytest

from flamingo.eval.scores import pairs


@pytest.mark.parametrize('scores, solved', [
    # Rows are captions, columns images.
    ([[2, 1], [0, 3]], (1, 1, 1)),
    ([[2, 0], [1, 1]], (1, 0, 0)),  # caption 1 fits both images alike
    ([[2, 1], [2, 3]], (0, 1, 0)),  # image 0 fits both captions alike
    ([[0, 0], [0, 0]], (0, 0, 0)),  # a tie is not solved
    ([[1, 2], [3, 0]], (0, 0, 0)),
])
def test_winoground_asks_for_strict_inequalities(scores, solved):
  found = pairs.winoground(np.asarray([scores]))
  assert (found.text.value, found.image.value, found.group.value) == solved


def test_winoground_of_a_guesser_is_a_quarter_a_quarter_and_a_sixth():
  found = pairs.winoground(
      np.random.default_rng(0).standard_normal((200_000, 2, 2)))
  assert found.text.value == pytest.approx(1 / 4, abs=0.005)
  assert found.image.value == pytest.approx(1 / 4, abs=0.005)
  assert found.group.value == pytest.approx(1 / 6, abs=0.005)


def test_winoground_is_the_same_with_the_two_pairs_exchanged():
  scores = np.random.default_rng(1).integers(0, 3, (50, 2, 2))
  ours, other = pairs.winoground(scores), pairs.winoground(
      scores[:, ::-1, ::-1])
  assert ours.text.examples.tolist() == other.text.examples.tolist()
  assert ours.image.examples.tolist() == other.image.examples.tolist()


def test_winoground_refuses_what_it_cannot_score():
  with pytest.raises(ValueError, match=r'\(0, 2, 2\)'):
    pairs.winoground(np.zeros((0, 2, 2)))
  with pytest.raises(ValueError, match='1 NaN'):
    pairs.winoground(np.array([[[0, 1], [2, math.nan]]]))


@pytest.mark.parametrize('answer, yes', [
    ('Yes', True), ('yes, there is a dog.', True), ('no', False),
    ('No, there is no dog.', False), ('There is not a dog', False),
    # Where the script is odd:
    ('NO', True), ('Nothing is there', True), ('', True), ('no!', True),
    ('It is a cat. There is no dog.', True)])
def test_an_answer_is_yes_unless_its_first_sentence_says_no(answer, yes):
  assert pairs.says_yes(answer) is yes


def test_pope_s_five_are_counts_of_the_four_cases():
  predictions = ['yes'] * 3 + ['no'] * 2 + ['yes'] * 4 + ['no'] * 5
  references = [True] * 5 + [False] * 9  # 3 found, 2 missed, 4 made up, 5 right
  found = pairs.pope(predictions, references)
  assert found.accuracy.value == pytest.approx(8 / 14)
  assert found.precision == pytest.approx(3 / 7)
  assert found.recall == pytest.approx(3 / 5)
  assert found.f1 == pytest.approx(
      2 * (3 / 7) * (3 / 5) / (3 / 7 + 3 / 5))
  assert found.yes_ratio == pytest.approx(7 / 14)
  assert found.accuracy.examples.tolist() == (
      [1] * 3 + [0] * 2 + [0] * 4 + [1] * 5)


def test_a_tie_is_half_an_answer_each():
  found = pairs.pope([0.5] * 6, [True, False] * 3)
  assert (found.accuracy.value, found.precision, found.recall, found.f1,
          found.yes_ratio) == (0.5, 0.5, 0.5, 0.5, 0.5)


def test_pope_without_a_yes_has_no_precision():
  found = pairs.pope(['no', 'no'], [True, False])
  assert math.isnan(found.precision)
  assert found.recall == found.f1 == found.yes_ratio == 0
  assert math.isnan(pairs.pope(['no'], [False]).f1)


def test_pope_refuses_what_it_cannot_score():
  with pytest.raises(ValueError, match='1 predictions and 2 references'):
    pairs.pope(['yes'], [True, False])
  with pytest.raises(ValueError, match='from 0 to 1'):
    pairs.pope([1.5], [True])
