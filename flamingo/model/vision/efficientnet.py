"""EfficientNet-Lite: the frozen vision encoder that a laptop can run.

The Lite family (github.com/tensorflow/tpu, efficientnet/lite) is EfficientNet
(Tan and Le, 2019, arXiv:1905.11946) without squeeze-and-excitation, with ReLU6,
and with a stem and a head that keep their width. It is only ever run with
published weights, so batch norm is folded into the convolutions when these are
read, and every layer is a kernel and a bias.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import einops
from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from flamingo.model.attention import Linear
from flamingo.model.vision import pixels


class Variant(NamedTuple):
  """One member of the family: its multipliers, and the size it was trained at.

  Attributes:
    width_multiplier: scales the channels of all blocks.
    depth_multiplier: scales the repeats of all but the first and last stage.
    image_size: height and width of the images, in pixels.
  """

  width_multiplier: float
  depth_multiplier: float
  image_size: int


VARIANTS = {
    'lite0': Variant(1.0, 1.0, 224),
    'lite1': Variant(1.0, 1.1, 240),
    'lite2': Variant(1.1, 1.2, 260),
}

STEM = 32  # channels after the first convolution
FEATURES = 1280  # width of what the encoder returns
STRIDE = 32  # pixels to a cell of the returned grid, per side


class BlockSpec(NamedTuple):
  """The sizes of one inverted bottleneck."""

  inputs: int
  outputs: int
  expansion: int
  kernel: int
  stride: int


# Repeats, kernel, stride of the first repeat, expansion, outputs.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def block_specs(
    width_multiplier: float, depth_multiplier: float
) -> tuple[BlockSpec, ...]:
  """The blocks of a network, in order."""
  specs = []
  inputs = STEM
  for stage, (repeats, kernel, stride, expansion, outputs) in enumerate(
      _STAGES):
    if stage not in (0, len(_STAGES) - 1):
      repeats = math.ceil(repeats * depth_multiplier)
    outputs = _round_channels(outputs * width_multiplier)
    for repeat in range(repeats):
      specs.append(BlockSpec(
          inputs, outputs, expansion, kernel, 1 if repeat else stride))
      inputs = outputs
  return tuple(specs)


def _round_channels(channels: float) -> int:
  """Nearest multiple of 8, but no more than a tenth below `channels`."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded


def depthwise_by_shifts(
    x: Float[Array, 'b h w c'], kernel: Float[Array, 'k k 1 c'], stride: int
) -> Float[Array, 'b i j c']:
  """Depthwise convolution as k x k multiply-adds of shifted images.

  On a CPU, XLA fuses these into one loop, and the whole network is several
  times faster than with its grouped convolution.
  """
  _, height, width, _ = x.shape
  k = kernel.shape[0]
  pads = jax.lax.padtype_to_pads(
      (height, width), (k, k), (stride, stride), 'SAME')
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  rows, columns = -(-height // stride), -(-width // stride)
  taps = []
  for i in range(k):
    for j in range(k):
      shifted = x[:, i:i + (rows - 1) * stride + 1:stride,
                  j:j + (columns - 1) * stride + 1:stride]
      taps.append(shifted * kernel[i, j, 0].reshape(1, 1, 1, -1))
  return functools.reduce(jnp.add, taps)


def depthwise_by_conv(
    x: Float[Array, 'b h w c'], kernel: Float[Array, 'k k 1 c'], stride: int
) -> Float[Array, 'b i j c']:
  """Depthwise convolution as XLA's grouped one: the choice on accelerators."""
  return jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), 'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=x.shape[-1])


DEPTHWISE: dict[str, Callable] = {
    'shifts': depthwise_by_shifts,
    'conv': depthwise_by_conv,
}


class Depthwise(nn.Module):
  """A convolution of each channel by itself, TensorFlow's 'SAME' padding."""

  channels: int
  kernel: int
  stride: int
  depthwise: str

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b i j c']:
    kernel = self.param(
        'kernel', nn.initializers.normal(1 / self.kernel),
        (self.kernel, self.kernel, 1, self.channels))
    bias = self.param('bias', nn.initializers.zeros, (self.channels,))
    y = DEPTHWISE[self.depthwise](x, kernel.astype(jnp.float32), self.stride)
    return y + bias.astype(jnp.float32).reshape(1, 1, 1, -1)


