"""NFNet: timm's network and ours, with the same weights."""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import sys
import types

import agreement
from flamingo import params as params_lib
from flamingo.model.vision import nfnet
from flamingo.pretrained import layouts
from flamingo.pretrained import nfnet as pretrained
import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='parity: make parity')


class _Named(type):
  """A class of which every attribute is its name."""

  def __getattr__(cls, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return f'{cls.__name__}.{name}'


class _StandIn(types.ModuleType):
  """A module in which every name is such a class."""

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return _Named(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Finds torchvision and all that is in it."""

  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] == 'torchvision':
      return importlib.machinery.ModuleSpec(name, self, is_package=True)

  def create_module(self, spec):
    return _StandIn(spec.name)

  def exec_module(self, module):
    pass


@contextlib.contextmanager
def no_torchvision():
  """timm asks for torchvision when it is imported; its networks do not."""
  finder = _StandIns()
  sys.meta_path.insert(0, finder)
  try:
    yield
  finally:
    sys.meta_path.remove(finder)
    for name in list(sys.modules):
      if name.split('.')[0] == 'torchvision':
        del sys.modules[name]


with no_torchvision():
  oracle = pytest.importorskip('timm.models.nfnet')

SMALL = 2e-5  # features are of the order of 1


def shake(model, seed=0):
  """Draws every parameter anew, so that none is what it starts from."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      if name.endswith('gain'):
        parameter.copy_(1 + 0.1 * noise)
      elif parameter.ndim > 1:
        # Off the mean and the size that are to be taken out.
        noise = 1.3 * noise + 0.4
        parameter.copy_(noise / parameter[0].numel() ** 0.5)
      else:
        parameter.copy_(0.1 * noise)
  return model.eval()


def small():
  """A dm_nfnet of odd sizes: 9 blocks, groups of 8 channels."""
  config = oracle._dm_nfnet_cfg(
      depths=(2, 1, 3, 2), channels=(32, 48, 80, 96))
  config.stem_chs, config.group_size = 24, 8
  return shake(oracle.NormFreeNet(config, num_classes=11))


def images(height, width):
  """Patches of random colours: noise would average out in the last cells."""
  coarse = np.random.default_rng(0).integers(
      0, 256, (2, height // 7 + 1, width // 7 + 1, 3), np.uint8)
  return coarse.repeat(7, 1).repeat(7, 2)[:, :height, :width]


def scaled(pixels, module):
  pixels = (pixels / np.float32(255) - np.asarray(module.mean, np.float32)) / (
      np.asarray(module.std, np.float32))
  return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)


def call(module, params, pixels, method=None):
  apply = jax.jit(
      functools.partial(module.apply, method=method),
      compiler_options={'xla_backend_optimization_level': 0})
  return np.asarray(apply({'params': params}, pixels))


def sequence(grid):
  return grid.permute(0, 2, 3, 1).flatten(1, 2).numpy()


# Of 61 and 45 pixels, padding is uneven at several strides.
@pytest.mark.parametrize('height, width', [(64, 96), (61, 45)])
def test_features_and_logits_equal_the_original(height, width, tmp_path):
  model = small()
  torch.save(model.state_dict(), tmp_path / 'weights.pth')
  module, params, info = pretrained.load_nfnet(
      tmp_path, classifier=True, image_size=64)
  assert (info.features, info.width) == (4, 192)
  pixels = images(height, width)
  with torch.inference_mode():
    x = scaled(pixels, module)
    expected = sequence(model.forward_features(x))
    stages = sequence(model.stages(model.stem(x)))
    logits = model(x).numpy()
  assert expected.std(axis=1).mean() > 0.02
  agreement.close(
      call(module, params, pixels), expected, atol=SMALL)
  agreement.close(
      call(module.clone(final_conv=False), params, pixels), stages, atol=SMALL)
  agreement.close(
      call(module, params, pixels, 'classify'), logits, atol=SMALL)


def test_f0_is_the_published_f0(tmp_path):
  model = shake(oracle.NormFreeNet(
      oracle._dm_nfnet_cfg(depths=nfnet.VARIANTS['f0'].depths)))
  torch.save(model.state_dict(), tmp_path / 'dm_nfnet_f0.pth')
  module, params, info = pretrained.load_nfnet(tmp_path / 'dm_nfnet_f0.pth')
  assert module == nfnet.NFNet(**nfnet.TIMM)
  assert (info.image_size, info.features, info.width) == (192, 36, 3072)
  numbers = sum(parameter.numel() for parameter in model.parameters())
  assert params_lib.count(params) == numbers - 3073 * 1000
  pixels = images(64, 64)
  with torch.inference_mode():
    expected = sequence(model.forward_features(scaled(pixels, module)))
  agreement.close(
      call(module, params, pixels), expected, atol=SMALL)


@pytest.mark.parametrize('variant', nfnet.VARIANTS)
def test_the_family_is_that_of_timm(variant):
  config = oracle.model_cfgs[f'dm_nfnet_{variant}']
  module = nfnet.NFNet(nfnet.VARIANTS[variant].depths)
  assert (config.depths, config.channels, config.stem_chs) == (
      module.depths, module.widths, module.stem[-1])
  assert (config.alpha, config.group_size) == (module.alpha, module.group_size)
  sizes = oracle.default_cfgs[f'dm_nfnet_{variant}'].default
  assert sizes.input_size[1] == nfnet.VARIANTS[variant].train_size
  assert sizes.test_input_size[1] == nfnet.VARIANTS[variant].test_size


def test_reading_and_writing_give_the_same_bits(tmp_path):
  model = small()
  torch.save(model.state_dict(), tmp_path / 'weights.pth')
  module, params, _ = pretrained.load_nfnet(
      tmp_path, classifier=True, image_size=64)
  written = dict(layouts.write_params(
      params, pretrained.nfnet_rules(module, ours='', classifier=True)))
  state = model.state_dict()
  assert written.keys() == state.keys()
  for name, tensor in state.items():
    np.testing.assert_array_equal(written[name].read(), tensor.numpy())
    assert written[name].shape == tuple(tensor.shape)
