"""Loading vision towers: what is found out, and what is refused."""

import json

from flamingo import params as params_lib
from flamingo.model.vision.nfnet import DEEPMIND, NFNet
from flamingo.model.vision.vit import ViT
from flamingo.pretrained import layouts, nfnet, vision, vit, vit_config
from flamingo.pretrained.formats import write_safetensors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

SIZES = dict(
    hidden_size=12, intermediate_size=17, num_hidden_layers=2,
    num_attention_heads=3, image_size=25, patch_size=5)
IMAGES = np.zeros((1, 25, 25, 3), np.uint8)


@pytest.fixture
def published(random_params):
  """(folder, style, **config) to a CLIP tower there, and its parameters."""
  def publish(folder, style='hf', **config):
    module = ViT(
        **vit_config.vit_config(SIZES | config, 'clip'), embed_width=7)
    params = jax.device_get(random_params(module, IMAGES, method='embed'))
    rules = vit.vision_rules(module, style, ours='', embed=True)
    folder.mkdir(exist_ok=True)
    write_safetensors(
        folder / 'model.safetensors', layouts.write_params(params, rules))
    if style == 'hf':
      (folder / 'config.json').write_text(json.dumps(
          SIZES | config | dict(model_type='clip_vision_model')))
    return params
  return publish


def assert_same(tree, expected):
  for (path, leaf), (other, value) in zip(
      params_lib.flatten(tree), params_lib.flatten(expected), strict=True):
    assert path == other
    np.testing.assert_array_equal(leaf, value)


@pytest.mark.parametrize('style', ['hf', 'open_clip'])
def test_what_was_written_is_read(style, published, tmp_path):
  params = published(tmp_path, style, num_attention_heads=1)
  module, loaded, info = vision.load_vision(
      tmp_path, embed=True, activation='quick_gelu', heads=1)
  assert_same(loaded, params)
  assert (module.layers, module.patch, module.image_size) == (2, 5, 25)
  assert (info.image_size, info.features, info.width) == (25, 26, 12)


def test_features_need_less_than_embeddings(published, tmp_path):
  published(tmp_path)
  _, params, _ = vision.load_vision(tmp_path)
  assert not {'post_norm', 'projection'} & params.keys()
  _, params, _ = vision.load_vision(tmp_path, final_norm=True)
  assert 'post_norm' in params and 'projection' not in params


def test_leaves_are_cast_and_then_placed(published, tmp_path):
  published(tmp_path)
  placed = []

  def place(path, leaf):
    placed.append(path)
    assert leaf.dtype == jnp.bfloat16
    return jnp.asarray(leaf)

  module, params, _ = vision.load_vision(
      tmp_path, dtype=jnp.bfloat16, place=place)
  assert module.dtype == jnp.bfloat16
  assert sorted(placed) == [path for path, _ in params_lib.flatten(params)]
  out = module.apply({'params': params}, jnp.asarray(IMAGES))
  assert out.shape == (1, 26, 12) and out.dtype == jnp.float32


def test_the_fingerprint_changes_with_what_features_depend_on(
    published, tmp_path):
  published(tmp_path / 'one')
  params = published(tmp_path / 'two')
  load = lambda name, **kwargs: vision.load_vision(
      tmp_path / name, **kwargs)[2].fingerprint
  first = load('one')
  assert first == load('two')
  assert first == load('one', embed=True)
  others = [
      load('one', features='patches'), load('one', final_norm=True),
      load('one', image_size=30), load('one', activation='gelu')]
  down = params['layer_1']['mlp']['down']
  down['bias'] = down['bias'] + np.float32(1e-3)
  rules = vit.vision_rules(
      ViT(**vit_config.vit_config(SIZES, 'clip'), embed_width=7), ours='',
      embed=True)
  write_safetensors(
      tmp_path / 'two/model.safetensors', layouts.write_params(params, rules))
  others.append(load('two'))
  assert len({first, *others}) == 6


def test_the_preprocessor_says_how_pixels_are_scaled(published, tmp_path):
  published(tmp_path)
  assert vision.load_vision(tmp_path)[2].fit == 'crop'
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps(dict(
      image_mean=[.1, .2, .3], image_std=[.4, .5, .6], do_center_crop=False)))
  module, _, info = vision.load_vision(tmp_path)
  assert (module.mean, module.std) == ((.1, .2, .3), (.4, .5, .6))
  assert info.fit == 'squash'


def test_other_sizes_keep_the_class_token_and_the_rest(published, tmp_path):
  params = published(tmp_path)
  module, resized, info = vision.load_vision(tmp_path, image_size=40)
  assert (module.side, info.features) == (8, 65)
  positions = resized.pop('position_embedding')
  np.testing.assert_array_equal(positions[0], params['position_embedding'][0])
  assert positions.shape == (65, 12)
  _, same, _ = vision.load_vision(tmp_path)
  del same['position_embedding']
  assert_same(resized, same)


