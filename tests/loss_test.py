"""The chunked loss is plain cross entropy, in value and in gradient."""

import functools

from flamingo.train.loss import weighted_nll
import jax
import jax.numpy as jnp
import numpy as np
import pytest

K, D, V = 21, 5, 29  # tokens, width, vocabulary: the new rows are the last two
# Tokens of a chunk, weight of log(Z)^2, shares that tokens are spread over.
SETTINGS = [
    (1, 0.0, 1), (4, 0.0, 1), (21, 0.0, 1), (64, 0.0, 1), (4, 0.7, 1),
    (2, 0.0, 3), (5, 0.7, 7)]

_rng = np.random.default_rng(0)
_some = _rng.random(K) * (_rng.random(K) < 0.5)
WEIGHTS = {
    'all': _rng.random(K),
    'some': _some,
    'a token': np.eye(K)[11],
    'none': np.zeros(K),
    'the first five': _rng.random(K) * (np.arange(K) < 5),
    'some against': _some * np.where(np.arange(K) % 2, 1, -1),
}
WEIGHTS = {name: jnp.asarray(w, jnp.float32) for name, w in WEIGHTS.items()}


def _head(trainable, frozen, x):
  return jnp.concatenate([x @ frozen['old'].T, x @ trainable['new'].T], axis=1)


def _inputs():
  rng = np.random.default_rng(1)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return (
      {'new': draw(2, D)}, {'old': draw(V - 2, D)}, draw(K, D),
      jnp.asarray(rng.integers(0, V, K)))


def _plain(trainable, frozen, x, targets, weights, z_loss=0.0):
  logits = _head(trainable, frozen, x)
  nll = -jax.nn.log_softmax(logits)[jnp.arange(K), targets]
  log_z = jnp.log(jnp.exp(logits).sum(axis=1))
  loss = (weights * (nll + z_loss * log_z**2)).sum()
  return loss, tuple(jnp.where(weights == 0, 0, a) for a in (nll, log_z))


def _ours(chunk, z_loss=0.0, shares=1):
  def ours(*args):
    loss, *tokens = weighted_nll(_head, *args, chunk, z_loss, shares)
    return loss, tuple(tokens)
  return ours


def _close(came, expected):
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      came, expected)


@pytest.fixture(scope='module', params=SETTINGS)
def setting(request):
  return request.param


@pytest.fixture(scope='module')
def value(setting):
  """Results of a function that isn't differentiated."""
  return jax.jit(_ours(*setting))


@pytest.fixture(scope='module')
def value_and_gradient(setting):
  """Likewise with gradients for trainable, frozen and x."""
  return jax.jit(jax.value_and_grad(_ours(*setting), (0, 1, 2), has_aux=True))


@pytest.fixture(scope='module')
def plain(setting):
  return jax.jit(jax.value_and_grad(
      functools.partial(_plain, z_loss=setting[1]), (0, 1, 2), has_aux=True))


@pytest.mark.parametrize('name', WEIGHTS)
def test_it_is_cross_entropy(value, plain, name):
  args = *_inputs(), WEIGHTS[name]
  _close(value(*args), plain(*args)[0])


@pytest.mark.parametrize('name', WEIGHTS)
def test_its_gradient_is_that_of_cross_entropy(value_and_gradient, plain, name):
  args = *_inputs(), WEIGHTS[name]
  came, (d_trainable, _, dx) = value_and_gradient(*args)
  expected, (plain_d_trainable, _, plain_dx) = plain(*args)
  _close(came, expected)
  _close((d_trainable, dx), (plain_d_trainable, plain_dx))


def test_frozen_parameters_get_no_gradient(value_and_gradient, plain):
  args = *_inputs(), WEIGHTS['all']
  _, (_, d_frozen, _) = value_and_gradient(*args)
  np.testing.assert_array_equal(d_frozen['old'], 0)
  assert np.any(plain(*args)[1][1]['old'])  # though they matter


def test_tokens_without_weight_are_left_alone(value_and_gradient):
  args = *_inputs(), WEIGHTS['some']
  (_, (nll, log_z)), (_, _, dx) = value_and_gradient(*args)
  counts = WEIGHTS['some'] != 0
  np.testing.assert_array_equal(np.asarray(nll) != 0, counts)
  np.testing.assert_array_equal(np.asarray(log_z) != 0, counts)
  np.testing.assert_array_equal(np.any(dx, axis=1), counts)


def test_what_tokens_say_adds_up_to_the_loss(value, setting):
  _, z_loss, _ = setting
  loss, (nll, log_z) = value(*_inputs(), WEIGHTS['all'])
  np.testing.assert_allclose(
      loss, (WEIGHTS['all'] * (nll + z_loss * log_z**2)).sum(), rtol=1e-5)


def test_what_tokens_say_passes_no_gradient_on():
  trainable, *rest = _inputs()
  gradient = jax.grad(lambda t: sum(
      a.sum() for a in _ours(4)(t, *rest, WEIGHTS['all'])[1]))(trainable)
  np.testing.assert_array_equal(gradient['new'], 0)


def test_a_loss_that_is_scaled_has_a_gradient_that_is_scaled():
  trainable, *rest = _inputs()
  gradient = lambda scale: jax.grad(
      lambda t: scale * _ours(4)(t, *rest, WEIGHTS['all'])[0])(trainable)['new']
  np.testing.assert_allclose(gradient(-7.0), -7 * gradient(1.0), rtol=1e-5)


@pytest.mark.parametrize('differentiate', [False, True])
def test_no_array_of_all_tokens_by_all_words_is_ever_made(differentiate):
  args = *_inputs(), WEIGHTS['all']
  wrap = lambda f: jax.grad(lambda *a: f(*a)[0]) if differentiate else f
  too_large = f'[{K},{V}]'
  assert too_large in str(jax.make_jaxpr(wrap(_plain))(*args))
  assert too_large not in str(jax.make_jaxpr(wrap(_ours(4)))(*args))


@pytest.mark.parametrize('name, chunks', [
    ('none', 0), ('a token', 1), ('the first five', 2), ('all', 6)])
def test_chunks_without_a_target_are_skipped(name, chunks):
  calls = []

  def head(trainable, frozen, x):
    jax.debug.callback(lambda: calls.append(x.shape))
    return _head(trainable, frozen, x)

  loss = lambda trainable, *rest: weighted_nll(head, trainable, *rest, 4)[0]
  jax.block_until_ready(jax.jit(jax.grad(loss))(*_inputs(), WEIGHTS[name]))
  jax.effects_barrier()
  assert calls == [(4, D)] * chunks
