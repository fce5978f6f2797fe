"""How tokens know their order: rotary embeddings, ALiBi, windows.

All are functions of positions, as many as there are tokens, so it makes no
difference in which slot of a cache a token lies.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from flamingo.model.products import on_one_cpu


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Slower rotary embeddings, for texts longer than those of the pretraining.

  Attributes:
    kind: 'linear' slows down all pairs by `factor` (Chen et al. 2023, position
      interpolation). 'llama3' slows down the slow ones only: those that turn
      less than `low` times within `original` tokens by `factor`, those that
      turn more than `high` times not at all, and in between by a blend.
    factor: how much longer.
    low: turns, see `kind`.
    high: likewise.
    original: tokens of a text in the pretraining.
  """

  kind: str
  factor: float
  low: float = 1.0
  high: float = 4.0
  original: int = 0

  def __post_init__(self):
    if self.kind not in ('linear', 'llama3'):
      raise ValueError(
          f'kind={self.kind!r} is no scaling of rotary embeddings known here. '
          "Choose 'linear' or 'llama3'.")
    if self.factor <= 0:
      raise ValueError(
          f'factor={self.factor} of a RopeScaling must be positive: '
          'wavelengths are multiplied by it.')
    if self.kind == 'llama3' and not (
        self.original > 0 and 0 < self.low < self.high):
      raise ValueError(
          "RopeScaling of kind 'llama3' needs original > 0 and 0 < low < high; "
          f'came original={self.original}, low={self.low}, high={self.high}. '
          'Llama 3.1 has 8192, 1 and 4.')

  def __call__(self, frequency: np.ndarray) -> np.ndarray:
    """Frequencies in radians a token, slowed down."""
    if self.kind == 'linear':
      return frequency / self.factor
    turns = self.original * frequency / (2 * np.pi)
    fast = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
    return frequency * (fast + (1 - fast) / self.factor)


def rotate(
    x: Float[Array, 'b l h d'],
    positions: Int[Array, 'b l'],
    base: float,
    fraction: float = 1.0,
    scaling: RopeScaling | None = None,
) -> Float[Array, 'b l h d']:
  """Rotary position embedding, half-rotation form: pairs are (i, i + r/2).

  Su et al. 2021; the pairs as in GPT-NeoX and Llama's published checkpoints.

  Args:
    x: queries or keys.
    positions: position of each token.
    base: base of the geometric sequence of wavelengths.
    fraction: share of the head that is rotated, r / d (GPT-NeoX has 0.25).
    scaling: slows the rotation down.

  Raises:
    ValueError: the share is no even number of channels.
  """
  rotary = int(x.shape[-1] * fraction)
  if rotary < 2 or rotary % 2 or rotary > x.shape[-1]:
    raise ValueError(
        f'A share of {fraction} of a head of {x.shape[-1]} channels is '
        f'{rotary}; they turn in pairs, so an even number is expected.')
  frequency = base ** (-np.arange(0, rotary, 2, dtype=np.float32) / rotary)
  if scaling is not None:
    frequency = scaling(frequency)
  angle = positions[:, :, None, None].astype(jnp.float32) * jnp.asarray(
      frequency, jnp.float32).reshape(1, 1, 1, -1)
  sin, cos = _sin_and_cos(angle)
  first, second, rest = jnp.split(x, [rotary // 2, rotary], axis=-1)
  return jnp.concatenate(
      [first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _sin_and_cos(angle):
  """Of angles [b l 1 r]: on one CPU in a loop, which all layers share.

  XLA's CPU puts sines into what asks for them, and so takes them anew for each
  head of each layer (docs/bench.md says what that cost). It puts no loop into
  anything, and makes one of all that are the same.
  """
  if not on_one_cpu() or angle[..., 0].size % 2:
    return _plain_sin_and_cos(angle)
  return _sin_and_cos_in_a_loop(angle)


def _plain_sin_and_cos(angle):
  return jnp.sin(angle), jnp.cos(angle)


@jax.jit  # or each call from outside of a compiled function compiles the loop
def _sin_and_cos_in_a_loop(angle):
  halves = angle.reshape(2, -1, angle.shape[-1])
  sin, cos = jax.lax.map(_plain_sin_and_cos, halves)
  return sin.reshape(angle.shape), cos.reshape(angle.shape)


def alibi_slopes(heads: int, most: float = 8.0) -> Float[np.ndarray, 'h']:
  """Slope of each head's bias (Press et al. 2022, section 3).

  For a power of two, 2^(-most/h), 2^(-2 most/h), ... 2^-most. Other numbers of
  heads take the slopes of the next power: every second one, which are those of
  the power below, and then what is missing from the ones between.
  """
  power = 1
  while power < heads:
    power *= 2
  slopes = 2.0 ** (-most / power * np.arange(1, power + 1))
  if power > heads:
    slopes = np.concatenate([slopes[1::2], slopes[::2]])[:heads]
  return slopes.astype(np.float32)


def alibi(
    positions: Int[Array, 'b l'],
    key_positions: Int[Array, 'b m'],
    slopes: Float[np.ndarray, 'h'],
) -> Float[Array, 'b h l m']:
  """Attention with linear biases: each head dislikes distance by its slope.

  Of one head with slope 1/2 and three tokens, what is added to the scores:
     0
    -1/2   0
    -1   -1/2   0

  MPT's code adds slope * key_position; the softmax does not see the difference.
  """
  distance = positions[:, None, :, None] - key_positions[:, None, None, :]
  return -jnp.asarray(slopes).reshape(1, -1, 1, 1) * distance


def window_mask(
    positions: Int[Array, 'b l'],
    key_positions: Int[Array, 'b m'],
    window: int,
) -> Bool[Array, 'b l m']:
  """Which keys are less than `window` tokens back, so a token sees `window`.

  Five tokens and a window of 2, alone and with the causal mask:
    1 1 1 1 1    1 0 0 0 0
    1 1 1 1 1    1 1 0 0 0
    0 1 1 1 1    0 1 1 0 0
    0 0 1 1 1    0 0 1 1 0
    0 0 0 1 1    0 0 0 1 1
  """
  distance = positions[:, :, None] - key_positions[:, None, :]
  return distance < window