@pytest.mark.parametrize('model_type, width', [
    ('idefics', 768), ('clip', 768), ('siglip', 768)])
def test_what_a_config_leaves_out_is_the_default_of_its_class(
    model_type, width):
  module = ViT(**vit_config.vit_config(
      dict(model_type=model_type, vision_config={})))
  assert module.width == width
  assert (module.patch, module.layers, module.activation) == {
      'idefics': (14, 32, 'gelu'), 'clip': (32, 12, 'quick_gelu'),
      'siglip': (16, 12, 'gelu_tanh')}[model_type]


@pytest.mark.parametrize('width, layers, hidden, heads', [
    (768, 12, 3072, 12), (1024, 24, 4096, 16), (1280, 32, 5120, 16)])
def test_heads_of_open_clip_follow_from_the_width(width, layers, hidden, heads):
  module = ViT(
      patch=14, width=width, layers=layers, heads=1, hidden=hidden,
      embed_width=9)
  shapes = dict(params_lib.flatten(vit.expected_params(module, True)))
  tensors = {
      rule.theirs: jax.ShapeDtypeStruct(
          rule.their_shape([shapes[path].shape for path in rule.paths]),
          np.float32)
      for rule in vit.vision_rules(module, 'open_clip', ours='', embed=True)}
  config = vit_config.vit_config_from_shapes(tensors, activation='gelu')
  assert ViT(**config) == module.clone(heads=heads, activation='gelu')


def test_a_missing_tensor_is_named(published, tmp_path):
  published(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps(
      SIZES | dict(model_type='clip_vision_model', num_hidden_layers=3)))
  with pytest.raises(
      ValueError, match=r'16 tensors are missing: '
      r'vision_model\.encoder\.layers\.2\.layer_norm1\.bias'):
    vision.load_vision(tmp_path)


def test_a_tensor_without_a_use_is_named(published, tmp_path):
  published(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps(
      SIZES | dict(model_type='clip_vision_model', num_hidden_layers=1)))
  with pytest.raises(ValueError, match=r'16 tensors have no use: .*layers\.1'):
    vision.load_vision(tmp_path)


@pytest.mark.parametrize('config, message', [
    (dict(model_type='vit'), "came model_type 'vit'"),
    (dict(model_type='siglip2_vision_model'), "came model_type 'siglip2_"),
    (dict(model_type='clip', vision_config=dict(num_channels=4)), 'came 4'),
    (dict(model_type='clip', vision_config=dict(hidden_act='relu')), "'relu'"),
])
def test_configs_of_other_models_are_refused(config, message):
  with pytest.raises(ValueError, match=message):
    vit_config.vit_config(config)


def test_weights_without_a_config_are_refused(published, tmp_path):
  published(tmp_path)
  (tmp_path / 'config.json').unlink()
  with pytest.raises(ValueError, match='has no config.json'):
    vision.load_vision(tmp_path)


def test_an_activation_that_nothing_tells_is_asked_for(published, tmp_path):
  published(tmp_path, 'open_clip', num_attention_heads=1)
  with pytest.raises(ValueError, match="activation='quick_gelu' for those of"):
    vision.load_vision(tmp_path, heads=1)


def test_files_of_other_things_are_refused(tmp_path):
  write_safetensors(
      tmp_path / 'a.safetensors', [('wte.weight', np.zeros((3, 2)))])
  with pytest.raises(ValueError, match='came wte.weight'):
    vision.load_vision(tmp_path / 'a.safetensors')
  with pytest.raises(ValueError, match='came wte.weight'):
    nfnet.load_nfnet(tmp_path / 'a.safetensors')


def test_an_unknown_layout_is_told():
  module = ViT(**vit_config.vit_config(SIZES, 'clip'))
  with pytest.raises(ValueError, match="came 'timm'"):
    vit.vision_rules(module, 'timm')


@pytest.mark.parametrize('final_conv', [True, False])
@pytest.mark.parametrize('classifier', [True, False])
def test_an_nfnet_is_read_with_what_is_asked_for(
    final_conv, classifier, random_params, tmp_path):
  module = NFNet(
      depths=(1, 2, 1, 1), widths=(16, 24, 40, 56), stem=(2, 3, 5, 7),
      group_size=4, classes=3)
  params = jax.device_get(
      random_params(module, IMAGES, method='classify'))
  write_safetensors(tmp_path / 'model.safetensors', layouts.write_params(
      params, nfnet.nfnet_rules(module, ours='', classifier=True)))
  loaded, got, info = nfnet.load_nfnet(
      tmp_path, conventions=DEEPMIND, final_conv=final_conv,
      classifier=classifier, image_size=65)
  assert loaded == module.clone(final_conv=final_conv)
  assert (info.features, info.width) == (9, 112 if final_conv else 56)
  if not classifier:
    del params['classifier']
    if not final_conv:
      del params['final']
  assert_same(got, params)
  with pytest.raises(ValueError, match='none of F0 to F6'):
    nfnet.load_nfnet(tmp_path)
