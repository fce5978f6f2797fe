"""A tiny gated block, its inputs, and what it can be switched to, for tests."""

from flamingo.model.xattn import GatedCrossAttention
import jax
import jax.numpy as jnp
import numpy as np

B, L, N, R, WIDTH, VISUAL = 2, 13, 3, 5, 11, 19
INDEX = jnp.asarray([
    [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3],
    [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0, 0]], jnp.int32)

# Every setting that a reproduction of Flamingo differs in.
SWITCHES = {
    'flamingo': {},
    'openflamingo': dict(
        heads=8, head_dim=64, activation='gelu', norm_visual=False),
    'idefics': dict(
        activation='silu', gated_ff=True, norm='rms', norm_visual=False,
        norm_heads=True),
    'gate a channel': dict(gate='vector'),
    'no gate': dict(gate='none'),
    'vanilla': dict(gate='none', ff_hidden=0),
    'no dense half': dict(ff_hidden=0),
    'all images': dict(sees='all'),
    'louder branches': dict(branch_scale=7.0),
    'larger epsilon': dict(norm_eps=0.1),
    'low precision': dict(dtype=jnp.bfloat16),
}
# How a token may be shown the latents of its image.
FORMS = ('projected', 'gathered', 'absorbed')


def make(**kwargs):
  """A block with other settings than usual."""
  return GatedCrossAttention(**{
      'width': WIDTH, 'visual_width': VISUAL, 'heads': 2, 'head_dim': 13,
      'ff_hidden': 31} | kwargs)


def inputs():
  """Text, latents of images, and the image that each token sees."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return draw(B, L, WIDTH), draw(B, N, R, VISUAL), INDEX


def shapes(**switches):
  """Of a block's parameters."""
  return jax.eval_shape(
      make(**switches).init, jax.random.key(0), *inputs())['params']
