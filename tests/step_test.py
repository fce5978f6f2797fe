"""One update: losses of datasets add up, and what is frozen stays frozen."""

from flamingo import params as params_lib
from flamingo.model.flamingo import Flamingo
from flamingo.train.objective import weighted_loss
from flamingo.train.optimizer import decays, make_optimizer, schedule
from flamingo.train.step import init_state, make_train_step
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import three_datasets
from three_datasets import VOCAB, WEIGHTS

@pytest.fixture(scope='module')
def model():
  return three_datasets.make_model()


@pytest.fixture(scope='module')
def batches():
  return three_datasets.make_batches()


@pytest.fixture(scope='module')
def params(model, batches, random_params):
  batch = batches['pages']
  return random_params(model, batch.images, batch.tokens, batch.image_index)


@pytest.fixture(scope='module')
def loss(model, quick_jit):
  """(params, batches, weights) to ((loss, means), gradient), in numpy."""
  @quick_jit
  def run(params, batches, weights):
    trainable, frozen = params_lib.split(params)
    return jax.value_and_grad(
        lambda t: weighted_loss(model, t, frozen, batches, weights),
        has_aux=True)(trainable)

  return lambda *args: jax.device_get(run(*args))


def _close(came, expected, **tolerance):
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
          a, b, **({'rtol': 1e-4, 'atol': 1e-6} | tolerance)),
      came, expected)


def _alone(loss, params, batches):
  return {
      name: loss(params, {'it': batch}, {'it': 1.0})
      for name, batch in batches.items()}


# The loss.


def test_the_loss_of_one_dataset_is_the_mean_over_tokens_that_count(
    model, loss, params, batches, quick_jit
):
  batch = batches['pages']
  (came, means), _ = loss(params, {'it': batch}, {'it': 1.0})
  logits = quick_jit(lambda *x: model.apply({'params': params}, *x))(
      batch.images, batch.tokens, batch.image_index)
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
  np.testing.assert_allclose(came, nll[batch.loss_mask].mean(), rtol=1e-5)
  np.testing.assert_allclose(means['loss/it'], came, rtol=1e-6)


def test_the_loss_is_the_weighted_sum_of_the_losses_of_each(
    loss, params, batches
):
  (total, means), gradient = loss(params, batches, WEIGHTS)
  alone = _alone(loss, params, batches)
  _close(total, sum(w * alone[name][0][0] for name, w in WEIGHTS.items()))
  _close(means, {f'loss/{name}': alone[name][0][0] for name in WEIGHTS})
  _close(gradient, jax.tree.map(
      lambda *leaves: sum(w * g for w, g in zip(WEIGHTS.values(), leaves)),
      *(alone[name][1] for name in WEIGHTS)))


def test_batches_of_one_shape_go_through_the_model_together(
    model, params, batches, monkeypatch
):
  """That they add up all the same, the test before has shown."""
  calls = []
  read = Flamingo.read
  monkeypatch.setattr(
      Flamingo, 'read',
      lambda self, *args: calls.append(args[1].shape) or read(self, *args))
  trainable, frozen = params_lib.split(params)
  jax.eval_shape(
      lambda t: weighted_loss(model, t, frozen, batches, WEIGHTS), trainable)
  assert sorted(calls) == [(2, 5), (2 + 2, 7)]


def test_rows_of_new_tokens_may_be_frozen_and_others_learn_the_same(
    model, loss, params, batches, quick_jit
):
  batch = {'pages': batches['pages']}
  expected = loss(params, batch, WEIGHTS)[1]
  del expected['new_embedding']
  trainable, frozen = params_lib.split(
      params, lambda path: path[0] in expected)
  came = quick_jit(jax.grad(lambda t: weighted_loss(
      model, t, frozen, batch, WEIGHTS)[0]))(trainable)
  _close(came, expected)


def test_a_dataset_without_a_target_adds_nothing(loss, params, batches):
  none = {
      name: batch.replace(loss_mask=jnp.zeros_like(batch.loss_mask))
      for name, batch in batches.items()}
  (total, means), gradient = loss(params, none, WEIGHTS)
  assert total == 0 and all(mean == 0 for mean in means.values())
  assert not any(map(np.any, jax.tree.leaves(gradient)))


def test_targets_that_do_not_count_do_not_matter(loss, params, batches):
  other = {
      name: batch.replace(targets=jnp.where(
          batch.loss_mask, batch.targets, (batch.targets + 1) % VOCAB))
      for name, batch in batches.items()}
  _close(loss(params, other, WEIGHTS), loss(params, batches, WEIGHTS))


# The update.


@pytest.fixture(scope='module')
def trained(model, params, batches, quick_jit):
  """State before, state after 100 steps, and the metrics of each step."""
  optimizer = make_optimizer(steps=100, learning_rate=3e-3, warmup=10)
  trainable, frozen = params_lib.split(params)
  before = init_state(optimizer, trainable, frozen)
  step = quick_jit(
      make_train_step(model, optimizer, WEIGHTS), donate_argnums=0)
  # A copy, since a donated state is gone.
  state, metrics = jax.tree.map(jnp.array, before), []
  for _ in range(100):
    state, scalars = step(state, batches)
    metrics.append(scalars)
  return jax.device_get((before, state, metrics))


