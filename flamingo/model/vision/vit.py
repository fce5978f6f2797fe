"""Vision Transformer: the encoder of CLIP and of SigLIP.

CLIP (Radford et al., 2021, arXiv:2103.00020) puts a class token in front of the
patches and a norm before the first layer; its embedding of an image is the
class token, normed and projected. SigLIP (Zhai et al., 2023, arXiv:2303.15343)
has neither, and pools the patches with attention. The Flamingos built on them
read the sequence before any pooling, each by its own convention: see
`flamingo.pretrained.vision`.
"""

from typing import Any

import einops
from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from flamingo.model.attention import ACTIVATIONS, Linear, Norm
from flamingo.model.products import Dtype
from flamingo.model.vision import pixels
from flamingo.model.vision.transformer import Layer, PoolingHead

_SIGLIP: dict[str, Any] = dict(
    activation='gelu_tanh', class_token=False, pre_norm=False, patch_bias=True,
    norm_eps=1e-6, pooling_head=True, mean=pixels.HALF, std=pixels.HALF)

# The arguments of the published encoders. OpenAI's CLIP has QuickGELU, which is
# the default; LAION's has GELU.
VARIANTS: dict[str, dict[str, Any]] = {
    'clip-b32': dict(
        patch=32, width=768, layers=12, heads=12, hidden=3072, embed_width=512),
    'clip-b16': dict(
        patch=16, width=768, layers=12, heads=12, hidden=3072, embed_width=512),
    'clip-l14': dict(
        patch=14, width=1024, layers=24, heads=16, hidden=4096,
        embed_width=768),
    'clip-l14-336': dict(
        image_size=336, patch=14, width=1024, layers=24, heads=16, hidden=4096,
        embed_width=768),
    'clip-h14': dict(
        patch=14, width=1280, layers=32, heads=16, hidden=5120,
        activation='gelu', embed_width=1024),
    'siglip-b16': dict(
        patch=16, width=768, layers=12, heads=12, hidden=3072, **_SIGLIP),
    'siglip-l16-256': dict(
        image_size=256, patch=16, width=1024, layers=24, heads=16, hidden=4096,
        **_SIGLIP),
    'siglip-so400m14-384': dict(
        image_size=384, patch=14, width=1152, layers=27, heads=16, hidden=4304,
        **_SIGLIP),
}


