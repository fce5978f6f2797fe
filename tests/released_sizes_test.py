"""Every published OpenFlamingo and IDEFICS, from shapes alone.

Each is built from its config and counted as `eval_shape` has it. The released
files say how many numbers they hold, and OpenFlamingo's of what is trained to
a tenth of a million; IDEFICS-80B's index says it to the byte.
"""

import functools
import json
import math

from flamingo import params as params_lib
from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.vision.vit import VARIANTS, ViT
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import idefics
from flamingo.pretrained import openflamingo
from flamingo.pretrained.flamingo import parameter_shapes
from flamingo.pretrained.lm import family_of, lm_config
from flamingo.pretrained.tower import tower_info
import jax.numpy as jnp
import pytest

# OpenFlamingo.

TOKENS = 50277  # of GPT-NeoX's tokenizer
MPT_1B = dict(
    model_type='mosaic_gpt', d_model=2048, n_heads=16, n_layers=24, mlp_ratio=4,
    vocab_size=50432, attn_qk_ln=True)
REDPAJAMA_3B = dict(
    model_type='gpt_neox', hidden_size=2560, num_attention_heads=32,
    num_hidden_layers=32, intermediate_size=10240, vocab_size=50432,
    rotary_pct=1.0, use_parallel_residual=False)
MPT_7B = dict(
    model_type='mpt', d_model=4096, n_heads=32, n_layers=32, vocab_size=50432)
LLAMA_7B = dict(
    model_type='llama', hidden_size=4096, num_attention_heads=32,
    num_hidden_layers=32, intermediate_size=11008, vocab_size=32000)

# Language model, tokens, every; blocks, millions of numbers in the released
# file, bytes of it in units of 10^9.
RELEASED = {
    'OpenFlamingo-3B': (MPT_1B, TOKENS, 1, 24, 1047.0, 4.188),
    'OpenFlamingo-3B-Instruct': (MPT_1B, TOKENS, 1, 24, 1047.0, 4.188),
    'OpenFlamingo-4B': (REDPAJAMA_3B, TOKENS, 2, 16, 1218.2, 4.873),
    'OpenFlamingo-4B-Instruct': (REDPAJAMA_3B, TOKENS, 2, 16, 1218.2, 4.873),
    'OpenFlamingo-9B': (MPT_7B, TOKENS, 4, 8, 1384.8, 5.539),
}


def _openflamingo(config_json, tokens, every):
  return _build(json.dumps(config_json), tokens, every)


@functools.cache
def _build(config_json, tokens, every):
  config_json = json.loads(config_json)
  lm = LM(**dict(lm_config(config_json), vocab_size=tokens))
  settings = dict(heads=8, head_dim=64, activation='gelu')
  model = Flamingo(
      lm=lm,
      resampler=PerceiverResampler(
          visual_width=1024, width=1024, frames=0, **settings),
      xattn=tuple(
          GatedCrossAttention(
              width=lm.width, visual_width=1024, ff_hidden=4 * lm.width,
              norm_visual=False, **settings)
          for _ in gated_layers(lm.layers, every, every - 1)),
      every=every, offset=every - 1, new_tokens=3,
      vision=ViT(
          **dict(VARIANTS['clip-l14'], embed_width=None), features='patches'))
  return model, _shapes(model)


def _shapes(model, embed=False):
  info = tower_info(model.vision, name='', fit='crop')
  return parameter_shapes(model, info, embed=embed)


def _count(shapes, *names):
  return params_lib.count(
      {name: x for name, x in shapes.items() if name.startswith(names)})


def _released(model, shapes, family):
  """Number of numbers in each tensor of the file."""
  leaves = dict(params_lib.flatten(shapes))
  return {
      rule.theirs: math.prod(
          rule.their_shape([leaves[path].shape for path in rule.paths]))
      for rule in openflamingo.released_rules(model, family)}


@pytest.mark.parametrize('name', RELEASED)
def test_what_openflamingo_released(name):
  config_json, tokens, every, blocks, millions, gigabytes = RELEASED[name]
  model, shapes = _openflamingo(config_json, tokens, every)
  assert len(model.xattn) == blocks
  sizes = _released(model, shapes, family_of(config_json))
  assert sum(sizes.values()) / 1e6 == pytest.approx(millions, abs=0.05)
  assert 4 * sum(sizes.values()) / 1e9 == pytest.approx(gigabytes, abs=5e-4)


