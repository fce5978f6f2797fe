"""What keeps a signal's variance without norms: kernels and activations.

Brock et al., 2021 (arXiv:2101.08692).
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from flamingo.model.attention import ACTIVATIONS
from flamingo.model.products import Dtype

# One over the deviation of an activation of Gaussian numbers.
GAMMAS = {
    'gelu': 1.7015043497085571,
    'gelu_tanh': 1.7015043497085571,
    'relu': 1.7139588594436646,
    'silu': 1.7881293296813965,
}


def activate(
    activation: str, x: Float[Array, '*b c']
) -> Float[Array, '*b c']:
  """An activation, scaled to keep the variance of Gaussian numbers."""
  return ACTIVATIONS[activation](x) * np.float32(GAMMAS[activation])


class WSConv(nn.Module):
  """A convolution with scaled weight standardisation and a gain.

  The kernel of each output has mean 0 and a sum of squares of `gain` squared.

  Attributes:
    inputs: channels that come.
    outputs: channels that go.
    kernel: height and width.
    stride: of the output.
    groups: groups of channels that do not see each other.
    ws_eps: keeps the deviation of a kernel from zero.
    ws_floor: whether it bounds the sum of squares below (DeepMind) or is added
      to the variance (timm).
    dtype: type of the operands; the result is float32.
  """

  inputs: int
  outputs: int
  kernel: int = 1
  stride: int = 1
  groups: int = 1
  ws_eps: float = 1e-4
  ws_floor: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b i j d']:
    fan_in = self.kernel**2 * self.inputs // self.groups
    kernel = self.param(
        'kernel', nn.initializers.normal(fan_in**-0.5),
        (self.kernel, self.kernel, self.inputs // self.groups, self.outputs))
    gain = self.param('gain', nn.initializers.ones, (self.outputs,))
    bias = self.param('bias', nn.initializers.zeros, (self.outputs,))
    kernel = kernel.astype(jnp.float32)
    kernel = kernel - kernel.mean((0, 1, 2), keepdims=True)
    squares = jnp.square(kernel).sum((0, 1, 2), keepdims=True)
    squares = (
        jnp.maximum(squares, self.ws_eps) if self.ws_floor
        else squares + self.ws_eps * fan_in)
    kernel = kernel * jax.lax.rsqrt(squares) * _per_channel(gain)
    y = jax.lax.conv_general_dilated(
        x.astype(self.dtype), kernel.astype(self.dtype),
        (self.stride, self.stride), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=self.groups, preferred_element_type=jnp.float32)
    return y + _per_channel(bias)


def _per_channel(x: Float[Array, 'c']) -> Float[Array, '1 1 1 c']:
  return x.astype(jnp.float32).reshape(1, 1, 1, -1)