class Block(nn.Module):
  """An inverted bottleneck: widen, convolve by channel, narrow (MBConv)."""

  spec: BlockSpec
  depthwise: str

  def setup(self):
    spec = self.spec
    hidden = spec.inputs * spec.expansion
    # A 1x1 convolution is a projection of the last axis.
    if spec.expansion > 1:
      self.expand = Linear((spec.inputs,), (hidden,), use_bias=True)
    self.spread = Depthwise(hidden, spec.kernel, spec.stride, self.depthwise)
    self.project = Linear((hidden,), (spec.outputs,), use_bias=True)

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b i j d']:
    spec = self.spec
    hidden = nn.relu6(self.expand(x)) if spec.expansion > 1 else x
    y = self.project(nn.relu6(self.spread(hidden)))
    if spec.stride == 1 and spec.inputs == spec.outputs:
      y = y + x
    return y


class EfficientNetLite(nn.Module):
  """Pixels to a grid of features, 32 pixels to a cell; all in float32.

  Attributes:
    width_multiplier: see `VARIANTS`.
    depth_multiplier: see `VARIANTS`.
    depthwise: how the depthwise convolutions are computed, which changes speed
      alone: 'shifts' is the fast way on a CPU, 'conv' on an accelerator.
    at_once: images to compute at a time, None for all. On a CPU few are faster,
      as their activations are small; on an accelerator, or with the batch
      sharded over devices, all.
    classes: outputs of `classify`.
  """

  width_multiplier: float = 1.0
  depth_multiplier: float = 1.0
  depthwise: str = 'shifts'
  at_once: int | None = None
  classes: int = 1000

  def __post_init__(self):
    if self.depthwise not in DEPTHWISE:
      raise ValueError(
          f'Expected `depthwise` to be one of {sorted(DEPTHWISE)}, came '
          f"{self.depthwise!r}. Take 'shifts' on a CPU, else 'conv'.")
    super().__post_init__()

  def setup(self):
    specs = block_specs(self.width_multiplier, self.depth_multiplier)
    self.stem = nn.Conv(STEM, (3, 3), strides=2, padding='SAME')
    self.block = [Block(spec, self.depthwise) for spec in specs]
    self.head = Linear((specs[-1].outputs,), (FEATURES,), use_bias=True)
    self.classifier = Linear((FEATURES,), (self.classes,), use_bias=True)

  def __call__(self, images: Num[Array, '...']) -> Float[Array, 'b s d']:
    """Encodes images.

    Args:
      images: RGB in 0..255, uint8 or float, [B H W 3]. Scaling them is part of
        the network; don't do it before.

    Returns:
      Features in 0..6, row by row, [B S D]: S is ceil(H / 32) * ceil(W / 32),
      D is 1280.

    Raises:
      ValueError: if `images` is not [B H W 3].
    """
    pixels.check_rgb(images)
    if self.at_once is None or self.is_initializing():
      return self._encode(images)
    unbound, variables = self.clone(parent=None), self.variables
    encode_one = lambda image: unbound.apply(
        variables, image[None], method='_encode')[0]
    return jax.lax.map(encode_one, images, batch_size=self.at_once)

  def _encode(self, images: Num[Array, 'b h w 3']) -> Float[Array, 'b s d']:
    """What `__call__` does, to all images at once."""
    # The published weights were trained with this and not with the mean and
    # deviation of ImageNet, which costs 10 points of accuracy.
    x = (images.astype(jnp.float32) - 127) / 128
    x = nn.relu6(self.stem(x))
    for block in self.block:
      x = block(x)
    x = nn.relu6(self.head(x))
    return einops.rearrange(x, 'b h w d -> b (h w) d')

  def classify(self, images: Num[Array, '...']) -> Float[Array, 'b k']:
    """Logits of the classes of ImageNet, from the mean feature."""
    return self.classifier(self(images).mean(axis=1))
