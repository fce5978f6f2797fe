"""One layer: how its halves are put together, and what attention is given."""

import functools

from flamingo import params as params_lib
from flamingo.model.attention import FeedForward, Norm
from flamingo.model.cache import Place
from flamingo.model.decoder import Layer, SelfAttention
import jax.numpy as jnp
import numpy as np
import pytest

WIDTH, HEADS, KV_HEADS, HEAD = 11, 6, 3, 4


@pytest.fixture
def x():
  return jnp.asarray(
      np.random.default_rng(1).normal(size=(2, 5, WIDTH)), jnp.float32)


@pytest.fixture
def place():
  return Place.of(jnp.zeros((2, 5), jnp.int32))


def attention(kind='rms', **settings):
  return SelfAttention(
      WIDTH, HEADS, KV_HEADS, HEAD, functools.partial(Norm, kind=kind),
      **settings)


@pytest.fixture
def bind(random_params, x, place):
  """Settings of a layer to the layer with random parameters."""
  def bind(**settings):
    layer = Layer(
        WIDTH, attention(), FeedForward(WIDTH, 17, 'silu', gated=True),
        functools.partial(Norm, kind='rms'), **settings)
    return layer.bind({'params': random_params(layer, x, place)})
  return bind


def test_a_layer_adds_one_half_after_the_other(bind, x, place):
  layer = bind()
  attn = lambda x: layer.attn(x, place, None)[0]
  y = x + attn(layer.attn_norm(x))
  np.testing.assert_allclose(
      layer(x, place)[0], y + layer.mlp(layer.mlp_norm(y)), rtol=1e-5,
      atol=1e-5)


def test_parallel_halves_read_the_same(bind, x, place):
  layer = bind(parallel=True)
  attn = lambda x: layer.attn(x, place, None)[0]
  np.testing.assert_allclose(
      layer(x, place)[0],
      x + attn(layer.attn_norm(x)) + layer.mlp(layer.mlp_norm(x)), rtol=1e-5,
      atol=1e-5)


def test_norms_may_stand_behind_the_additions(bind, x, place):
  layer = bind(norm_first=False)
  y = layer.attn_norm(x + layer.attn(x, place, None)[0])
  np.testing.assert_allclose(
      layer(x, place)[0], layer.mlp_norm(y + layer.mlp(y)), rtol=1e-5,
      atol=1e-5)


def test_norms_may_stand_before_and_behind_each_half(bind, x, place):
  layer = bind(norm_after=True)
  attn = lambda x: layer.attn(x, place, None)[0]
  y = x + layer.attn_after_norm(attn(layer.attn_norm(x)))
  branch = layer.mlp_after_norm(layer.mlp(layer.mlp_norm(y)))
  np.testing.assert_allclose(
      layer(x, place)[0], y + branch, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ['rms', 'layer'])
@pytest.mark.parametrize('norm_heads', ['head', 'width'])
def test_queries_and_keys_are_normed_by_head_or_together(
    random_params, x, place, kind, norm_heads
):
  """Turned heads keep their length, so the cached keys tell."""
  module = attention(kind, norm_heads=norm_heads)
  params = random_params(module, x, place, None)
  _, (key, value) = module.apply({'params': params}, x, place, None)
  project = lambda name: np.einsum(
      'blm,mkd->blkd', *map(np.asarray, (x, params[name]['kernel'])))
  plain = project('key')
  axes = -1 if norm_heads == 'head' else (-2, -1)
  if kind == 'layer':
    plain = plain - plain.mean(axes, keepdims=True)
  plain = plain / np.sqrt((plain**2).mean(axes, keepdims=True) + 1e-5)
  shape = (HEAD,) if norm_heads == 'head' else (KV_HEADS, HEAD)
  own = {
      k: np.asarray(v).reshape(shape) for k, v in params['norm_key'].items()}
  np.testing.assert_allclose(
      key, plain * own['scale'] + own.get('bias', 0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(value, project('value'), rtol=1e-4, atol=1e-5)


def test_norm_then_rotation(random_params, x, place):
  """The other order would scale the two members of a pair differently."""
  turn = lambda heads, positions: heads + positions[:, :, None, None]
  params = random_params(attention(norm_heads='head'), x, place, None)
  keys = [
      attention(norm_heads='head', rotate=rotate).apply(
          {'params': params}, x, place, None)[1][0]
      for rotate in (None, turn)]
  np.testing.assert_allclose(
      keys[1], turn(keys[0], place.positions), rtol=1e-5, atol=1e-5)


def test_keys_and_values_are_cut_off(random_params, x, place):
  params = random_params(attention(), x, place, None)
  free, cut = (
      attention(clip=clip).apply({'params': params}, x, place, None)[1]
      for clip in (None, 0.25))
  for before, after in zip(free, cut):
    assert np.abs(before).max() > 0.5
    np.testing.assert_array_equal(after, np.clip(before, -0.25, 0.25))


def test_biases_are_where_they_are_asked_for(random_params, x, place):
  paths = lambda **settings: {
      '/'.join(path) for path, _ in params_lib.flatten(
          random_params(attention(**settings), x, place, None))}
  plain = {f'{name}/kernel' for name in ('query', 'key', 'value', 'out')}
  assert paths() == plain
  assert paths(use_bias=True) == plain | {
      'query/bias', 'key/bias', 'value/bias'}
  assert paths(out_bias=True) == plain | {'out/bias'}
