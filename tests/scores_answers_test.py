"""Accuracy of short free answers."""

import pytest

from flamingo.eval.scores import answers


def test_an_answer_is_right_if_it_is_one_of_the_references():
  found = answers.exact_match(
      ['cat', ' Red  Bus ', 'dog', ''],
      [['cat'], ['a', 'red bus'], ['cat'], ['x']])
  assert found.examples.tolist() == [1, 1, 0, 0]
  assert found.value == 0.5


@pytest.mark.parametrize('count, accuracy', [
    (0, 0), (1, 0.5), (2, 1), (3, 1), (5, 1)])
def test_ivqa_wants_two_annotators_to_agree(count, accuracy):
  reference = ['spoon'] * count + ['fork'] * (5 - count)
  assert answers.ivqa_accuracy(['spoon'], [reference]).value == accuracy


def test_ivqa_is_the_mean_over_examples():
  found = answers.ivqa_accuracy(['a', 'b'], [['a', 'b'], ['b', 'b']])
  assert found.examples.tolist() == [0.5, 1]
  assert found.value == 0.75


@pytest.mark.parametrize('metric', [answers.exact_match, answers.ivqa_accuracy])
def test_what_cannot_be_scored_is_told(metric):
  with pytest.raises(ValueError, match='1 predictions and 2 references'):
    metric(['a'], [['a'], ['b']])
  with pytest.raises(ValueError, match='example 1'):
    metric(['a', 'b'], [['a'], []])
  with pytest.raises(ValueError, match="'cat'"):
    metric(['cat'], ['cat'])  # a word is not a list of letters
