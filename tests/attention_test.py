"""The primitives against their definitions, written out in numpy."""

from flamingo.model import attention
import jax
import jax.numpy as jnp
import numpy as np
import pytest

B, L, M, D = 2, 7, 11, 6


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def _qkv(rng, heads=3, kv_heads=3):
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return (
      draw(B, L, heads, D), draw(B, M, kv_heads, D), draw(B, M, kv_heads, D))


def _mask(rng):
  mask = rng.random((B, L, M)) < 0.5
  mask[:, :, 0] = True
  mask[0, 2] = False
  mask[1, 5] = False
  return jnp.asarray(mask)


def _attend_by_hand(query, key, value, mask, bias):
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  out = np.zeros_like(query)
  for b, l, h in np.ndindex(query.shape[:3]):
    allowed = np.flatnonzero(mask[b, l])
    if len(allowed):
      scores = key[b, allowed, h] @ query[b, l, h] / D**0.5
      weights = np.exp(scores + bias[b, h, l, allowed])
      out[b, l, h] = weights @ value[b, allowed, h] / weights.sum()
  return out


def test_attend_is_its_definition(rng):
  qkv, mask = _qkv(rng), _mask(rng)
  np.testing.assert_allclose(
      attention.attend(*qkv, mask),
      _attend_by_hand(*qkv, mask, np.zeros((B, 3, L, M))),
      rtol=1e-5, atol=1e-6)


def test_attend_adds_a_bias_to_the_scores(rng):
  qkv, mask = _qkv(rng), _mask(rng)
  bias = jnp.asarray(rng.normal(size=(B, 3, L, M)), jnp.float32)
  np.testing.assert_allclose(
      attention.attend(*qkv, mask, bias),
      _attend_by_hand(*qkv, mask, np.asarray(bias)),
      rtol=1e-5, atol=1e-6)


def test_scores_may_have_another_scale(rng):
  query, key, value = _qkv(rng)
  mask = _mask(rng)
  np.testing.assert_allclose(
      attention.attend(query, key, value, mask, scale=0.3),
      attention.attend(query * (0.3 * D**0.5), key, value, mask),
      rtol=1e-5, atol=1e-6)


def test_no_mask_means_everything_is_allowed(rng):
  qkv = _qkv(rng)
  np.testing.assert_allclose(
      attention.attend(*qkv),
      attention.attend(*qkv, jnp.ones((B, L, M), bool)), rtol=1e-6)


def test_a_row_with_nothing_allowed_is_exactly_zero(rng):
  out = np.asarray(attention.attend(*_qkv(rng), _mask(rng)))
  assert not out[0, 2].any() and not out[1, 5].any()
  assert np.count_nonzero(out) == out.size - 2 * out[0, 2].size


def test_a_row_with_nothing_allowed_has_a_gradient_of_zero(rng):
  mask = jnp.zeros((B, L, M), bool)
  loss = lambda qkv: attention.attend(*qkv, mask).sum()
  for gradient in jax.grad(loss)(_qkv(rng)):
    np.testing.assert_array_equal(gradient, 0)


def test_what_is_not_allowed_has_no_influence_at_all(rng):
  query, key, value = _qkv(rng)
  mask = _mask(rng).at[:, :, 4].set(False)
  before = attention.attend(query, key, value, mask)
  after = attention.attend(
      query, key.at[:, 4].set(1e9), value.at[:, 4].set(-1e9), mask)
  np.testing.assert_array_equal(before, after)


def test_grouped_queries_equal_repeated_key_heads(rng):
  query, key, value = _qkv(rng, heads=6, kv_heads=2)
  mask = _mask(rng)
  bias = jnp.asarray(rng.normal(size=(B, 6, L, M)), jnp.float32)
  repeat = lambda x: jnp.repeat(x, 3, axis=2)
  np.testing.assert_allclose(
      attention.attend(query, key, value, mask, bias),
      attention.attend(query, repeat(key), repeat(value), mask, bias),
      rtol=1e-5, atol=1e-6)


