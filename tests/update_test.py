"""Other ways through an update: in parts, in turn, and what else it may do."""

import functools

from flamingo import params as params_lib
from flamingo.train.objective import weighted_loss
from flamingo.train.step import init_state, make_train_step
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest
import three_datasets
from three_datasets import WEIGHTS

ROWS = 3  # times two rows of each dataset: 2, 3 and 6 divide them


@pytest.fixture(scope='module')
def model():
  return three_datasets.make_model()


@pytest.fixture(scope='module')
def batches():
  return three_datasets.make_batches(ROWS)


@pytest.fixture(scope='module')
def trees(model, batches, random_params):
  """Trainable and frozen parameters."""
  batch = batches['pages']
  return params_lib.split(random_params(
      model, batch.images, batch.tokens, batch.image_index))


@pytest.fixture(scope='module')
def take_steps(model, batches, trees, quick_jit):
  """(steps=1, rate=1.0, **arguments) to the last state and all metrics.

  Plain SGD, so that what was added to the trainables is minus the gradient.
  """
  @functools.cache
  def compiled(**arguments):  # once for all rates
    return quick_jit(lambda rate, *inputs: make_train_step(
        model, optax.sgd(rate), WEIGHTS, **arguments)(*inputs))

  def run(steps=1, rate=1.0, batches=batches, **arguments):
    step = compiled(**arguments)
    state = init_state(
        optax.sgd(rate), *trees, ema=arguments.get('ema', 0.0))
    metrics = []
    for _ in range(steps):
      state, scalars = step(rate, state, batches)
      metrics.append(scalars)
    return jax.device_get((state, metrics))

  return run


def _close(came, expected, rtol=1e-4, atol=1e-5):
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
      came, expected)


def _norm(tree):
  return np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(tree)))


def _moved(before, after):
  return jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), before, after)


# In parts.


@pytest.mark.parametrize('parts, arguments', [
    (2, {}), (6, dict(z_loss=0.3)), (3, dict(combine='round_robin'))])
def test_micro_batches_are_the_whole_batch(take_steps, parts, arguments):
  """Their counts of targets differ, so a mean of their means would not be."""
  whole, metrics = take_steps(**arguments)
  came, metrics_of_parts = take_steps(**arguments, micro_batches=parts)
  _close(came, whole)
  _close(metrics_of_parts, metrics)


def test_parts_of_a_batch_have_other_counts_of_targets(batches):
  """Or else the test before could not fail."""
  counts = [
      batches['pages'].loss_mask[i::3].sum(dtype=int).item() for i in range(3)]
  assert len(set(counts)) > 1


def test_one_part_of_one_shape_goes_through_the_model_at_a_time(
    model, batches, trees, monkeypatch
):
  calls = []
  read = type(model).read
  monkeypatch.setattr(
      type(model), 'read',
      lambda self, *args: calls.append(args[1].shape) or read(self, *args))
  optimizer = optax.sgd(1.0)
  step = make_train_step(model, optimizer, WEIGHTS, micro_batches=3)
  jax.eval_shape(step, init_state(optimizer, *trees), batches)
  assert sorted(set(calls)) == [(2, 5), (2 + 2, 7)]


def test_rows_that_micro_batches_do_not_divide_are_refused(
    model, batches, trees
):
  optimizer = optax.sgd(1.0)
  step = make_train_step(model, optimizer, WEIGHTS, micro_batches=4)
  message = "'captions' has 6 rows, which micro_batches=4 does not divide"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
        step, init_state(optimizer, *trees),
        {'captions': batches['captions']})


# On several devices.


def test_shares_of_rows_change_nothing(take_steps):
  whole, metrics = take_steps()
  came, metrics_of_shares = take_steps(shares=3, chunk=5)
  _close(came, whole)
  _close(metrics_of_shares, metrics)


def test_shares_that_do_not_divide_the_rows_change_nothing(take_steps):
  _close(take_steps(shares=5), take_steps())