def test_after_a_hundred_steps_what_is_frozen_is_the_same_bit_for_bit(trained):
  before, after, _ = trained
  assert after.step == 100
  jax.tree.map(
      np.testing.assert_array_equal, after.frozen, before.frozen)


def test_after_a_hundred_steps_everything_trainable_has_moved(trained):
  before, after, _ = trained
  came = dict(params_lib.flatten(after.trainable))
  for path, leaf in params_lib.flatten(before.trainable):
    assert np.any(came[path] != leaf), path
    assert np.isfinite(came[path]).all(), path


def test_the_optimizer_holds_nothing_for_what_is_frozen(trained):
  _, after, _ = trained
  moments = [
      leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim]
  shapes = lambda leaves: sorted(leaf.shape for leaf in leaves)
  trainable = [
      leaf for leaf in jax.tree.leaves(after.trainable) if leaf.ndim]
  assert shapes(moments) == shapes(2 * trainable)
  scalars = jax.tree.leaves(after.opt_state)
  assert len(scalars) - len(moments) <= 2 * 2 + 2  # of gates, and counts
  assert params_lib.count(after.opt_state) < 2 * params_lib.count(
      after.trainable) + 3


def test_the_loss_falls_and_is_told_by_dataset(trained):
  _, _, metrics = trained
  losses = {'loss', 'loss/pages', 'loss/captions', 'loss/clips'}
  assert {name for name in metrics[0] if name.startswith('loss')} == losses
  assert metrics[-1]['loss'] < 0.7 * metrics[0]['loss']
  for scalars in metrics:
    np.testing.assert_allclose(
        scalars['loss'],
        sum(w * scalars[f'loss/{name}'] for name, w in WEIGHTS.items()),
        rtol=1e-4)


# The optimizer.


def test_only_kernels_of_the_gated_blocks_decay(params, quick_jit):
  trainable, _ = params_lib.split(params)
  optimizer = make_optimizer(
      steps=1, learning_rate=0.5, warmup=0, weight_decay=0.1)

  @quick_jit
  def update(trainable):
    zeros = jax.tree.map(jnp.zeros_like, trainable)
    return optimizer.update(zeros, optimizer.init(trainable), trainable)

  updates, _ = update(trainable)
  updates = dict(params_lib.flatten(updates))
  decayed = set()
  for path, leaf in params_lib.flatten(trainable):
    if np.any(updates[path]):
      decayed.add(path)
      np.testing.assert_allclose(updates[path], -0.05 * leaf, rtol=1e-5)
  assert decayed == {
      ('xattn_0', 'query', 'kernel'), ('xattn_0', 'key', 'kernel'),
      ('xattn_0', 'value', 'kernel'), ('xattn_0', 'out', 'kernel'),
      ('xattn_0', 'ff', 'up', 'kernel'), ('xattn_0', 'ff', 'down', 'kernel')}
  assert decayed == {
      path for path, yes in params_lib.flatten(decays(trainable)) if yes}


def test_kernels_of_blocks_that_are_stacked_decay_too():
  block = {'query': {'kernel': 0}, 'norm_text': {'scale': 0}, 'attn_gate': 0}
  resampler = {'out': {'kernel': 0}}
  assert decays({'xattn_groups': block, 'resampler': resampler}) == {
      'resampler': {'out': {'kernel': False}},
      'xattn_groups': {
          'attn_gate': False, 'norm_text': {'scale': False},
          'query': {'kernel': True}}}


def test_a_large_gradient_is_cut_to_a_norm_of_one(params, quick_jit):
  """The second moment after one step says what norm the optimizer saw."""
  trainable, _ = params_lib.split(params)
  optimizer = make_optimizer(steps=1, b2=0.999)

  @quick_jit
  def seen(scale):
    gradient = jax.tree.map(lambda x: scale * jnp.ones_like(x), trainable)
    _, state = optimizer.update(
        gradient, optimizer.init(trainable), trainable)
    nu = optax.tree_utils.tree_get(state, 'nu')
    return sum(leaf.sum() for leaf in jax.tree.leaves(nu)) ** 0.5 / 1e-3**0.5

  assert seen(1e3) == pytest.approx(1.0, rel=1e-3)
  small = 1e-4
  assert seen(small) == pytest.approx(
      small * params_lib.count(trainable) ** 0.5, rel=1e-3)


def test_the_rate_rises_and_stays():
  rate = schedule(1e-4, warmup=5000, steps=500_000, final=1.0)
  at = [0, 2500, 5000, 5001, 500_000]
  np.testing.assert_allclose(
      [rate(t) for t in at], [0, 0.5e-4, 1e-4, 1e-4, 1e-4], rtol=1e-5)


def test_the_rate_rises_and_falls_as_a_cosine():
  rate = schedule(2.0, warmup=10, steps=110, final=0.1)
  at = [0, 5, 10, 60, 110, 999]
  np.testing.assert_allclose(
      [rate(t) for t in at], [0, 1, 2, 1.1, 0.2, 0.2], rtol=1e-5)


def test_without_warm_up_the_first_step_has_the_whole_rate():
  assert schedule(3.0, warmup=0, steps=7, final=1.0)(0) == 3.0
