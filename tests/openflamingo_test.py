"""OpenFlamingo's files: read, written, and told what is wrong with them."""

import dataclasses
import functools
import json

from flamingo import params as params_lib
from flamingo.data.tags import OPENFLAMINGO, OPENFLAMINGO_UNPADDED, Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.vision.vit import ViT
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import formats
from flamingo.pretrained import layouts
from flamingo.pretrained import openflamingo
from flamingo.pretrained import placement
from flamingo.pretrained import vit
from flamingo.pretrained.flamingo import arguments
from flamingo.pretrained.lm import family_of, lm_config
from flamingo.pretrained.load import load
from flamingo.pretrained.native import save
from flamingo.pretrained.openflamingo_rules import rules
import jax
import jax.numpy as jnp
import numpy as np
import pytest

VOCAB, PADDED = 259, 264  # tokens of the language model, rows of its embedding
LMS = {
    'llama': dict(
        model_type='llama', hidden_size=12, intermediate_size=17,
        num_hidden_layers=5, num_attention_heads=2),
    'gpt_neox': dict(
        model_type='gpt_neox', hidden_size=12, intermediate_size=17,
        num_hidden_layers=5, num_attention_heads=2, rotary_pct=1.0),
    'mpt': dict(model_type='mpt', d_model=12, n_layers=5, n_heads=2),
    'mosaic_gpt': dict(
        model_type='mosaic_gpt', d_model=12, n_layers=5, n_heads=2,
        attn_qk_ln=True),
    'opt': dict(
        model_type='opt', hidden_size=12, ffn_dim=17, num_hidden_layers=5,
        num_attention_heads=2, max_position_embeddings=31),
}
CLIP = dict(
    model_type='clip_vision_model', hidden_size=14, intermediate_size=19,
    num_hidden_layers=1, num_attention_heads=2, image_size=9, patch_size=3)


@dataclasses.dataclass(frozen=True)
class Toy:
  """An OpenFlamingo and the directories of what it is made of."""

  model: Flamingo
  params: dict
  family: object
  lm: object
  vision: object


@pytest.fixture(scope='module')
def built(random_params):
  """(family, every, new_tokens, visual) to a model and its parameters."""
  @functools.cache
  def make(name, every, new_tokens, visual):
    lm = LM(**dict(lm_config(_lm_json(name)), vocab_size=VOCAB))
    model = Flamingo(
        lm=lm,
        resampler=PerceiverResampler(
            visual_width=visual, width=visual, layers=2, latents=5, heads=2,
            head_dim=64, ff_hidden=23, activation='gelu', frames=0),
        xattn=tuple(
            GatedCrossAttention(
                width=12, visual_width=visual, heads=1, head_dim=64,
                ff_hidden=29, activation='gelu', norm_visual=False)
            for _ in gated_layers(5, every, every - 1)),
        every=every, offset=every - 1, new_tokens=new_tokens,
        vision=ViT(
            patch=3, width=visual, layers=1, heads=2 if visual == 14 else 1,
            hidden=19, image_size=9, features='patches'))
    tokens = jnp.zeros((1, 2), jnp.int32)
    images = jnp.zeros((1, 1, 1, 9, 9, 3), jnp.uint8)
    params = random_params(model, images, tokens, tokens)
    # A CLIP has all that its embedding needs.
    params['vision'] = random_params(
        model.vision, images[0, 0], method='embed', seed=1)
    return model, params
  return make


@pytest.fixture
def toy(built, tmp_path):
  """(family, every=2, new_tokens=3, visual=14) to a Toy."""
  def make(name='mpt', every=2, new_tokens=3, visual=14):
    model, params = built(name, every, new_tokens, visual)
    write_lm(tmp_path / 'lm', _lm_json(name), params['lm'])
    write_clip(tmp_path / 'clip', model.vision, params['vision'])
    return Toy(
        model, params, family_of(_lm_json(name)), tmp_path / 'lm',
        tmp_path / 'clip')
  return make


def _lm_json(name):
  return LMS[name] | dict(vocab_size=PADDED)