class ViT(nn.Module):
  """Pixels to a sequence of features; the defaults are those of CLIP.

  Attributes:
    patch: height and width of a patch, in pixels.
    width: C, numbers per feature.
    layers: number of layers.
    heads: attention heads of a layer.
    hidden: width inside a feed-forward network.
    image_size: height and width of the images, in pixels.
    activation: 'quick_gelu' (OpenAI), 'gelu' (LAION) or 'gelu_tanh' (SigLIP).
    class_token: whether a learned token stands before the patches.
    pre_norm: whether there is a norm before the first layer.
    patch_bias: whether the projection of a patch has a bias.
    norm_eps: see `Norm`.
    features: 'all', or 'patches' to leave out the class token.
    final_norm: whether the features go through the norm that stands before the
      pooling. OpenFlamingo and IDEFICS take them without.
    embed_width: width of `embed`, which projects the class token; None to
      return that token as it is.
    pooling_head: whether `embed` pools by attention instead.
    mean: of the pixels, in 0..1.
    std: of the pixels, in 0..1.
    dtype: type of matrix operands.
  """

  patch: int
  width: int
  layers: int
  heads: int
  hidden: int
  image_size: int = 224
  activation: str = 'quick_gelu'
  class_token: bool = True
  pre_norm: bool = True
  patch_bias: bool = False
  norm_eps: float = 1e-5
  features: str = 'all'
  final_norm: bool = False
  embed_width: int | None = None
  pooling_head: bool = False
  mean: pixels.RGB = pixels.CLIP_MEAN
  std: pixels.RGB = pixels.CLIP_STD
  dtype: Dtype = jnp.float32

  def __post_init__(self):
    if self.features not in ('all', 'patches'):
      raise ValueError(
          "Expected `features` to be 'all' or 'patches' (without the class "
          f'token), came {self.features!r}.')
    if self.activation not in ACTIVATIONS:
      raise ValueError(
          f'Expected `activation` to be one of {sorted(ACTIVATIONS)}, came '
          f'{self.activation!r}.')
    if self.width % self.heads:
      raise ValueError(
          f'A width of {self.width} cannot be split over {self.heads} heads. '
          'Choose a number of heads that divides it.')
    if not 0 < self.patch <= self.image_size:
      raise ValueError(
          f'Patches of {self.patch} pixels do not fit images of '
          f'{self.image_size} pixels.')
    super().__post_init__()

  @property
  def side(self) -> int:
    """Patches along a side of the image."""
    return self.image_size // self.patch

  @property
  def tokens(self) -> int:
    """S, features per image."""
    with_class = self.class_token and self.features == 'all'
    return self.side**2 + with_class

  @property
  def embeds(self) -> bool:
    """Whether there is anything that `embed` can read an image off."""
    return self.class_token or self.pooling_head

  def setup(self):
    self.patch_embed = Linear(
        (self.patch, self.patch, 3), (self.width,), use_bias=self.patch_bias,
        dtype=self.dtype)
    init = nn.initializers.normal(self.width**-0.5)
    if self.class_token:
      self.class_embedding = self.param(
          'class_embedding', init, (self.width,))
    self.position_embedding = self.param(
        'position_embedding', init,
        (self.side**2 + self.class_token, self.width))
    norm = dict(size=self.width, eps=self.norm_eps)
    if self.pre_norm:
      self.first_norm = Norm(**norm)
    sizes = dict(
        width=self.width, heads=self.heads, hidden=self.hidden,
        activation=self.activation, norm_eps=self.norm_eps, dtype=self.dtype)
    self.layer = [Layer(**sizes) for _ in range(self.layers)]
    self.post_norm = Norm(**norm)
    if self.pooling_head:
      self.head = PoolingHead(**sizes)
    elif self.embed_width is not None:
      self.projection = Linear(
          (self.width,), (self.embed_width,), dtype=self.dtype)

  def __call__(self, images: Num[Array, '...']) -> Float[Array, 'b s c']:
    """Encodes images.

    Args:
      images: RGB in 0..255, uint8 or float, [B H W 3], H and W `image_size`.
        Scaling them is part of the network; don't do it before.

    Returns:
      Features [B S C]: the class token if `features` has it, then the patches
      row by row.

    Raises:
      ValueError: if `images` is of another shape.
    """
    return self._features(self._encode(images))

  def embed(self, images: Num[Array, '...']) -> Float[Array, 'b e']:
    """The contrastive embedding of images, of any length.

    Divide by its norm for cosine similarities.

    Args:
      images: as for `__call__`.

    Returns:
      CLIP: the class token, normed and projected. SigLIP: the normed features,
      pooled by attention.

    Raises:
      ValueError: if `images` is of another shape, or there is neither a class
        token nor a pooling head.
    """
    return self._embedding(self._encode(images))

  def both(
      self, images: Num[Array, '...']
  ) -> tuple[Float[Array, 'b s c'], Float[Array, 'b e']]:
    """What `__call__` and what `embed` returns, of images encoded once."""
    x = self._encode(images)
    return self._features(x), self._embedding(x)

  def _features(self, x: Float[Array, 'b s c']) -> Float[Array, 'b t c']:
    if self.final_norm:
      x = self.post_norm(x)
    if self.class_token and self.features == 'patches':
      x = x[:, 1:]
    return x

  def _embedding(self, x: Float[Array, 'b s c']) -> Float[Array, 'b e']:
    if not self.embeds:
      raise ValueError(
          '`embed` needs a class token or a pooling head. Build the encoder '
          'with `class_token=True` or `pooling_head=True`, or average what it '
          'returns.')
    x = self.post_norm(x)
    if self.pooling_head:
      return self.head(x)
    x = x[:, 0]
    return x if self.embed_width is None else self.projection(x)

  def _encode(self, images: Num[Array, '...']) -> Float[Array, 'b s c']:
    """States after the last layer, the class token first if there is one."""
    x = pixels.normalise(images, self.mean, self.std)
    if x.shape[1:3] != (self.image_size, self.image_size):
      raise ValueError(
          f'Expected images of {self.image_size} x {self.image_size} pixels, '
          f'came {x.shape[1]} x {x.shape[2]}. Resize them, or load the encoder '
          'with this `image_size`.')
    # What is left of the image beyond the last whole patch is not seen.
    seen = self.side * self.patch
    x = einops.rearrange(
        x[:, :seen, :seen], 'b (h p) (w q) c -> b (h w) p q c', p=self.patch,
        q=self.patch)
    x = self.patch_embed(x)
    if self.class_token:
      first = self.class_embedding.astype(jnp.float32).reshape(1, 1, -1)
      first = jnp.broadcast_to(first, (len(x), 1, self.width))
      x = jnp.concatenate([first, x], axis=1)
    x = x + self.position_embedding.astype(jnp.float32)[None]
    if self.pre_norm:
      x = self.first_norm(x)
    for layer in self.layer:
      x = layer(x)
    return x
