"""The Perceiver Resampler: any number of visual features to R latents.

Flamingo, section 2.1 and appendix A.1.1; norms as in version 1 of the paper.
"""

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flamingo.model.attention import (
    attend, FeedForward, Linear, Norm, standardize)
from flamingo.model.products import Dtype, project


class ResamplerLayer(nn.Module):
  """Latents look at the features and at themselves, then think."""

  width: int
  heads: int
  head_dim: int
  ff_hidden: int
  activation: str
  norm_heads: bool
  dtype: Dtype

  def setup(self):
    self.norm_visual = Norm(self.width)
    self.norm_latents = Norm(self.width)
    make = lambda: Linear(
        (self.width,), (self.heads, self.head_dim), dtype=self.dtype)
    self.query, self.key, self.value = make(), make(), make()
    if self.norm_heads:
      self.norm_query = Norm(self.head_dim)
      self.norm_key = Norm(self.head_dim)
    self.out = Linear(
        (self.heads, self.head_dim), (self.width,), dtype=self.dtype)
    self.norm_ff = Norm(self.width)
    self.ff = FeedForward(
        self.width, self.ff_hidden, self.activation, dtype=self.dtype)

  def __call__(
      self, latents: Float[Array, 'b r d'], standard: Float[Array, 'b s d']
  ) -> Float[Array, 'b r d']:
    """Features come as `standardize` leaves them, for all layers the same."""
    z = self.norm_latents(latents)
    query = self.query(z)
    key, value = (
        jnp.concatenate([self._of_visual(linear, standard), linear(z)], axis=1)
        for linear in (self.key, self.value))
    if self.norm_heads:
      query, key = self.norm_query(query), self.norm_key(key)
    latents = latents + self.out(
        attend(query, key, value, dtype=self.dtype))
    return latents + self.ff(self.norm_ff(latents))

  def _of_visual(self, linear, standard):
    """`linear` of the norm of the features.

    Scale and offset go into the kernel, whose gradient holds theirs. So there
    is nothing to know of the gradient of features that nobody trains, which
    would be as much work again.
    """
    norm = self.norm_visual
    kernel, scale, bias = (
        leaf.astype(jnp.float32)  # checkpoints may be of half precision
        for leaf in (linear.kernel, norm.scale, norm.bias))
    kernel = kernel.reshape(self.width, -1)
    y = project(standard, scale[:, None] * kernel, self.dtype)
    y = y + jnp.broadcast_to(bias @ kernel, y.shape)
    return y.reshape(y.shape[:-1] + (self.heads, self.head_dim))


class PerceiverResampler(nn.Module):
  """Turns features of any number of frames and places into `latents` tokens.

  Only time is embedded; what a feature's place is, the vision encoder says.

  Attributes:
    visual_width: width of the vision features.
    width: width of latents; equal to `visual_width` unless `project_input`.
    layers: depth (paper: 6).
    latents: number R of outputs (paper: 64).
    heads: attention heads (paper: 16).
    head_dim: width of a head (paper: 128 in version 1, 96 in version 2).
    ff_hidden: feed-forward width (paper: 4 x width).
    activation: a name in `attention.ACTIVATIONS` (paper: squared_relu).
    frames: number of learnt time embeddings (paper: 8); 0 for none. Another
      number of frames gets them by linear interpolation.
    project_input: whether a projection and a norm map features to `width`.
    norm_heads: LayerNorm on each head's queries and keys (IDEFICS).
    final_norm: LayerNorm on the output (all open reproductions).
    dtype: type of matrix operands.
  """

  visual_width: int
  width: int
  layers: int = 6
  latents: int = 64
  heads: int = 16
  head_dim: int = 128
  ff_hidden: int | None = None
  activation: str = 'squared_relu'
  frames: int = 8
  project_input: bool = False
  norm_heads: bool = False
  final_norm: bool = True
  dtype: Dtype = jnp.float32

  def setup(self):
    if self.width != self.visual_width and not self.project_input:
      raise ValueError(
          f'The resampler is {self.width} wide and gets features of width '
          f'{self.visual_width}. Set `project_input=True`, or the same width.')
    if self.project_input:
      self.input = Linear(
          (self.visual_width,), (self.width,), dtype=self.dtype)
    if self.frames:
      self.time = self.param(
          'time', nn.initializers.normal(0.02), (self.frames, self.width))
    # Small beside what attention adds: what is the same for all pictures would
    # make all pictures alike.
    self.latent = self.param(
        'latent', nn.initializers.normal(0.02), (self.latents, self.width))
    self.layer = [
        ResamplerLayer(
            self.width, self.heads, self.head_dim,
            self.ff_hidden or 4 * self.width, self.activation, self.norm_heads,
            self.dtype)
        for _ in range(self.layers)
    ]
    if self.final_norm:
      self.norm = Norm(self.width)

  def __call__(
      self, visual: Float[Array, 'b t s c']
  ) -> Float[Array, 'b r d']:
    """Resamples one picture or clip a row: [B T S C] to [B R D]."""
    b, t, s, _ = visual.shape
    visual = visual.astype(jnp.float32)
    if self.project_input:
      visual = self.input(visual)
    if self.frames:
      visual = visual + interpolate(self.time, t)[None, :, None]
    visual = visual.reshape(b, t * s, self.width)
    latents = jnp.broadcast_to(self.latent, (b,) + self.latent.shape)
    standard = standardize(visual)
    for layer in self.layer:
      latents = layer(latents.astype(jnp.float32), standard)
    return self.norm(latents) if self.final_norm else latents


def interpolate(
    time: Float[Array, 'k d'], frames: int
) -> Float[Array, 't d']:
  """Linear interpolation of k time embeddings to `frames` (appendix A.1.1).

  The first `frames` of them where there are enough: a picture is one frame and
  gets the first. Beyond, the ends stay the ends: 8 embeddings trained at one
  frame a second serve 30 frames at three.
  """
  known = time.shape[0]
  if frames <= known:
    return time[:frames].astype(jnp.float32)
  at = jnp.linspace(0, known - 1, frames)
  low = jnp.floor(at).astype(jnp.int32)
  high = jnp.minimum(low + 1, known - 1)
  share = (at - low)[:, None]
  return (1 - share) * time[low] + share * time[high]
