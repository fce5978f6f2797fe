"""OpenFlamingo's files: read, and written as they were."""

from flamingo.data.tags import OPENFLAMINGO, OPENFLAMINGO_UNPADDED
from flamingo.pretrained import formats
from flamingo.pretrained import layouts
from flamingo.pretrained import openflamingo
from flamingo.pretrained import vit
from flamingo.pretrained.load import load
from flamingo.pretrained.native import save
from flamingo.pretrained.openflamingo_rules import rules
import numpy as np
import pytest
import toy_openflamingo
from toy_openflamingo import (
    assert_same, LMS, PADDED, read, tensors_of, VOCAB, write)


@pytest.fixture(scope='module')
def built(random_params):
  return toy_openflamingo.builder(random_params)


@pytest.fixture
def toy(built, tmp_path):
  return toy_openflamingo.maker(built, tmp_path)


@pytest.fixture
def released(tmp_path):
  return toy_openflamingo.releaser(tmp_path)


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