def write_lm(path, config_json, params):
  """A Hugging Face directory whose embedding has rows of no token."""
  config = lm_config(config_json)
  family = family_of(config_json)

  def pad(path, leaf):
    if path in (('embed', 'embedding'), ('unembed', 'kernel')):
      axis = path[0] == 'unembed'
      rows = [(0, 0), (0, 0)]
      rows[axis] = (0, PADDED - leaf.shape[axis])
      leaf = np.pad(leaf, rows, constant_values=np.inf)  # never to be seen
    return leaf

  padded = params_lib.unflatten(
      (p, pad(p, np.asarray(x))) for p, x in params_lib.flatten(params))
  formats.write_safetensors(
      path, layouts.write_params(padded, family.rules(config)))
  (path / 'config.json').write_text(json.dumps(config_json))
  Tokenizer.bytes(Tags(new_tokens=(), eoc=None)).save(path)


def write_clip(path, module, params):
  formats.write_safetensors(path, layouts.write_params(
      params, vit.vision_rules(module, ours='', embed=True)))
  config = CLIP | dict(
      hidden_size=module.width, num_attention_heads=module.heads)
  (path / 'config.json').write_text(json.dumps(config))


def read(toy, path, **kwargs):
  kwargs = dict(lm=toy.lm, vision=toy.vision, progress=False) | kwargs
  return load(path, **kwargs)


def tensors_of(path):
  return {name: x.read() for name, x in formats.open_weights(path).items()}


def write(path, tensors):
  formats.write_safetensors(path, tensors.items())
  return path


def assert_same(expected, came):
  params_lib.check_same(expected, came, 'file')
  jax.tree.map(np.testing.assert_array_equal, came, expected)


@pytest.fixture
def released(tmp_path):
  """(toy) to the path of what OpenFlamingo would release of it."""
  def make(toy):
    path = tmp_path / 'checkpoint.safetensors'
    openflamingo.save(path, toy.model, toy.params, toy.family)
    return path
  return make


# There and back.


@pytest.mark.parametrize('name, every', [
    *((name, 2) for name in LMS), ('mpt', 1), ('mpt', 4)])
def test_what_is_written_is_read_bit_for_bit(toy, released, name, every):
  toy = toy(name, every)
  loaded = read(toy, released(toy))
  assert loaded.model == toy.model
  assert_same(toy.params, loaded.params)


@pytest.mark.parametrize('name', LMS)
def test_what_is_read_is_written_with_the_same_names_and_bits(
    toy, released, tmp_path, name
):
  toy = toy(name)
  first = tensors_of(released(toy))
  loaded = read(toy, tmp_path / 'checkpoint.safetensors')
  openflamingo.save(
      tmp_path / 'again.safetensors', loaded.model, loaded.params, toy.family)
  again = tensors_of(tmp_path / 'again.safetensors')
  assert again.keys() == first.keys()
  for tensor, other in zip(again.values(), first.values()):
    np.testing.assert_array_equal(tensor, other)


def test_a_release_has_what_is_trained_and_the_embedding(toy, released):
  layer = 'lang_encoder.transformer.blocks.{}.gated_cross_attn_layer'
  names = set(tensors_of(released(toy('mpt'))))
  assert {name for name in names if 'lang_encoder' not in name} == {
      'perceiver.latents', 'perceiver.norm.weight', 'perceiver.norm.bias'} | {
          f'perceiver.layers.{i}.{name}' for i in range(2) for name in (
              '0.norm_media.weight', '0.norm_media.bias',
              '0.norm_latents.weight', '0.norm_latents.bias', '0.to_q.weight',
              '0.to_kv.weight', '0.to_out.weight', '1.0.weight', '1.0.bias',
              '1.1.weight', '1.3.weight')}
  assert {name for name in names if 'lang_encoder' in name} == {
      'lang_encoder.transformer.wte.weight'} | {
          f'{layer.format(i)}.{name}' for i in (1, 3) for name in (
              'attn_gate', 'ff_gate', 'attn.norm.weight', 'attn.norm.bias',
              'attn.to_q.weight', 'attn.to_kv.weight', 'attn.to_out.weight',
              'ff.0.weight', 'ff.0.bias', 'ff.1.weight', 'ff.3.weight')}


@pytest.mark.parametrize('name, embedding, output', [
    ('gpt_neox', 'gpt_neox.embed_in', 'embed_out'),
    ('llama', 'model.embed_tokens', 'lm_head')])
