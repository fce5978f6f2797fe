"""OpenFlamingo: the original classes and ours, with the same weights."""

import sys
import types

import pytest

torch = pytest.importorskip('torch', reason='parity: make parity')

import jax.numpy as jnp
import numpy as np

from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import layouts
from flamingo.pretrained import openflamingo
from flamingo.pretrained.formats import Stored

# The factory alone needs open_clip; the model does not.
sys.modules.setdefault('open_clip', types.ModuleType('open_clip'))
from open_flamingo.src import helpers

SMALL = 1e-4  # of any logit, in float32


def shake(module, seed=0):
  """Draws every parameter anew, so that none is what it starts from."""
  rng = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in module.named_parameters():
      noise = torch.randn(parameter.shape, generator=rng)
      if parameter.ndim > 1 and 'latents' not in name and 'emb' not in name:
        noise = noise / parameter.shape[-1] ** 0.5
      elif name.endswith('weight'):
        noise = 1 + 0.3 * noise  # of a norm
      parameter.copy_(noise)
  return module.eval()


def stored(module):
  return {
      name: Stored.of(tensor.detach().numpy())
      for name, tensor in module.state_dict().items()}


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_resampler_is_the_originals(run, random_params):
  theirs = shake(helpers.PerceiverResampler(
      dim=24, depth=3, dim_head=8, heads=5, num_latents=7, max_num_frames=3))
  ours = PerceiverResampler(
      visual_width=24, width=24, layers=3, latents=7, heads=5, head_dim=8,
      activation='gelu', frames=3)
  visual = draw(2, 3, 3, 11, 24)  # B N T S C
  rules = openflamingo.resampler_rules(3, theirs='x', frames=True)
  params, _ = layouts.read_params(
      {f'x.{name}': x for name, x in stored(theirs).items()}, rules,
      {'resampler': random_params(ours, jnp.asarray(visual[0]))}, what='test')
  expected = theirs(torch.from_numpy(visual)).detach().numpy()
  for images, latents in zip(visual, expected):
    np.testing.assert_allclose(
        run(ours, params['resampler'], images), latents, atol=1e-5)


@pytest.mark.parametrize('sees', ['last', 'all'])
def test_a_gated_block_is_the_originals(run, random_params, sees):
  theirs = shake(helpers.GatedCrossAttentionBlock(
      dim=20, dim_visual=12, dim_head=8, heads=5,
      only_attend_immediate_media=sees == 'last'))
  ours = GatedCrossAttention(
      width=20, visual_width=12, heads=5, head_dim=8, ff_hidden=80,
      activation='gelu', norm_visual=False, sees=sees)
  y, latents = draw(2, 13, 20), draw(2, 3, 7, 12, seed=1)
  tags = np.zeros((2, 13), bool)
  # OpenFlamingo shows text before any image every image if it sees all.
  tags[0, [0 if sees == 'all' else 2, 5, 6]] = True
  tags[1, [0, 11]] = True
  params, _ = layouts.read_params(
      {f'x.{name}': x for name, x in stored(theirs).items()},
      openflamingo.block_rules('x', 'block'),
      {'block': random_params(ours, y, latents, np.cumsum(tags, 1))},
      what='test')
  expected = theirs(
      *map(torch.from_numpy, (y, latents, tags))).detach().numpy()
  came = run(ours, params['block'], y, latents, np.cumsum(tags, 1))
  np.testing.assert_allclose(came, expected, atol=1e-5)
