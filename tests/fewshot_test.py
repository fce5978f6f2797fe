"""Prompts, and controls that take one thing away."""

import collections

from flamingo.data.tokenizer import Tokenizer
from flamingo.eval import fewshot, metrics
from flamingo.eval.fewshot import CONTROLS, Shot, Trial
import numpy as np
import pytest

TOKENIZER = Tokenizer.bytes()
BLANK = 999
NAMES = ('dax', 'wug', 'fep', 'zup', 'kiki')


def draw(number, ways=3, shots=2):
  """A trial whose picture 10 * c + j is one of class c."""
  rng = np.random.default_rng(number)
  names = tuple(rng.permutation(NAMES[:ways]).tolist())
  order = [c for _ in range(shots) for c in rng.permutation(ways)]
  support = tuple(
      Shot(image=int(10 * c + j), answer=names[c]) for j, c in enumerate(order))
  asked = int(rng.integers(ways))
  return Trial(
      id=number, support=support, candidates=names,
      query=Shot(image=10 * asked + 9, answer=names[asked]))


def control(trials, name, seed=1):
  return fewshot.controlled(trials, name, seed=seed, blank=BLANK)


TRIALS = [draw(i) for i in range(20)]


def test_a_prompt_is_demonstrations_and_an_open_query():
  trial = Trial(
      id=0, support=(
          Shot(image=4, text='Question: what? Answer:', answer='a'),
          Shot(image=5, answer='b')),
      query=Shot(image=6, text='Output:', answer='c'))
  prompt = fewshot.to_prompt(trial, TOKENIZER)
  assert TOKENIZER.decode(prompt.tokens) == (
      '<bos><image>Question: what? Answer: a<EOC><image> b<EOC><image>Output:')
  np.testing.assert_array_equal(prompt.images, [4, 5, 6])


def test_the_answer_is_nowhere_in_a_prompt_of_no_shots():
  one, other = (
      fewshot.to_prompt(Trial(
          id=0, support=(), query=Shot(image=6, answer=answer)), TOKENIZER)
      for answer in 'ab')
  np.testing.assert_array_equal(one.tokens, other.tokens)


# Controls.


def test_without_a_control_trials_are_as_they_are():
  assert control(TRIALS, None) == TRIALS


@pytest.mark.parametrize('name', CONTROLS)
def test_a_control_leaves_everything_else_alone(name):
  for before, after in zip(TRIALS, control(TRIALS, name), strict=True):
    assert (after.id, after.candidates) == (before.id, before.candidates)
    assert after.query.answer == before.query.answer
    if name != 'blank_query':
      assert after.query == before.query
    if name != 'shuffled_labels':
      assert [s.answer for s in after.support] == [
          s.answer for s in before.support]
    if name in ('shuffled_labels', 'blank_query'):
      assert [s.image for s in after.support] == [
          s.image for s in before.support]


@pytest.mark.parametrize(
    'name, field',
    [('shuffled_labels', 'answer'), ('shuffled_images', 'image')])
def test_shuffling_is_a_permutation(name, field):
  moved = 0
  for before, after in zip(TRIALS, control(TRIALS, name)):
    was = [getattr(shot, field) for shot in before.support]
    now = [getattr(shot, field) for shot in after.support]
    assert sorted(was) == sorted(now)
    moved += was != now
  assert moved > 15


def test_blank_pictures_are_blank_and_only_where_asked():
  for trial in control(TRIALS, 'blank_images'):
    assert {shot.image for shot in trial.support} == {BLANK}
    assert trial.query.image != BLANK
  for trial in control(TRIALS, 'blank_query'):
    assert trial.query.image == BLANK


def test_a_shuffle_is_a_function_of_seed_and_trial():
  shuffled = control(TRIALS, 'shuffled_labels')
  assert control(TRIALS[5:7], 'shuffled_labels') == shuffled[5:7]
  assert control(TRIALS, 'shuffled_labels', seed=2) != shuffled


def test_an_unknown_control_is_refused():
  with pytest.raises(ValueError, match="'shuffled_tags'; there are.*blank_im"):
    control(TRIALS, 'shuffled_tags')


def perfect(trial):
  """Scores of one who sees classes without fault and believes the labels."""
  said = collections.Counter(
      shot.answer for shot in trial.support
      if shot.image // 10 == trial.query.image // 10)
  return [said[name] for name in trial.candidates]


def accuracy(trials):
  return metrics.mean_and_stderr([
      metrics.is_best(perfect(t), t.candidates.index(t.query.answer))
      for t in trials])


@pytest.mark.parametrize('ways, shots', [(2, 1), (2, 4), (5, 1), (5, 2)])
@pytest.mark.parametrize('name', ['shuffled_labels', 'shuffled_images'])
def test_a_perfect_classifier_is_at_chance_under_a_shuffle(name, ways, shots):
  trials = [draw(i, ways, shots) for i in range(3000)]
  assert accuracy(trials)[0] == 1
  value, error = accuracy(control(trials, name))
  assert abs(value - 1 / ways) < 3 * error < 0.03


@pytest.mark.parametrize('name', ['blank_images', 'blank_query'])
def test_a_perfect_classifier_is_at_chance_without_pictures(name):
  assert accuracy(control(TRIALS, name))[0] == pytest.approx(1 / 3)


# Candidates.


def text(candidates, **kwargs):
  return [
      TOKENIZER.decode(ids)
      for ids in fewshot.candidate_tokens(candidates, TOKENIZER, **kwargs)]


def test_candidates_stand_behind_a_space():
  assert text(['car', 'cat']) == [' car', ' cat']


def test_a_candidate_that_begins_another_ends_and_so_do_all():
  assert text(['car park', 'cat', 'car']) == [
      ' car park<EOC>', ' cat<EOC>', ' car<EOC>']


def test_candidates_end_where_asked():
  assert text(['car', 'cat'], close=True) == [' car<EOC>', ' cat<EOC>']
