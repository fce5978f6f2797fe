"""What is wrong with an OpenFlamingo's files, and what to do."""

from flamingo.model.lm import LM
from flamingo.pretrained import formats
from flamingo.pretrained import openflamingo
from flamingo.pretrained import placement
from flamingo.pretrained.flamingo import arguments
from flamingo.pretrained.lm import lm_config
import jax.numpy as jnp
import numpy as np
import pytest
import toy_openflamingo
from toy_openflamingo import (
    lm_json, read, tensors_of, VOCAB, write, write_lm)


@pytest.fixture(scope='module')
def built(random_params):
  return toy_openflamingo.builder(random_params)


@pytest.fixture
def toy(built, tmp_path):
  return toy_openflamingo.maker(built, tmp_path)


@pytest.fixture
def released(tmp_path):
  return toy_openflamingo.releaser(tmp_path)


def test_the_parts_that_lack_are_asked_for(toy, released):
  toy = toy()
  path = released(toy)
  with pytest.raises(ValueError, match='Pass lm=DIRECTORY: mpt-1b-redpajama'):
    read(toy, path, lm=None)
  with pytest.raises(ValueError, match='no vision encoder. Pass vision=PATH'):
    read(toy, path, vision=None)


def _other_lm(toy, tmp_path, random_params, name='mpt', **changes):
  config_json = lm_json(name) | changes
  lm = LM(**dict(lm_config(config_json), vocab_size=VOCAB))
  write_lm(tmp_path / 'other', config_json, random_params(
      lm, jnp.zeros((1, 2), jnp.int32)))
  return tmp_path / 'other'


@pytest.mark.parametrize('changes, message', [
    # Too shallow, too wide, of another family.
    (dict(n_layers=3),
     r'gated blocks at 1, 3: every=2, offset=1; the model was built with '
     r'every=2, offset=1, which puts them at 1\. First difference: '
     r'lang_encoder\.transformer\.blocks\.3\.gated_cross_attn_layer\.attn_gate:'
     r' expected nothing, came \(1,\)\..* has 3 layers: pass the one .* of 4 '
     r'layers or a few more'),
    (dict(d_model=16),
     r'lang_encoder\.transformer\.blocks\.1\.gated_cross_attn_layer\.attn\.to_q'
     r'\.weight in .*: expected \(64, 16\), came \(64, 12\).* is 16 wide, and '
     r'the checkpoint was trained with a language model of 12: pass that one'),
    (dict(name='opt'),
     r'language model of another family than the one in .*: expected the '
     r'embedding lang_encoder\.model\.decoder\.embed_tokens\.weight .*; came '
     r'blocks in lang_encoder\.transformer\.blocks'),
])
def test_a_wrong_language_model_is_found_out(
    toy, released, tmp_path, random_params, changes, message
):
  toy = toy()
  other = _other_lm(toy, tmp_path, random_params, **changes)
  with pytest.raises(ValueError, match=message):
    read(toy, released(toy), lm=other)


def test_a_wrong_interval_is_found_out(toy, released):
  toy = toy('mpt', every=4)
  tensors = formats.open_weights(released(toy))
  blocks = 'lang_encoder.transformer.blocks.{}.gated_cross_attn_layer'
  model = toy.model.clone(every=2, offset=1)
  with pytest.raises(ValueError) as error:
    placement.check_blocks(model, tensors, blocks, (3,), what='checkpoint')
  assert str(error.value) == (
      'checkpoint has gated blocks at 3: every=4, offset=3; the model was '
      'built with every=2, offset=1, which puts them at 1, 3. First '
      'difference: lang_encoder.transformer.blocks.1.gated_cross_attn_layer.'
      'attn_gate: expected (1,), came nothing. Build the model with every=4, '
      'offset=3.')


def test_blocks_at_uneven_distances_are_found_out(toy, released, tmp_path):
  toy = toy('mpt', every=1)
  tensors = {
      name: x for name, x in tensors_of(released(toy)).items()
      if '.2.gated' not in name}
  path = write(tmp_path / 'uneven.safetensors', tensors)
  with pytest.raises(ValueError, match='at 0, 1, 3, 4: at uneven distances'):
    read(toy, path)


def test_a_tokenizer_that_does_not_fit_the_embedding_is_found_out(
    toy, released, tmp_path
):
  toy = toy()
  tensors = tensors_of(released(toy))
  tensors['lang_encoder.transformer.wte.weight'] = np.zeros(
      (VOCAB + 1, 12), np.float32)
  path = write(tmp_path / 'small.safetensors', tensors)
  with pytest.raises(
      ValueError, match='The embedding in .*small.* rows, but the tokenizer'):
    read(toy, path)


def test_a_tensor_without_a_use_is_an_error(toy, released, tmp_path):
  toy = toy()
  tensors = tensors_of(released(toy)) | {
      'perceiver.surprise': np.zeros(3, np.float32)}
  path = write(tmp_path / 'more.safetensors', tensors)
  with pytest.raises(ValueError, match='have no use: perceiver.surprise'):
    read(toy, path)


def test_a_checkpoint_that_lacks_a_tensor_says_which(toy, released, tmp_path):
  toy = toy()
  tensors = tensors_of(released(toy))
  for name in ('perceiver.latents', 'perceiver.layers.1.0.to_kv.weight'):
    lacking = {other: x for other, x in tensors.items() if other != name}
    path = write(tmp_path / f'{name}.safetensors', lacking)
    with pytest.raises(ValueError, match=name):
      read(toy, path)


def test_something_else_is_no_openflamingo(toy, tmp_path):
  toy = toy()
  with pytest.raises(ValueError, match='Expected gated blocks'):
    read(toy, write(tmp_path / 'x.safetensors', {'a': np.zeros(3)}))


@pytest.mark.parametrize('part, change, message', [
    ('resampler', dict(activation='relu'),
     "it has model.resampler.activation = 'gelu', the model 'relu'"),
    ('every', 3, 'it has model.every = 4, the model 5'),
])
def test_only_an_openflamingo_can_be_written_as_one(
    toy, tmp_path, random_params, part, change, message
):
  toy = toy('mpt', every=4)
  if part == 'every':
    model = toy.model.clone(every=5, offset=3)
  else:
    model = toy.model.clone(resampler=toy.model.resampler.clone(**change))
  tokens = jnp.zeros((1, 2), jnp.int32)
  params = random_params(
      model, jnp.zeros((1, 1, 1, 9, 9, 3), jnp.uint8), tokens, tokens)
  with pytest.raises(ValueError, match=message):
    openflamingo.save(tmp_path / 'x.safetensors', model, params, toy.family)


def test_arguments_are_what_a_module_was_built_with(toy):
  lm = toy().model.lm
  assert LM(**arguments(lm)) == lm
