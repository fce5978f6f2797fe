"""A step that went wrong is named, and stopped at, skipped or gone back from.

The step only counts, so that what each policy has to end in can be written
down: numbers are added up, and those of bad steps are left out.
"""

import json

from flamingo.train import loop
from flamingo.train.checkpoint import Checkpointer
from flamingo.train.guard import BadStep, Guard, Policy, skip_bad
from flamingo.train.meter import TIMES
from flamingo.train.writer import read_metrics
from flamingo.types import TrainState
import jax
import jax.numpy as jnp
import numpy as np
import pytest


class Numbers:
  """Data: 1, 2, 3 ..."""

  def __init__(self):
    self._next = 1

  def __next__(self):
    self._next += 1
    return {'a': jnp.float32(self._next - 1), 'b': jnp.float32(0)}

  def get_state(self):
    return {'next': self._next}

  def set_state(self, state):
    self._next = state['next']


def make_step(spoilt, value=np.nan, name='loss/b'):
  """Adds numbers up; at the `spoilt` ones a metric and the sum are spoilt."""
  def step(state, batches):
    number = batches['a']
    bad = jnp.isin(number, jnp.asarray(spoilt, jnp.float32))
    metrics = {
        'loss': 3 + number / 100, 'loss/a': 2 + number / 100,
        'loss/b': jnp.float32(1), 'gradient_norm': jnp.float32(1)}
    metrics[name] = jnp.where(bad, value, metrics[name])
    total = state.trainable['sum'] + jnp.where(bad, jnp.nan, number)
    return state.replace(
        step=state.step + 1, trainable={'sum': total}), metrics

  return step


def train(
    folder, policy, step_fn, *, steps=20, log_every=4, checkpoint_every=6,
    describe=lambda step, names: f'examples of {step} of {names}',
    evaluators=(),
):
  checkpointer = Checkpointer(
      folder / 'checkpoints', config={}, fingerprints={})
  if policy.on_bad_step == 'skip':
    step_fn = skip_bad(step_fn)
  try:
    return loop.train(
        state=TrainState(
            step=jnp.int32(0), frozen={}, opt_state=(),
            trainable={'sum': jnp.float32(0)}),
        step_fn=jax.jit(step_fn), batches=Numbers(), put=lambda x: x,
        checkpointer=checkpointer, directory=folder, steps=steps,
        checkpoint_every=checkpoint_every, log_every=log_every,
        resume_command='again', guard=Guard(policy, describe),
        evaluators=evaluators)
  finally:
    checkpointer.close()


def total(state):
  return int(state.trainable['sum'])


def rows(folder):
  return {row['step']: row for row in read_metrics(folder)}


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name, datasets', [
    ('loss/b', "['b']"), ('loss', '[]'), ('gradient_norm', '[]')])
def test_stopping_names_the_quantity_the_exact_step_and_its_examples(
    tmp_path, value, name, datasets
):
  """It is seen two steps later; 7 steps since the checkpoint are lost."""
  with pytest.raises(BadStep) as error:
    train(tmp_path, Policy(), make_step([10], value, name))
  text = str(error.value)
  assert text.startswith(f'At step 10 {name} is {value}.\n')
  assert f'examples of 10 of {datasets}' in text
  assert 'last checkpoint is whole' in text and "'roll_back'" in text
  assert max(rows(tmp_path)) == 8
  assert {p.name for p in (tmp_path / 'checkpoints').iterdir()} == {'6', 'lock'}


def test_a_stopped_run_goes_on_under_another_policy(tmp_path):
  with pytest.raises(BadStep):
    train(tmp_path, Policy(), make_step([10]))
  state = train(tmp_path, Policy(on_bad_step='roll_back'), make_step([10]))
  assert total(state) == sum(range(21)) - 10


@pytest.mark.parametrize('policy', ['skip', 'roll_back'])
@pytest.mark.parametrize('log_every, checkpoint_every', [
    (1, 1), (4, 6), (6, 4), (5, 5), (99, 99)])
def test_bad_steps_are_as_if_they_had_not_been(
    tmp_path, policy, log_every, checkpoint_every, capfd
):
  """Step 2 comes before there is a checkpoint to go back to."""
  state = train(
      tmp_path, Policy(on_bad_step=policy), make_step([2, 9, 10]),
      log_every=log_every, checkpoint_every=checkpoint_every)
  assert total(state) == sum(range(21)) - 21 and int(state.step) == 20
  said = capfd.readouterr()
  for step in 2, 9, 10:
    assert f'At step {step} loss/b is nan.' in said.err + said.out
  last = rows(tmp_path)[20]
  assert last['bad_steps'] == 3 and last['loss/b'] == 1
  steps = [row['step'] for row in read_metrics(tmp_path)]
  assert steps == sorted(set(steps))