def test_rows_of_new_tokens_stand_behind_those_of_the_language_model(
    toy, released, name, embedding, output
):
  toy = toy(name)
  tensors = tensors_of(released(toy))
  rows = tensors[f'lang_encoder.{embedding}.weight']
  np.testing.assert_array_equal(
      rows, np.concatenate([
          toy.params['lm']['embed']['embedding'], toy.params['new_embedding']]))
  np.testing.assert_array_equal(
      tensors[f'lang_encoder.{output}.weight'], np.concatenate([
          toy.params['lm']['unembed']['kernel'].T,
          toy.params['new_unembedding']]))


# What else comes as an OpenFlamingo.


def test_padding_of_the_vocabulary_is_cut_and_new_tokens_follow(toy, released):
  toy = toy('llama')
  tensors = tensors_of(released(toy))
  del tensors['lang_encoder.lm_head.weight']  # so the LM's own is read
  path = write(toy.lm.parent / 'cut.safetensors', tensors)
  loaded = read(toy, path)
  assert formats.open_weights(toy.lm)['lm_head.weight'].shape == (PADDED, 12)
  assert loaded.params['lm']['unembed']['kernel'].shape == (12, VOCAB)
  assert np.isfinite(loaded.params['lm']['unembed']['kernel']).all()
  assert loaded.tokenizer.eoc_id == VOCAB
  assert loaded.tokenizer.image_ids == (VOCAB + 1,)
  assert loaded.tokenizer.pad_id == VOCAB + 2


def test_output_rows_that_were_not_trained_are_zero_and_reported(
    toy, released, tmp_path
):
  toy = toy('llama')
  tensors = tensors_of(released(toy))
  del tensors['lang_encoder.lm_head.weight']  # as version 1 saved it
  path = write(tmp_path / 'v1.safetensors', tensors)
  loaded = read(toy, path)
  assert not loaded.params['new_unembedding'].any()
  assert 'not trained' in loaded.report.absent['new_unembedding']
  openflamingo.save(
      tmp_path / 'again.safetensors', loaded.model, loaded.params, toy.family)
  assert tensors_of(tmp_path / 'again.safetensors').keys() == tensors.keys()


def test_without_a_token_for_padding_there_are_two_new_tokens(toy, released):
  toy = toy(new_tokens=2)
  assert read(toy, released(toy)).tokenizer.tags == OPENFLAMINGO_UNPADDED
  assert OPENFLAMINGO.new_tokens[2:] == ('<PAD>',)


def test_the_layout_of_version_1_is_read(toy, released, tmp_path):
  toy = toy('llama')
  tensors = {
      name.replace('model.layers.', 'gated_cross_attn_layers.').replace(
          '.gated_cross_attn_layer.', '.'): x
      for name, x in tensors_of(released(toy)).items()}
  assert 'lang_encoder.gated_cross_attn_layers.3.attn_gate' in tensors
  loaded = read(toy, write(tmp_path / 'v1.safetensors', tensors))
  assert_same(toy.params, loaded.params)


@pytest.mark.parametrize('name', LMS)
def test_a_whole_model_needs_of_the_language_model_only_its_config(
    toy, released, tmp_path, name
):
  toy = toy(name)
  settings = dict(style='open_clip', prefix='vision_encoder.', embed=True)
  whole = dict(layouts.write_params(
      toy.params, rules(toy.model, toy.family) + vit.vision_rules(
          toy.model.vision, **settings)))
  gate = next(name for name in whole if name.endswith('3.gated_cross_attn_layer'
                                                      '.attn_gate'))
  layer = toy.family.layer.format(3)
  norm = next(name for name in whole if f'{layer}.decoder_layer.' in name)
  tensors = whole | {
      'lang_encoder.gated_cross_attn_layers.3.attn_gate': whole[gate],
      f'lang_encoder.old_decoder_blocks.3.{norm.split("decoder_layer.")[1]}':
          whole[norm]}
  if toy.model.lm.tied:
    tensors['lang_encoder.lm_head.weight'] = np.ones((3, 3), np.float32)
  path = write(tmp_path / 'whole.safetensors', tensors)
  (toy.lm / 'model.safetensors').unlink()
  loaded = read(toy, path)
  assert_same(toy.params, loaded.params)
  assert loaded.report.unused.keys() == tensors.keys() - whole.keys()
  assert 'a second name of the gated blocks' in loaded.report.unused.values()
  assert loaded.vision.image_size == 9 and loaded.vision.features == 9


