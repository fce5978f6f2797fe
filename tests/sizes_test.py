"""Sizes of the published models, from shapes alone: 80B on a laptop.

The papers print a few digits, so a count must round to what is printed: the
tolerance is half a unit of the last digit. Where the layout of a released file
is known too, the count is exact.

Flamingo's own table (its Table 5) says 1.2, 1.6 and 10 billion for the gated
blocks. That counts keys and values as projections from the LM's width, 12 D^2 a
block; they are projections from the 1536 channels of the resampler, and the
table below is of those. Its 9B has 8 blocks: the 10 of Table 4 would not
fit the 1.6 billion of Table 5, nor 40 layers the 7.1 billion of its LM.
"""

from flamingo import params as params_lib
from flamingo.model.flamingo import gated_layers
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
import jax
import jax.numpy as jnp
import pytest

OPENFLAMINGO = dict(heads=8, head_dim=64, activation='gelu')


def _shapes(module, *inputs):
  inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in inputs]
  return jax.eval_shape(module.init, jax.random.key(0), *inputs)['params']


def _resampler(**kwargs):
  resampler = PerceiverResampler(**kwargs)
  features = (2, 3, 5, resampler.visual_width)  # of any number and size
  return _shapes(resampler, (features, jnp.float32))


def _block(width, visual_width, **kwargs):
  block = GatedCrossAttention(
      width=width, visual_width=visual_width, ff_hidden=4 * width, **kwargs)
  return _shapes(
      block, ((2, 7, width), jnp.float32),
      ((2, 3, 5, visual_width), jnp.float32), ((2, 7), jnp.int32))


def _millions(shapes):
  return params_lib.count(shapes) / 1e6


@pytest.mark.parametrize('setting, millions', [
    # A constant head of 128 (version 1 of the paper) and a projection from
    # NFNet-F6's 3072 channels: the paper's '194M'.
    (dict(visual_width=3072, project_input=True), 193.6),
    (dict(visual_width=1536), 188.9),
    # A head of D / H (version 2).
    (dict(visual_width=1536, head_dim=96), 170.0),
])
def test_flamingos_resampler(setting, millions):
  # All else is the default: 6 layers, 64 latents, 16 heads, 4 x width.
  shapes = _resampler(width=1536, **setting)
  assert _millions(shapes) == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize('width, layers, every, billions, half_a_digit', [
    (2048, 24, 1, 1.158, 0.0005),  # 3B
    (4096, 32, 4, 1.443, 0.0005),  # 9B
    (8192, 80, 7, 8.36, 0.005),  # 80B
])
def test_flamingos_gated_blocks(
    width, layers, every, billions, half_a_digit
):
  block = _block(width, 1536, heads=width // 128, head_dim=128)
  blocks = len(gated_layers(layers, every, offset=0))
  assert blocks * _millions(block) / 1e3 == pytest.approx(
      billions, abs=half_a_digit)


def test_openflamingos_resampler():
  shapes = _resampler(visual_width=1024, width=1024, frames=0, **OPENFLAMINGO)
  assert _millions(shapes) == pytest.approx(63.02, abs=0.005)
  d, inner = 1024, 512
  layer = (
      4 * d  # norm_media and norm_latents
      + inner * d + 2 * inner * d + d * inner  # to_q, to_kv, to_out
      + 2 * d + 2 * 4 * d * d)  # the feed-forward and its norm
  assert params_lib.count(shapes) == 64 * d + 6 * layer + 2 * d


@pytest.mark.parametrize('width, millions', [
    (2048, 36.71),  # 3B
    (2560, 56.11),  # 4B
    (4096, 139.48),  # 9B
])
def test_openflamingos_gated_blocks(width, millions):
  shapes = _block(width, 1024, norm_visual=False, **OPENFLAMINGO)
  assert _millions(shapes) == pytest.approx(millions, abs=0.005)
  inner = 512
  assert params_lib.count(shapes) == (
      2  # gates
      + 2 * width + 2 * inner * width + 2 * inner * 1024  # attention
      + 2 * width + 2 * 4 * width * width)  # dense


def test_idefics_gated_blocks_and_resampler():
  """Trainable 9B: 1.4B in 8 blocks, 126M in the perceiver."""
  block = GatedCrossAttention(
      width=4096, visual_width=1280, heads=32, head_dim=128, ff_hidden=11008,
      activation='silu', gated_ff=True, norm='rms', norm_visual=False,
      norm_heads=True)
  shapes = _shapes(
      block, ((2, 7, 4096), jnp.float32), ((2, 3, 5, 1280), jnp.float32),
      ((2, 7), jnp.int32))
  assert 8 * _millions(shapes) / 1e3 == pytest.approx(1.4, abs=0.05)
  perceiver = _resampler(
      visual_width=1280, width=1280, head_dim=96, activation='relu',
      norm_heads=True, frames=0)
  assert _millions(perceiver) == pytest.approx(126, abs=0.5)