def test_linear_contracts_and_makes_several_axes(rng, random_params):
  x = jnp.asarray(rng.normal(size=(2, 5, 3, 7)), jnp.float32)
  linear = attention.Linear((3, 7), (11, 2), use_bias=True)
  params = random_params(linear, x)
  kernel, bias = map(np.asarray, (params['kernel'], params['bias']))
  np.testing.assert_allclose(
      linear.apply({'params': params}, x),
      np.einsum('blhd,hdij->blij', x, kernel) + bias,
      rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind, use_bias', [
    ('layer', True), ('layer', False), ('rms', True)])
def test_norms_are_their_definitions(rng, random_params, kind, use_bias):
  x = rng.normal(2, 3, size=(2, 5, 13)).astype(np.float32)
  norm = attention.Norm(13, kind, use_bias, eps=0.1)
  params = random_params(norm, x)
  centre = x.mean(-1, keepdims=True) if kind == 'layer' else 0
  spread = ((x - centre) ** 2).mean(-1, keepdims=True)
  expected = (x - centre) / np.sqrt(spread + 0.1) * np.asarray(params['scale'])
  assert ('bias' in params) == (kind == 'layer' and use_bias)
  expected = expected + np.asarray(params.get('bias', 0))
  np.testing.assert_allclose(
      norm.apply({'params': params}, jnp.asarray(x)), expected,
      rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ['layer', 'rms'])
def test_a_norm_may_multiply_by_one_more_than_its_scale(
    rng, random_params, kind
):
  x = jnp.asarray(rng.normal(2, 3, size=(2, 5, 13)), jnp.float32)
  plain = attention.Norm(13, kind)
  more = plain.clone(plus_one=True)
  params = random_params(plain, x)
  np.testing.assert_allclose(
      more.apply({'params': params}, x),
      plain.apply({'params': params | {'scale': params['scale'] + 1}}, x),
      rtol=1e-6)
  # Both begin as norms alone.
  key = jax.random.key(0)
  np.testing.assert_array_equal(
      more.init_with_output(key, x)[0], plain.init_with_output(key, x)[0])


def test_norms_of_low_precision_are_computed_in_float32(rng):
  x = jnp.asarray(rng.normal(100, 1, size=(3, 13)), jnp.bfloat16)
  norm = attention.Norm(13)
  params = {'scale': jnp.ones(13, jnp.bfloat16), 'bias': jnp.zeros(13)}
  out = norm.apply({'params': params}, x)
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(
      out, norm.apply({'params': params}, x.astype(jnp.float32)), rtol=1e-6)


@pytest.mark.parametrize('name, points', [
    ('squared_relu', {-2: 0, 0: 0, 3: 9}),
    ('relu', {-2: 0, 3: 3}),
    ('silu', {-2: -2 / (1 + np.e**2), 0: 0}),
    ('gelu', {1: 0.8413447, -1: -0.1586553}),  # x times the normal's integral
    ('gelu_tanh', {1: 0.8411920, -1: -0.1588080}),
    ('quick_gelu', {1: 1 / (1 + np.exp(-1.702)), 0: 0}),
])
def test_activations_take_known_values(name, points):
  x = jnp.asarray([*points], jnp.float32)
  np.testing.assert_allclose(
      attention.ACTIVATIONS[name](x), [*points.values()], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('gated', [False, True])
def test_feed_forward_is_its_definition(rng, random_params, gated):
  x = rng.normal(size=(2, 5, 7)).astype(np.float32)
  ff = attention.FeedForward(7, 13, 'relu', gated, use_bias=True)
  params = random_params(ff, x)

  def linear(name, x):
    return x @ np.asarray(params[name]['kernel']) + np.asarray(
        params[name]['bias'])

  if gated:
    hidden = np.maximum(linear('gate', x), 0) * linear('up', x)
  else:
    hidden = np.maximum(linear('up', x), 0)
  np.testing.assert_allclose(
      ff.apply({'params': params}, jnp.asarray(x)), linear('down', hidden),
      rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('module, message', [
    (attention.Norm(7, 'batch'), "kind='batch' is no kind of norm"),
    (attention.FeedForward(7, 13, 'swish'), "'swish' is not known.*'silu'"),
])
def test_names_that_are_not_known_are_refused(module, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((2, 7)))
