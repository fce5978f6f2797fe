"""NFNet: the convolutional network without norms that Flamingo looks through.

Brock et al., 2021 (arXiv:2102.06171). What batch norm did is done by
construction: every kernel is standardised, every activation is scaled to keep
the variance, every block divides by the deviation that its input is expected
to have. Flamingo (section 2.2) trains an F6 by contrast with text and takes the
grid of its last stage, 32 pixels to a cell. Stochastic depth and dropout, which
only training from scratch uses, are left out.
"""

from typing import Any, NamedTuple

import einops
from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from flamingo.model.attention import Linear
from flamingo.model.products import Dtype
from flamingo.model.vision import pixels
from flamingo.model.vision.wsconv import activate, GAMMAS, WSConv

STRIDE = 32  # pixels to a cell of the returned grid, per side
_STRIDES = (1, 2, 2, 2)  # of the first block of each stage; the stem has 4


class Variant(NamedTuple):
  """One member of the family, F0 to F6.

  Attributes:
    depths: blocks of each stage.
    train_size: height and width of the images it was trained on, in pixels.
    test_size: and of those it was tested on.
  """

  depths: tuple[int, int, int, int]
  train_size: int
  test_size: int


VARIANTS = {
    f'f{i}': Variant((i + 1, 2 * i + 2, 6 * i + 6, 3 * i + 3), train, test)
    for i, (train, test) in enumerate((
        (192, 256), (224, 320), (256, 352), (320, 416), (384, 512), (416, 544),
        (448, 576)))
}

# timm computes the networks it publishes as dm_nfnet_* with another GELU than
# DeepMind, and adds an epsilon to the variance of a kernel where DeepMind has a
# lower bound. These are attributes of `NFNet`.
DEEPMIND: dict[str, Any] = dict(
    activation='gelu_tanh', ws_eps=1e-4, ws_floor=True)
TIMM: dict[str, Any] = dict(activation='gelu', ws_eps=1e-5, ws_floor=False)


class BlockSpec(NamedTuple):
  """The sizes of one block, and what it divides by."""

  inputs: int
  outputs: int
  stride: int
  expected_std: float

  @property
  def projects(self) -> bool:
    """Whether the shortcut is a convolution too."""
    return self.stride > 1 or self.inputs != self.outputs


def block_specs(
    stem: int, widths: tuple[int, ...], depths: tuple[int, ...], alpha: float
) -> tuple[BlockSpec, ...]:
  """The blocks of a network, in order.

  The variance is expected to grow by alpha^2 a block, and to be 1 behind each
  convolution on the shortcut, that is, behind the first block of a stage.
  """
  specs, inputs, variance = [], stem, 1.0
  for width, depth, stride in zip(widths, depths, _STRIDES):
    for i in range(depth):
      specs.append(
          BlockSpec(inputs, width, 1 if i else stride, variance**0.5))
      variance = (variance if i else 1.0) + alpha**2
      inputs = width
  return tuple(specs)


class SqueezeExcite(nn.Module):
  """Weights channels by what the whole image has (Hu et al., 2018)."""

  width: int
  hidden: int
  dtype: Dtype = jnp.float32

  def setup(self):
    wide = dict(use_bias=True, dtype=self.dtype)
    self.down = Linear((self.width,), (self.hidden,), **wide)
    self.up = Linear((self.hidden,), (self.width,), **wide)

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    weights = nn.sigmoid(self.up(nn.relu(self.down(x.mean((1, 2))))))
    # A sigmoid halves; the 2 makes up for it.
    return x * 2 * weights[:, None, None]