def test_the_bases_of_4b_hold_masks_besides():
  """5.01 GB: a boolean mask of 2048 x 2048 for each of 32 layers."""
  model, shapes = _openflamingo(*RELEASED['OpenFlamingo-4B'][:3])
  numbers = sum(
      _released(model, shapes, family_of(REDPAJAMA_3B)).values())
  assert (4 * numbers + 32 * 2048**2) / 1e9 == pytest.approx(5.01, abs=0.005)


@pytest.mark.parametrize('config_json, every, lm_billions, billions', [
    # As the names of the language models round, and the Flamingos'; 9B is 8.3.
    (MPT_1B, 1, 1.3, 3), (REDPAJAMA_3B, 2, 2.8, 4), (MPT_7B, 4, 6.7, 8),
])
def test_the_whole_openflamingo(config_json, every, lm_billions, billions):
  _, shapes = _openflamingo(config_json, TOKENS, every)
  assert _count(shapes, 'lm') / 1e9 == pytest.approx(lm_billions, abs=0.06)
  assert round(params_lib.count(shapes) / 1e9) == billions


def test_the_first_openflamingo_has_llama_and_the_blocks_of_9b():
  model, shapes = _openflamingo(LLAMA_7B, 32000, 4)
  assert len(model.xattn) == 8 and shapes['new_embedding'].shape == (3, 4096)
  assert _count(shapes, 'lm') / 1e9 == pytest.approx(6.74, abs=0.005)
  mpt = _openflamingo(MPT_7B, TOKENS, 4)[1]
  for part in ('xattn', 'resampler'):
    assert _count(shapes, part) == _count(mpt, part)


# IDEFICS.

IDEFICS = dict(
    vocab_size=32000, additional_vocab_size=2, cross_layer_interval=4,
    qk_layer_norms=True, use_resampler=True,
    vision_config=dict(
        embed_dim=1280, image_size=224, intermediate_size=5120, patch_size=14,
        num_attention_heads=16, num_hidden_layers=32, hidden_act='gelu'),
    perceiver_config=dict(
        resampler_depth=6, resampler_head_dim=96, resampler_n_heads=16,
        resampler_n_latents=64, qk_layer_norms_perceiver=True))
IDEFICS_9B = IDEFICS | dict(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
    num_attention_heads=32)
IDEFICS_80B = IDEFICS | dict(
    hidden_size=8192, intermediate_size=22016, num_hidden_layers=80,
    num_attention_heads=64)


def _bytes(config, shapes):
  """Of the files, in bfloat16, with what has no use for the logits."""
  layers = config['num_hidden_layers']
  blocks = layers // config['cross_layer_interval']
  frequencies = 4 * 64 * (layers + blocks)  # of rotary embeddings, float32
  positions = 8 * 257  # of the vision encoder, int64
  return 2 * params_lib.count(shapes) + frequencies + positions


@pytest.fixture(scope='module')
def idefics_9b():
  model = idefics.build(IDEFICS_9B, jnp.bfloat16)
  return model, _shapes(model, embed=True)


@pytest.fixture(scope='module')
def idefics_80b():
  model = idefics.build(IDEFICS_80B, jnp.bfloat16)
  return model, _shapes(model, embed=True)


@pytest.mark.parametrize('built, blocks, xattn, lm, trained', [
    ('idefics_9b', 8, 1.4, 7, 1.5), ('idefics_80b', 20, 13.9, 65, 14)])
def test_what_idefics_trains_and_what_not(
    built, blocks, xattn, lm, trained, request
):
  model, shapes = request.getfixturevalue(built)
  assert len(model.xattn) == blocks
  billions = lambda *names: _count(shapes, *names) / 1e9
  assert round(billions('xattn'), 1) == xattn
  assert round(billions('resampler') * 1e3) == 126
  assert billions('vision') * 1e3 == pytest.approx(630, abs=1)
  assert round(billions('lm')) == lm
  train, _ = params_lib.split(shapes)
  # The papers round 1.56 down.
  assert params_lib.count(train) / 1e9 == pytest.approx(trained, abs=0.07)


def test_idefics_80b_has_every_byte_of_its_files(idefics_80b):
  assert _bytes(IDEFICS_80B, idefics_80b[1]) == 159_935_714_904


def test_idefics_9b_is_as_large_as_its_files(idefics_9b):
  size = _bytes(IDEFICS_9B, idefics_9b[1])
  assert size / 1e9 == pytest.approx(17.86, abs=0.005)
