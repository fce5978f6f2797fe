"""The layers of a Vision Transformer: everything may look at everything."""

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flamingo.model.attention import attend, FeedForward, Linear, Norm
from flamingo.model.products import Dtype


class Attention(nn.Module):
  """Multi-head attention without a mask, with biases."""

  width: int
  heads: int
  dtype: Dtype = jnp.float32

  def setup(self):
    head = (self.heads, self.width // self.heads)
    wide = dict(use_bias=True, dtype=self.dtype)
    self.query = Linear((self.width,), head, **wide)
    self.key = Linear((self.width,), head, **wide)
    self.value = Linear((self.width,), head, **wide)
    self.out = Linear(head, (self.width,), **wide)

  def __call__(
      self, x: Float[Array, 'b q c'], seen: Float[Array, 'b s c']
  ) -> Float[Array, 'b q c']:
    query, key, value = (
        y.astype(self.dtype)
        for y in (self.query(x), self.key(seen), self.value(seen)))
    return self.out(attend(query, key, value, dtype=self.dtype))


class Layer(nn.Module):
  """Attention and a feed-forward network, each behind a norm."""

  width: int
  heads: int
  hidden: int
  activation: str
  norm_eps: float
  dtype: Dtype = jnp.float32

  def setup(self):
    self.attn_norm = Norm(self.width, eps=self.norm_eps)
    self.attn = Attention(self.width, self.heads, self.dtype)
    self.mlp_norm = Norm(self.width, eps=self.norm_eps)
    self.mlp = FeedForward(
        self.width, self.hidden, self.activation, use_bias=True,
        dtype=self.dtype)

  def __call__(self, x: Float[Array, 'b s c']) -> Float[Array, 'b s c']:
    normed = self.attn_norm(x)
    x = x + self.attn(normed, normed)
    return x + self.mlp(self.mlp_norm(x))


class PoolingHead(nn.Module):
  """One learned query looks at all features: SigLIP's embedding of an image."""

  width: int
  heads: int
  hidden: int
  activation: str
  norm_eps: float
  dtype: Dtype = jnp.float32

  def setup(self):
    self.probe = self.param(
        'probe', nn.initializers.normal(self.width**-0.5), (self.width,))
    self.attn = Attention(self.width, self.heads, self.dtype)
    self.mlp_norm = Norm(self.width, eps=self.norm_eps)
    self.mlp = FeedForward(
        self.width, self.hidden, self.activation, use_bias=True,
        dtype=self.dtype)

  def __call__(self, x: Float[Array, 'b s c']) -> Float[Array, 'b c']:
    probe = self.probe.astype(jnp.float32).reshape(1, 1, -1)
    y = self.attn(jnp.broadcast_to(probe, (len(x), 1, self.width)), x)
    return (y + self.mlp(self.mlp_norm(y)))[:, 0]