class NFNet(nn.Module):
  """Pixels to a grid of features, 32 pixels to a cell.

  The defaults are those of the F series, of which `VARIANTS` has the depths.
  Standardised kernels are computed from the parameters at every call and not
  kept: fine-tuning (section 2.5 of Flamingo) trains what is under them.

  Attributes:
    depths: blocks of each of the four stages.
    widths: channels of each stage.
    stem: channels of the four convolutions before them.
    group_size: channels of a group in the grouped convolutions.
    alpha: weight of a block's branch beside its shortcut.
    final_conv: whether features are those of the last convolution, which
      doubles the channels, behind its activation: what is averaged for a
      classification. Else they are what the last stage hands to it.
    classes: outputs of `classify`.
    activation: a name in `GAMMAS`; see `DEEPMIND` and `TIMM`.
    ws_eps: see `WSConv`.
    ws_floor: see `WSConv`.
    mean: of the pixels, in 0..1.
    std: of the pixels, in 0..1.
    dtype: type of the operands of convolutions and matrix products.
  """

  depths: tuple[int, ...] = VARIANTS['f0'].depths
  widths: tuple[int, ...] = (256, 512, 1536, 1536)
  stem: tuple[int, ...] = (16, 32, 64, 128)
  group_size: int = 128
  alpha: float = 0.2
  final_conv: bool = True
  classes: int = 1000
  activation: str = 'gelu_tanh'
  ws_eps: float = 1e-4
  ws_floor: bool = True
  mean: pixels.RGB = pixels.IMAGENET_MEAN
  std: pixels.RGB = pixels.IMAGENET_STD
  dtype: Dtype = jnp.float32

  def __post_init__(self):
    if self.activation not in GAMMAS:
      raise ValueError(
          f'Expected `activation` to be one of {sorted(GAMMAS)}, whose '
          f'variance is known; came {self.activation!r}.')
    if not len(self.depths) == len(self.widths) == len(self.stem) == 4:
      raise ValueError(
          'Expected four stages and a stem of four convolutions; came depths '
          f'{self.depths}, widths {self.widths}, stem {self.stem}.')
    super().__post_init__()

  @property
  def width(self) -> int:
    """C, numbers per feature."""
    return self.widths[-1] * (2 if self.final_conv else 1)

  def setup(self):
    conv = dict(ws_eps=self.ws_eps, ws_floor=self.ws_floor, dtype=self.dtype)
    channels = (3,) + tuple(self.stem)
    self.stem_conv = [
        WSConv(channels[i], channels[i + 1], 3, stride, **conv)
        for i, stride in enumerate((2, 1, 1, 2))]
    specs = block_specs(
        self.stem[-1], self.widths, self.depths, self.alpha)
    self.block = [
        Block(spec, self.group_size, self.alpha, self.activation, **conv)
        for spec in specs]
    last = self.widths[-1]
    self.final = WSConv(last, 2 * last, **conv)
    self.classifier = Linear((2 * last,), (self.classes,), use_bias=True)

  def __call__(self, images: Num[Array, '...']) -> Float[Array, 'b s c']:
    """Encodes images.

    Args:
      images: RGB in 0..255, uint8 or float, [B H W 3]. Scaling them is part of
        the network; don't do it before.

    Returns:
      Features, row by row, [B S C]: S is ceil(H / 32) * ceil(W / 32).

    Raises:
      ValueError: if `images` is not [B H W 3].
    """
    return self._encode(images, self.final_conv)

  def classify(self, images: Num[Array, '...']) -> Float[Array, 'b k']:
    """Logits of the classes, from the mean feature of the last convolution."""
    return self.classifier(self._encode(images, True).mean(axis=1))

  def _encode(
      self, images: Num[Array, '...'], final_conv: bool
  ) -> Float[Array, 'b s c']:
    x = pixels.normalise(images, self.mean, self.std)
    for i, conv in enumerate(self.stem_conv):
      x = conv(x if i == 0 else activate(self.activation, x))
    for block in self.block:
      x = block(x)
    if final_conv:
      x = activate(self.activation, self.final(x))
    return einops.rearrange(x, 'b h w c -> b (h w) c')


class Block(nn.Module):
  """A bottleneck with two grouped convolutions, added to its shortcut.

  Attributes:
    spec: its sizes.
    group_size: channels of a group.
    alpha: weight of the branch.
    activation: a name in `GAMMAS`.
    ws_eps: see `WSConv`.
    ws_floor: see `WSConv`.
    dtype: type of the operands.
  """

  spec: BlockSpec
  group_size: int
  alpha: float
  activation: str
  ws_eps: float = 1e-4
  ws_floor: bool = True
  dtype: Dtype = jnp.float32

  def setup(self):
    spec = self.spec
    conv = dict(ws_eps=self.ws_eps, ws_floor=self.ws_floor, dtype=self.dtype)
    groups = max(1, spec.outputs // 2 // self.group_size)
    hidden = groups * self.group_size
    if spec.projects:
      self.shortcut = WSConv(spec.inputs, spec.outputs, **conv)
    self.narrow = WSConv(spec.inputs, hidden, **conv)
    self.spread = WSConv(hidden, hidden, 3, spec.stride, groups, **conv)
    self.spread_again = WSConv(hidden, hidden, 3, 1, groups, **conv)
    self.widen = WSConv(hidden, spec.outputs, **conv)
    self.excite = SqueezeExcite(
        spec.outputs, max(1, spec.outputs // 2), self.dtype)
    # Zero at first, so that every block begins as its shortcut.
    self.skip_gain = self.param('skip_gain', nn.initializers.zeros, ())

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b i j d']:
    scaled = activate(self.activation, x) / self.spec.expected_std
    shortcut = x
    if self.spec.projects:
      shortcut = scaled
      if self.spec.stride > 1:
        shortcut = nn.avg_pool(
            scaled, (2, 2), (2, 2), 'SAME', count_include_pad=False)
      shortcut = self.shortcut(shortcut)
    y = self.narrow(scaled)
    y = self.spread(activate(self.activation, y))
    y = self.spread_again(activate(self.activation, y))
    y = self.excite(self.widen(activate(self.activation, y)))
    return shortcut + y * self.skip_gain.astype(jnp.float32) * self.alpha