def test_a_whole_model_tells_the_sizes_of_its_clip(toy, tmp_path):
  toy = toy(visual=64)  # a head of CLIP is 64 wide
  settings = dict(style='open_clip', prefix='vision_encoder.', embed=True)
  path = write(tmp_path / 'whole.safetensors', dict(layouts.write_params(
      toy.params, rules(toy.model, toy.family) + vit.vision_rules(
          toy.model.vision, **settings))))
  loaded = read(toy, path, vision=None)
  assert loaded.model == toy.model
  assert_same(toy.params, loaded.params)


def test_the_clip_of_openai_needs_no_config(toy, released, tmp_path):
  toy = toy(visual=64)
  tensors = dict(layouts.write_params(
      toy.params['vision'], vit.vision_rules(
          toy.model.vision, 'open_clip', ours='', embed=True))) | {
              'visual.proj': np.ones((64, 3), np.float32),
              'transformer.resblocks.0.ln_1.weight': np.ones(5, np.float32),
              'logit_scale': np.ones((), np.float32)}
  clip = write(tmp_path / 'elsewhere.safetensors', tensors)
  loaded = read(toy, released(toy), vision=clip)
  assert loaded.model == toy.model.clone(  # with QuickGELU
      vision=toy.model.vision.clone(embed_width=3))
  assert_same(toy.params['vision'] | {
      'projection': {'kernel': np.ones((64, 3))}}, loaded.params['vision'])


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize('lacks, embeds', [
    ((), True), (('proj',), True), (('ln_post.bias',), False)])
def test_what_an_embedding_needs_is_read_where_it_is_there(
    toy, released, tmp_path, random_params, whole, lacks, embeds
):
  toy = toy(visual=64)
  clip = toy.model.vision.clone(embed_width=3)
  images = np.arange(243, dtype=np.uint8).reshape(1, 9, 9, 3)
  params = random_params(clip, images, method='embed')
  prefix = 'vision_encoder.' if whole else 'visual.'
  tensors = dict(layouts.write_params(params, vit.vision_rules(
      clip, 'open_clip', prefix=prefix, ours='', embed=True)))
  tensors = {
      name: x for name, x in tensors.items()
      if name.removeprefix(prefix) not in lacks}
  if whole:
    path, where = write(
        tmp_path / 'all.safetensors', tensors_of(released(toy)) | tensors), None
  else:
    path, where = released(toy), write(tmp_path / 'clip.safetensors', tensors)
  loaded = read(toy, path, vision=where)
  vision, came = loaded.model.vision, loaded.params['vision']
  assert vision.embed_width == (None if lacks else 3)
  assert ('post_norm' in came) == embeds
  assert ('projection' in came) == (not lacks)
  if embeds:
    np.testing.assert_array_equal(
        vision.apply({'params': came}, images, method='embed'),
        clip.clone(embed_width=vision.embed_width).apply(
            {'params': params}, images, method='embed'))
  save(tmp_path / 'saved', loaded.model, loaded.params, loaded.tokenizer,
       loaded.vision)
  assert_same(loaded.params, load(tmp_path / 'saved', progress=False).params)


def test_masks_without_values_do_not_make_a_whole_model(
    toy, released, tmp_path
):
  toy = toy('gpt_neox')
  layer = 'lang_encoder.gpt_neox.layers.0.decoder_layer.attention'
  tensors = tensors_of(released(toy)) | {
      f'{layer}.bias': np.tri(3, dtype=bool),
      f'{layer}.rotary_emb.inv_freq': np.ones(3, np.float32)}
  loaded = read(toy, write(tmp_path / 'mask.safetensors', tensors))
  assert_same(toy.params, loaded.params)
  assert len(loaded.report.unused) == 2 + 2  # and the embeddings


# What is wrong, and what to do.


def test_the_parts_that_lack_are_asked_for(toy, released):
  toy = toy()
  path = released(toy)
  with pytest.raises(ValueError, match='Pass lm=DIRECTORY: mpt-1b-redpajama'):
    read(toy, path, lm=None)
  with pytest.raises(ValueError, match='no vision encoder. Pass vision=PATH'):
    read(toy, path, vision=None)


def _other_lm(toy, tmp_path, random_params, name='mpt', **changes):
  config_json = _lm_json(name) | changes
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
