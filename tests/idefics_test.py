"""IDEFICS' directories: written, read, and told what is wrong with them."""

import json

from flamingo import params as params_lib
from flamingo.data.tags import IDEFICS, IDEFICS_INSTRUCT
from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained import formats
from flamingo.pretrained import idefics
from flamingo.pretrained.load import load
import jax
import jax.numpy as jnp
import numpy as np
import pytest

CONFIG = dict(
    vocab_size=259, additional_vocab_size=2, hidden_size=12,
    intermediate_size=17, num_hidden_layers=4, num_attention_heads=2,
    cross_layer_interval=2, qk_layer_norms=True, use_resampler=True,
    vision_config=dict(
        embed_dim=14, image_size=9, intermediate_size=19, patch_size=3,
        num_attention_heads=2, num_hidden_layers=1),
    perceiver_config=dict(
        resampler_depth=1, resampler_head_dim=5, resampler_n_heads=3,
        resampler_n_latents=5, qk_layer_norms_perceiver=True))


@pytest.fixture
def toy(random_params):
  """(**changes) to a model of IDEFICS' architecture and its parameters."""
  def make(**changes):
    model = idefics.build(CONFIG | changes, jnp.float32)
    tokens = jnp.zeros((1, 2), jnp.int32)
    inputs = jnp.zeros((1, 1, 1, 9, 9, 3), jnp.uint8), tokens, tokens

    def run(model, images, tokens, index):
      model.vision.embed(images[0, 0])
      return model(images, tokens, index)
    return model, random_params(model, *inputs, method=run)
  return make


@pytest.mark.parametrize('changes', [
    {}, dict(use_resampler=False), dict(alpha_type='vector'),
    dict(tie_word_embeddings=True), dict(hidden_act='gelu_pytorch_tanh')])
def test_what_is_written_is_read_bit_for_bit(toy, tmp_path, changes):
  model, params = toy(**changes)
  tokenizer = Tokenizer.bytes(IDEFICS)
  idefics.save(tmp_path, model, params, tokenizer)
  loaded = load(tmp_path, progress=False)
  assert loaded.model == model
  params_lib.check_same(params, loaded.params, 'directory')
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
  assert loaded.tokenizer.image_ids == (259, 260, 259)
  assert loaded.vision.fit == 'squash' and loaded.vision.features == 10


def test_the_third_new_token_is_of_the_instructed_model(toy, tmp_path):
  model, params = toy(additional_vocab_size=3)
  idefics.save(tmp_path, model, params, Tokenizer.bytes(IDEFICS_INSTRUCT))
  assert load(tmp_path, progress=False).tokenizer.tags == IDEFICS_INSTRUCT


def test_every_token_has_a_row(toy, tmp_path):
  model, params = toy(additional_vocab_size=4)
  idefics.save(tmp_path, model, params, Tokenizer.bytes(IDEFICS))
  with pytest.raises(ValueError, match='259 and 4 new rows'):
    load(tmp_path, progress=False)


def test_buffers_have_no_use(toy, tmp_path):
  model, params = toy()
  idefics.save(tmp_path, model, params, Tokenizer.bytes(IDEFICS))
  buffers = {
      'model.layers.0.self_attn.rotary_emb.inv_freq',
      'model.gated_cross_attn_layers.1.cross_attn.rotary_emb.inv_freq',
      'model.vision_model.embeddings.position_ids'}
  tensors = {
      name: x.read() for name, x in formats.open_weights(tmp_path).items()}
  (tmp_path / 'model.safetensors').unlink()
  formats.write_safetensors(tmp_path, [
      *tensors.items(), *((name, np.zeros(3, np.float32)) for name in buffers)])
  assert load(tmp_path, progress=False).report.unused.keys() == buffers


@pytest.mark.parametrize('change, message', [
    (dict(vision=None), 'its vision encoder is a CLIP, NoneType came'),
    (dict(every=1), r'model\.every|model\.xattn'),
    (lambda m: dict(resampler=m.resampler.clone(activation='gelu')),
     "it has model.resampler.activation = 'relu', the model 'gelu'"),
    (lambda m: dict(lm=m.lm.clone(rope_base=5e5)),
     'it has model.lm.rope_base = 10000.0, the model 500000.0'),
])
def test_only_an_idefics_can_be_written_as_one(
    toy, tmp_path, change, message
):
  model, params = toy()
  change = change if isinstance(change, dict) else change(model)
  with pytest.raises(ValueError, match=message):
    idefics.save(
        tmp_path, model.clone(**change), params, Tokenizer.bytes(IDEFICS))
  assert not list(tmp_path.iterdir())


def test_a_config_of_another_interval_names_what_does_not_fit(toy, tmp_path):
  model, params = toy()
  idefics.save(tmp_path, model, params, Tokenizer.bytes(IDEFICS))
  config = json.loads((tmp_path / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(
      json.dumps(config | dict(cross_layer_interval=1)))
  with pytest.raises(
      ValueError, match='gated blocks 0, 1: cross_layer_interval = 2 over 4 '
      'layers; .* cross_layer_interval = 1, which asks for 4'):
    load(tmp_path, progress=False)