@pytest.mark.parametrize('policy', ['skip', 'roll_back'])
def test_lines_are_means_over_the_good_steps(tmp_path, policy):
  train(tmp_path, Policy(on_bad_step=policy), make_step([5, 7]))
  assert rows(tmp_path)[8]['loss/a'] == pytest.approx(2.07)  # of 6 and 8


def test_a_line_without_a_good_step_has_no_losses_and_is_json(tmp_path):
  train(tmp_path, Policy(on_bad_step='skip'), make_step([5, 6, 7, 8]))
  line = (tmp_path / 'metrics.jsonl').read_text().splitlines()[1]
  refuse = lambda name: pytest.fail(f'{name} is no JSON')
  row = json.loads(line, parse_constant=refuse)
  assert row['step'] == 8 and 'loss' not in row and row['bad_steps'] == 4


@pytest.mark.parametrize('policy', ['skip', 'roll_back'])
def test_more_bad_steps_than_the_bound_are_an_error_that_lists_them(
    tmp_path, policy
):
  with pytest.raises(BadStep) as error:
    train(
        tmp_path, Policy(on_bad_step=policy, most_bad_steps=2),
        make_step([3, 9, 14]))
  assert 'Bad steps so far: 3, 9, 14, and most_bad_steps is 2' in str(
      error.value)


@pytest.mark.parametrize('policy', ['skip', 'roll_back'])
def test_a_run_that_is_interrupted_counts_bad_steps_as_one_that_is_not(
    tmp_path, policy
):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  policy = Policy(on_bad_step=policy)
  train(whole, policy, make_step([3, 9, 14]))

  def interrupt(state):
    raise KeyboardInterrupt

  for at in 7, 11, 13:
    with pytest.raises(KeyboardInterrupt):
      train(
          broken, policy, make_step([3, 9, 14]),
          evaluators=[loop.Evaluator(at, interrupt)])
  state = train(broken, policy, make_step([3, 9, 14]))
  assert total(state) == sum(range(21)) - 26
  for one, other in zip(read_metrics(whole), read_metrics(broken), strict=True):
    for name in one.keys() - set(TIMES):
      assert one[name] == other[name]


# Spikes.


def spikes(folder, policy, value=30.0, **kwargs):
  kwargs = dict(steps=60) | kwargs
  return train(
      folder, Policy(on_bad_step=policy, spike=5.0),
      make_step([33], value, 'loss/b'), **kwargs)


def test_a_loss_many_times_its_median_is_a_spike(tmp_path):
  with pytest.raises(BadStep) as error:
    spikes(tmp_path, 'stop')
  assert str(error.value).startswith(
      'At step 33 loss/b is 30, more than 5 times its running median.')


@pytest.mark.parametrize('policy', ['skip', 'roll_back'])
def test_a_spike_leaves_the_state_as_it_was(tmp_path, policy):
  assert total(spikes(tmp_path, policy)) == sum(range(61)) - 33


def test_what_is_below_the_factor_is_none(tmp_path):
  with pytest.raises(BadStep, match='At step 34 loss/b is nan'):
    train(
        tmp_path, Policy(spike=5.0), lambda state, batches: make_step([34])(
            *make_step([33], 4.9)(state, batches)[:1], batches), steps=60)


def test_no_loss_is_a_spike_before_enough_are_known(tmp_path):
  step = make_step([5], 1e6, 'loss/b')

  def unspoilt(state, batches):  # the metric alone is large
    after, metrics = step(state, batches)
    total = state.trainable['sum'] + batches['a']
    return after.replace(trainable={'sum': total}), metrics

  assert total(train(
      tmp_path, Policy(spike=5.0), unspoilt, steps=9)) == sum(range(10))


def test_losses_of_a_dataset_that_had_nothing_to_learn_are_no_median():
  guard = Guard(Policy(spike=2.0))
  for step in range(50):
    assert guard.judge(step, {'loss/a': 0.0 if step < 40 else 1.0}) is None


@pytest.mark.parametrize('options, message', [
    (dict(on_bad_step='ignore'), "'ignore', not one of"),
    (dict(spike=0.9), 'Take 3, or more; 0 is off')])
def test_a_policy_that_is_none_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    Policy(**options)
