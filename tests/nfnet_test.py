"""NFNet: published sizes, the signal it keeps, and the two ways to compute."""

import functools

from flamingo import params as params_lib
from flamingo.model.vision import nfnet, wsconv
import jax
import jax.numpy as jnp
import numpy as np
import pytest

TINY = dict(
    depths=(1, 2, 3, 1), widths=(16, 24, 40, 56), stem=(2, 3, 5, 7),
    group_size=4)


@functools.cache  # tracing F6 takes seconds
def shapes(module, method=None):
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
  init = functools.partial(module.init, method=method)
  return jax.eval_shape(init, jax.random.key(0), images)['params']


def random_images(count=2, height=67, width=45):
  return jnp.asarray(np.random.default_rng(3).integers(
      0, 256, (count, height, width, 3), np.uint8))


# Table 3 of the paper (in millions, classifier included).
@pytest.mark.parametrize('variant, millions', [
    ('f0', 71.5), ('f1', 132.6), ('f2', 193.8), ('f3', 254.9), ('f4', 316.1),
    ('f5', 377.2), ('f6', 438.4)])
def test_parameter_counts_are_the_published_ones(variant, millions):
  module = nfnet.NFNet(nfnet.VARIANTS[variant].depths)
  count = params_lib.count(shapes(module, 'classify'))
  assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_flamingo_has_435_million_parameters_of_f6():
  module = nfnet.NFNet(nfnet.VARIANTS['f6'].depths)
  assert round(params_lib.count(shapes(module)) / 1e6) == 435
  assert shapes(module)['final']['kernel'].shape == (1, 1, 1536, 3072)


def test_a_network_without_its_last_convolution_has_no_parameters_of_it():
  assert 'final' in shapes(nfnet.NFNet(**TINY))
  assert 'final' not in shapes(nfnet.NFNet(**TINY, final_conv=False))


@pytest.mark.parametrize('size, tokens', [(288, 81), (320, 100), (480, 225)])
def test_the_grid_has_32_pixels_to_a_cell(size, tokens):
  module = nfnet.NFNet(**TINY)
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
  out, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
  assert out.shape == (1, tokens, module.width)


@pytest.mark.parametrize('final_conv, width', [(True, 112), (False, 56)])
def test_features_are_those_of_the_stage_or_of_the_last_convolution(
    final_conv, width, random_params, run):
  module = nfnet.NFNet(**TINY, final_conv=final_conv)
  out = run(module, random_params(module, random_images()), random_images())
  assert module.width == width
  # 67 x 45 pixels: the last cells of a side are seen in part.
  assert out.shape == (2, 3 * 2, width) and out.dtype == np.float32


def test_the_last_convolution_stands_on_the_last_stage(random_params, run):
  module = nfnet.NFNet(**TINY)
  params = random_params(module, random_images())
  stage = run(module.clone(final_conv=False), params, random_images())
  final = {k: np.asarray(v, np.float64) for k, v in params['final'].items()}
  kernel = final['kernel'][0, 0] - final['kernel'][0, 0].mean(0)
  kernel = kernel / np.sqrt((kernel**2).sum(0)) * final['gain']
  y = np.asarray(stage, np.float64) @ kernel + final['bias']
  np.testing.assert_allclose(
      run(module, params, random_images()),
      wsconv.activate('gelu_tanh', jnp.asarray(y, jnp.float32)), atol=1e-4)


def test_the_expected_variance_starts_again_behind_each_first_block():
  specs = nfnet.block_specs(7, (16, 24, 40, 56), (1, 2, 3, 1), 0.2)
  np.testing.assert_allclose(
      [spec.expected_std**2 for spec in specs],
      [1, 1.04, 1.04, 1.08, 1.04, 1.08, 1.12])
  assert [spec.stride for spec in specs] == [1, 2, 1, 2, 1, 1, 2]
  assert [spec.projects for spec in specs] == [
      True, True, False, True, False, False, True]


@pytest.mark.parametrize('activation', wsconv.GAMMAS)
def test_activations_keep_the_variance_of_gaussian_numbers(activation):
  x = jnp.asarray(np.random.default_rng(0).normal(size=400_000), jnp.float32)
  assert float(wsconv.activate(activation, x).var()) == pytest.approx(
      1, abs=0.01)


def test_a_convolution_keeps_the_variance_whatever_its_kernel():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 16, 16, 24)), jnp.float32)
  conv = wsconv.WSConv(24, 40)
  params = conv.init(jax.random.key(0), x)['params']
  params['kernel'] = 5 + 30 * params['kernel']
  out = conv.apply({'params': params}, x)
  assert float(out.var()) == pytest.approx(1, abs=0.1)
  np.testing.assert_allclose(
      conv.apply({'params': params | {'gain': 3 * params['gain']}}, x), 3 * out,
      atol=1e-4)


def block(**sizes):
  return nfnet.Block(nfnet.BlockSpec(**sizes), 4, 0.2, 'gelu_tanh')


def test_every_block_begins_as_its_shortcut(run, quick_jit):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3, 24)),
                  jnp.float32)
  plain = block(inputs=24, outputs=24, stride=1, expected_std=1.3)
  params = quick_jit(plain.init)(jax.random.key(0), x)['params']
  np.testing.assert_array_equal(run(plain, params, x), x)
  params['skip_gain'] += 1
  assert np.abs(run(plain, params, x) - np.asarray(x)).mean() > 0.01


def test_the_kernel_alone_cannot_shrink_to_nothing(run):
  x = jnp.asarray(random_images(1, 8, 8), jnp.float32)
  for floor in (True, False):
    conv = wsconv.WSConv(3, 4, 3, ws_floor=floor)
    params = conv.init(jax.random.key(0), x)['params']
    params['kernel'] = 0 * params['kernel']
    assert np.isfinite(run(conv, params, x)).all()


def test_low_precision_stays_near(random_params, run):
  module = nfnet.NFNet(**TINY)
  params = random_params(module, random_images())
  exact = run(module, params, random_images())
  near = run(module.clone(dtype=jnp.bfloat16), params, random_images())
  assert near.dtype == np.float32 and (near != exact).any()
  np.testing.assert_allclose(near, exact, atol=0.05 * np.abs(exact).max())


def test_its_parameters_can_be_trained(random_params, quick_jit):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3, 16)),
                  jnp.float32)
  first = block(inputs=16, outputs=24, stride=2, expected_std=1.3)
  first = first.clone(dtype=jnp.bfloat16)
  loss = lambda params: jnp.square(first.apply({'params': params}, x)).mean()
  gradient = quick_jit(jax.grad(loss))(random_params(first, x))
  for path, leaf in params_lib.flatten(gradient):
    assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize('wrong, message', [
    (dict(activation='tanh'), "came 'tanh'"),
    (dict(depths=(1, 2, 6)), r'came depths \(1, 2, 6\)')])
def test_misuse_is_told_when_it_is_built(wrong, message):
  with pytest.raises(ValueError, match=message):
    nfnet.NFNet(**wrong)


def test_clips_are_refused():
  with pytest.raises(ValueError, match=r'came \(1, 2, 67, 45, 3\)'):
    nfnet.NFNet(**TINY).init(jax.random.key(0), random_images()[None])