def test_rows_are_not_sent_about_to_join_datasets_or_sort_tokens(
    model, batches, trees
):
  """Two devices exchange sums of gradients and numbers, and no more."""
  mesh = jax.make_mesh(
      (2,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  rows, everywhere = (
      NamedSharding(mesh, PartitionSpec(*axes)) for axes in (('data',), ()))
  optimizer = optax.sgd(1.0)
  step = make_train_step(
      model, optimizer, WEIGHTS, shares=2, micro_batches=3)
  program = jax.jit(
      step, out_shardings=everywhere,
      compiler_options={'xla_backend_optimization_level': 0}).lower(
          jax.device_put(init_state(optimizer, *trees), everywhere),
          jax.device_put(batches, rows)).compile().as_text()
  assert 'all-reduce' in program
  for exchange in 'all-gather', 'all-to-all', 'collective-permute':
    assert exchange not in program


# In turn.


def test_in_a_round_each_dataset_has_an_update_of_its_own(
    model, take_steps, trees, batches, quick_jit
):
  trainable, frozen = trees

  @quick_jit
  def gradients(trainable):
    """Of each dataset's weighted loss alone."""
    return jax.jacrev(lambda t: jnp.stack([
        weighted_loss(model, t, frozen, {'it': batch}, {'it': WEIGHTS[name]})[0]
        for name, batch in batches.items()]))(trainable)

  order = list(batches)
  for step, (name, weight) in enumerate([*WEIGHTS.items()] * 2):
    each = gradients(trainable)
    trainable = jax.tree.map(
        lambda x, g: x - 0.1 * g[order.index(name)],  # noqa: B023
        trainable, each)
    state, metrics = take_steps(
        steps=step + 1, rate=0.1, combine='round_robin')
    _close(state.trainable, trainable)
    others = WEIGHTS.keys() - {name}
    assert metrics[-1][f'loss/{name}'] > 0
    assert not any(metrics[-1][f'loss/{other}'] for other in others)
    assert not any(metrics[-1][f'targets/{other}'] for other in others)
    np.testing.assert_allclose(
        metrics[-1]['loss'], weight * metrics[-1][f'loss/{name}'], rtol=1e-5)


def test_only_the_dataset_whose_turn_it_is_is_computed(take_steps, batches):
  """Not a number in all others, which would spread if it were looked at."""
  turn, *others = WEIGHTS
  spoilt = batches | {
      name: batches[name].replace(images=batches[name].images * jnp.nan)
      for name in others}
  _, metrics = take_steps(
      steps=2, rate=0.1, batches=spoilt, combine='round_robin')
  assert all(np.isfinite(value) for value in metrics[0].values())
  assert np.isnan(metrics[1]['loss'])


# More to be minimised.


def test_the_z_loss_is_the_weighted_mean_of_log_z_squared(
    model, take_steps, trees, batches, quick_jit
):
  def by_hand(trainable):
    total = 0.0
    for name, batch in batches.items():
      logits = model.apply(
          {'params': params_lib.merge(trainable, trees[1])}, batch.images,
          batch.tokens, batch.image_index)
      log_z = jnp.log(jnp.exp(logits).sum(-1))
      mean = (log_z**2 * batch.loss_mask).sum() / batch.loss_mask.sum()
      total = total + 0.3 * WEIGHTS[name] * mean
    return total

  expected, gradient = quick_jit(jax.value_and_grad(by_hand))(trees[0])
  without, (metrics_without,) = take_steps()
  state, (metrics,) = take_steps(z_loss=0.3)
  assert 'z_loss' not in metrics_without
  np.testing.assert_allclose(metrics['z_loss'], expected, rtol=1e-5)
  np.testing.assert_allclose(
      metrics['loss'], metrics_without['loss'] + expected, rtol=1e-5)
  for name in WEIGHTS:  # what is told of a dataset is its loss alone
    np.testing.assert_allclose(
        metrics[f'loss/{name}'], metrics_without[f'loss/{name}'], rtol=1e-5)
  _close(_moved(state.trainable, without.trainable), gradient)


# The average.


def test_the_average_follows_its_formula(take_steps, trees):
  average = trees[0]
  for step in range(4):
    decay = min(0.3, (1 + step) / (10 + step))
    state, _ = take_steps(steps=step + 1, rate=0.1, ema=0.3)
    average = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new,  # noqa: B023
        average, state.trainable)
    _close(state.ema, average)
  assert decay == 0.3 and 2 / 11 < 0.3  # both sides of the minimum were seen


def test_an_average_changes_nothing_that_it_averages(take_steps):
  with_it, _ = take_steps(steps=4, rate=0.1, ema=0.3)
  without, _ = take_steps(steps=4, rate=0.1)
  assert without.ema is None
  _close(with_it.replace(ema=None), without, rtol=1e-6, atol=1e-6)


def test_an_average_of_a_state_without_one_is_refused(model, batches, trees):
  optimizer = optax.sgd(1.0)
  step = make_train_step(model, optimizer, WEIGHTS, ema=0.9)
  with pytest.raises(ValueError, match='the state holds no average'):
    jax.eval_shape(step, init_state(optimizer, *trees), batches)


# What a step tells.


def test_gradient_norms_are_told_by_part_and_before_the_clip(
    take_steps, trees
):
  state, (metrics,) = take_steps()
  gradient = _moved(state.trainable, trees[0])
  parts = {
      'resampler': gradient['resampler'], 'xattn': gradient['xattn_0'],
      'new_tokens': gradient['new_embedding']}
  came = {
      name.removeprefix('gradient_norm/'): value
      for name, value in metrics.items() if name.startswith('gradient_norm/')}
  _close(came, {name: _norm(part) for name, part in parts.items()})
  np.testing.assert_allclose(
      metrics['gradient_norm'], _norm(gradient), rtol=1e-4)


def test_the_norm_of_the_update_is_that_of_what_was_added(take_steps, trees):
  state, (metrics,) = take_steps(rate=0.1)
  np.testing.assert_allclose(
      metrics['update_norm'], _norm(_moved(trees[0], state.trainable)),
      rtol=1e-3)
  np.testing.assert_allclose(
      metrics['update_norm'], 0.1 * metrics['gradient_norm'], rtol=1e-5)


def test_targets_are_counted_by_dataset(take_steps, batches):
  _, (metrics,) = take_steps()
  for name, batch in batches.items():
    assert metrics[f'targets/{name}'] == batch.loss_mask.sum()


@pytest.mark.parametrize('name', WEIGHTS)
def test_a_loss_that_is_not_a_number_names_its_dataset(
    take_steps, batches, name
):
  """Datasets of one shape go through the model together, and are told apart."""
  spoilt = batches[name].replace(images=batches[name].images * jnp.nan)
  _, (metrics,) = take_steps(batches=batches | {name: spoilt})
  bad = {
      key for key, value in metrics.items()
      if key.startswith('loss/') and not np.isfinite(value)}
  assert bad == {f'loss/{name}'} and np.isnan(metrics['loss'])


@pytest.mark.parametrize('argument, message', [
    (dict(micro_batches=0), 'micro_batches=0 must be at least 1'),
    (dict(combine='mean'), "combine='mean' is not one of"),
    (dict(z_loss=-1e-4), 'z_loss=-0.0001 must not be negative'),
    (dict(ema=1.0), 'ema=1.0 must be at least 0, which is off, and less'),
])
def test_settings_out_of_range_are_refused(model, argument, message):
  with pytest.raises(ValueError, match=message):
    make_train_step(model, optax.sgd(1.0), WEIGHTS, **argument)
