"""Sentences on learning from context are computed, and say what is so."""

import benchmark_runs as runs
from flamingo.eval.benchmarks import Item
from flamingo.eval.harness import findings
from flamingo.eval.harness import Scored
from flamingo.eval.harness.metrics import Said
from flamingo.eval.scores.score import Score
import numpy as np
import pytest

N, SEEDS = 60, 3


def scored(task='birds', *, seeds=SEEDS, right, **fields):
  """Cells whose examples are right as often as asked, those first in order."""
  found = []
  for seed in range(seeds):
    examples = np.roll(
        (np.arange(N) < round(right * N)).astype(float), seed)
    found.append(Scored(
        runs.cell(task=task, seed=seed, **fields),
        [Item(id=str(i), image=('a',), answer='a', references=('a',))
         for i in range(N)],
        [Said(None, [0.0])] * N, 0,
        {'top1': Score(float(examples.mean()), examples)}))
  return found


def said(*cells):
  return findings.sentences(findings.find([one for some in cells
                                           for one in some]))


ZERO = scored(shots=0, seeds=1, right=0.2)
MANY = scored(shots=4, right=0.8)
SHUFFLED = scored(shots=4, right=0.2, control='shuffled_labels')


def test_where_answers_of_demonstrations_are_what_helps_it_learns():
  yes, no = said(ZERO, MANY, SHUFFLED)
  assert yes.startswith(
      'The model learns from its context on birds (20.0 at 0, 80.0 at 4 shots:')
  assert 'where shuffled labels +60.0 [' in yes and 'cost it' in yes
  assert no.startswith('There is no task')


def test_where_shuffled_answers_help_as_much_it_does_not():
  yes, no = said(
      ZERO, MANY, scored(shots=4, right=0.8, control='random_labels'),
      scored(shots=4, right=0.3, control='blank_query'))
  assert yes.startswith('On no task')
  assert no.startswith('It does not on birds (20.0 at 0, 80.0 at 4 shots')
  assert 'help, but their answers do not: random labels +0.0' in no
  assert 'though a blank query +50.0 [' in no


def test_where_demonstrations_add_nothing_it_does_not():
  _, no = said(
      ZERO, scored(shots=4, right=0.2),
      scored(shots=4, right=0.2, control='shuffled_labels'))
  assert 'add nothing beyond the interval' in no


def test_a_difference_within_its_interval_is_none():
  rng = np.random.default_rng(0)
  few, many = scored(shots=0, right=0.5), scored(shots=4, right=0.5)
  for each in (*few, *many):
    each.scores['top1'].examples[:] = rng.integers(2, size=N)
    each.scores['top1'] = Score(
        float(each.scores['top1'].examples.mean()),
        each.scores['top1'].examples)
  (found,) = findings.find([*few, *many, *SHUFFLED])
  assert found.gain.low < 0 < found.gain.high
  assert found.learns is False


def test_tasks_are_told_apart():
  yes, no = said(
      ZERO, MANY, SHUFFLED,
      *(scored('fish', **each) for each in (
          dict(shots=0, right=0.5), dict(shots=2, right=0.5),
          dict(shots=2, right=0.5, control='shuffled_labels'))))
  assert 'birds' in yes and 'fish' not in yes
  assert 'fish' in no and 'birds' not in no


def test_better_chosen_demonstrations_are_told_beside():
  yes, _ = said(
      ZERO, MANY, SHUFFLED,
      scored(shots=4, seeds=1, right=1.0, choice='rices_image'))
  assert 'RICES by image +20.0 [' in yes


@pytest.mark.parametrize('cells', [
    [], [ZERO], [MANY, SHUFFLED], [ZERO, MANY]],
    ids=['nothing', 'no shots', 'shots alone', 'no control'])
def test_nothing_is_said_of_what_was_not_asked(cells):
  assert said(*cells) == []


def test_baselines_and_texts_alone_are_no_curve():
  assert said(
      scored(shots=0, texts=2, right=0.2),
      MANY, SHUFFLED, scored(shots=0, right=0.1, baseline='majority')) == []
