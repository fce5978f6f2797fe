"""CLIP, SigLIP, IDEFICS' eyes: the original classes and ours, same weights."""

import functools
import json

import agreement
from flamingo.data import images as images_lib
from flamingo.model.vision.vit import ViT
from flamingo.pretrained import vision, vit, vit_config
from flamingo.pretrained import layouts
from flamingo.pretrained.formats import Stored, write_safetensors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='parity: make parity')
transformers = pytest.importorskip('transformers')

SMALL = 1e-5  # features are of the order of 1

SIZES = dict(
    hidden_size=12, intermediate_size=17, num_hidden_layers=3,
    num_attention_heads=3, image_size=23, patch_size=5)


def shake(model, seed=0):
  """Draws every parameter anew, so that none is what it starts from."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      if parameter.ndim > 1 and 'embedding' not in name:
        noise = noise / parameter[0].numel() ** 0.5
      else:
        noise = 0.3 * noise
      norm = 'norm' in name and name.endswith('weight')
      parameter.copy_(noise + 1 if norm else noise)
  return model.eval()


def publish(model, folder):
  """Writes a directory as Hugging Face has it."""
  model.save_pretrained(folder)
  return folder


def clip(activation='quick_gelu', **sizes):
  config = transformers.CLIPVisionConfig(
      **(SIZES | sizes), hidden_act=activation, projection_dim=7)
  return shake(transformers.CLIPVisionModelWithProjection(config))


def siglip():
  return shake(transformers.SiglipVisionModel(
      transformers.SiglipVisionConfig(**SIZES)))


def pictures(size=23):
  return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)


def scaled(images, module):
  """What the original's image processor would hand to it."""
  pixels = (images / np.float32(255) - np.asarray(module.mean, np.float32)) / (
      np.asarray(module.std, np.float32))
  return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)


def call(module, params, images, method=None):
  apply = jax.jit(
      functools.partial(module.apply, method=method),
      compiler_options={'xla_backend_optimization_level': 0})
  return np.asarray(apply({'params': params}, images))


def run_original(model, images, module, **kwargs):
  with torch.inference_mode():
    return model(
        pixel_values=scaled(images, module), output_hidden_states=True,
        **kwargs)


# In the words of Hugging Face: hidden_states[-1] is what the last layer
# returns, before `post_layernorm`.
CONVENTIONS = [
    ('all', False, lambda states, norm: states),
    ('patches', False, lambda states, norm: states[:, 1:]),
    ('all', True, lambda states, norm: norm(states)),
    ('patches', True, lambda states, norm: norm(states)[:, 1:]),
]


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
@pytest.mark.parametrize('features, final_norm, expected', CONVENTIONS)
def test_clip_features_equal_the_original_by_every_convention(
    features, final_norm, expected, activation, tmp_path):
  model = clip(activation)
  module, params, info = vision.load_vision(
      publish(model, tmp_path), features=features, final_norm=final_norm)
  states = run_original(model, pictures(), module)
  with torch.inference_mode():
    states = expected(
        states.last_hidden_state, model.vision_model.post_layernorm).numpy()
  assert states.shape[1:] == (info.features, info.width)
  agreement.close(
      call(module, params, pictures()), states, atol=SMALL)


def test_flamingo_mini_and_otter_take_the_last_hidden_state(tmp_path):
  """Both hold a CLIPVisionModel; Otter leaves out its first state."""
  model = shake(transformers.CLIPVisionModel(
      transformers.CLIPVisionConfig(**SIZES)))
  publish(model, tmp_path)
  for features, first in (('all', 0), ('patches', 1)):
    module, params, _ = vision.load_vision(tmp_path, features=features)
    expected = run_original(model, pictures(), module).last_hidden_state
    agreement.close(
        call(module, params, pictures()), expected[:, first:].numpy(),
        atol=SMALL)


def test_idefics_takes_all_states_before_the_norm():
  from transformers.models.idefics.configuration_idefics import (
      IdeficsVisionConfig)
  from transformers.models.idefics.vision import IdeficsVisionTransformer
  sizes = dict(SIZES)
  sizes['embed_dim'] = sizes.pop('hidden_size')
  config = IdeficsVisionConfig(**sizes)
  config._attn_implementation = 'eager'  # a whole IDEFICS sets it
  model = shake(IdeficsVisionTransformer(config))
  module = ViT(**vit_config.vit_config(sizes, 'idefics'))
  assert module.activation == 'gelu'
  prefix = 'model.vision_model.'
  tensors = {
      f'{prefix}{name}': Stored.of(tensor.numpy())
      for name, tensor in model.state_dict().items()}
  params, report = layouts.read_params(
      tensors, vit.vision_rules(module, prefix=prefix),
      {'vision': vit.expected_params(module, False)}, what='IDEFICS',
      ignored=vit.vision_ignored(module, prefix=prefix))
  assert len(report.unused) == 2  # the norm's
  expected = run_original(model, pictures(), module).last_hidden_state
  agreement.close(
      call(module, params['vision'], pictures()), expected.numpy(), atol=SMALL)


def test_siglip_features_and_embeddings_equal_the_original(tmp_path):
  model = siglip()
  module, params, info = vision.load_vision(
      publish(model, tmp_path), final_norm=True, embed=True)
  expected = run_original(model, pictures(), module)
  agreement.close(
      call(module, params, pictures()), expected.last_hidden_state.numpy(),
      atol=SMALL)
  agreement.close(
      call(module, params, pictures(), 'embed'),
      expected.pooler_output.numpy(), atol=SMALL)
  bare, params, _ = vision.load_vision(tmp_path)
  agreement.close(
      call(bare, params, pictures()), expected.hidden_states[-1].numpy(),
      atol=SMALL)
  assert info.features == 16 and info.fit == 'squash'


def test_clip_embeddings_equal_the_original(tmp_path):
  model = clip()
  module, params, _ = vision.load_vision(publish(model, tmp_path), embed=True)
  expected = run_original(model, pictures(), module)
  agreement.close(
      call(module, params, pictures(), 'embed'), expected.image_embeds.numpy(),
      atol=SMALL)


def test_a_tower_without_projection_embeds_as_its_pooler(tmp_path):
  model = shake(transformers.CLIPVisionModel(
      transformers.CLIPVisionConfig(**SIZES)))
  module, params, _ = vision.load_vision(publish(model, tmp_path), embed=True)
  expected = run_original(model, pictures(), module)
  agreement.close(
      call(module, params, pictures(), 'embed'),
      expected.pooler_output.numpy(), atol=SMALL)


@pytest.mark.parametrize('kind', ['clip', 'siglip'])
def test_a_whole_model_is_read_without_its_text_tower(kind, tmp_path):
  text = dict(
      hidden_size=10, intermediate_size=11, num_hidden_layers=1,
      num_attention_heads=2, vocab_size=13, max_position_embeddings=5)
  if kind == 'clip':
    config = transformers.CLIPConfig(
        text_config=text, vision_config=SIZES, projection_dim=7)
    model = shake(transformers.CLIPModel(config))
  else:
    config = transformers.SiglipConfig(
        text_config=text, vision_config=SIZES)
    model = shake(transformers.SiglipModel(config))
  module, params, _ = vision.load_vision(publish(model, tmp_path), embed=True)
  with torch.inference_mode():
    expected = model.get_image_features(scaled(pictures(), module))
  agreement.close(
      call(module, params, pictures(), 'embed'), expected.numpy(), atol=SMALL)


@pytest.mark.parametrize('size', [30, 14])
@pytest.mark.parametrize('kind', [clip, siglip])
def test_positions_are_interpolated_as_the_original_does(kind, size, tmp_path):
  model = kind()
  module, params, info = vision.load_vision(
      publish(model, tmp_path), image_size=size)
  expected = run_original(
      model, pictures(size), module, interpolate_pos_encoding=True)
  assert info.features == (size // 5) ** 2 + (kind is clip)
  agreement.close(
      call(module, params, pictures(size)),
      expected.hidden_states[-1].numpy(), atol=SMALL)


def openai_names(model):
  """The same weights as OpenAI and open_clip name them."""
  theirs = {
      'vision_model.embeddings.class_embedding': 'class_embedding',
      'vision_model.embeddings.patch_embedding.weight': 'conv1.weight',
      'vision_model.embeddings.position_embedding.weight':
          'positional_embedding'}
  pieces = [
      ('vision_model.pre_layrnorm', 'ln_pre'),
      ('vision_model.post_layernorm', 'ln_post'),
      ('vision_model.encoder.layers', 'transformer.resblocks'),
      ('layer_norm1', 'ln_1'), ('layer_norm2', 'ln_2'), ('mlp.fc1', 'mlp.c_fc'),
      ('mlp.fc2', 'mlp.c_proj'), ('self_attn.out_proj', 'attn.out_proj')]
  state = {name: x.numpy() for name, x in model.state_dict().items()}
  tensors = {'visual.proj': state.pop('visual_projection.weight').T.copy()}
  for i in range(model.config.num_hidden_layers):
    layer = f'vision_model.encoder.layers.{i}.self_attn'
    for kind in ('weight', 'bias'):
      tensors[f'visual.transformer.resblocks.{i}.attn.in_proj_{kind}'] = (
          np.concatenate(
              [state.pop(f'{layer}.{part}_proj.{kind}') for part in 'qkv']))
  for name, tensor in state.items():
    if name in theirs:
      name = theirs[name]
    for old, new in pieces:
      name = name.replace(old, new)
    tensors[f'visual.{name}'] = tensor
  return tensors


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
def test_open_clip_names_give_the_same_features(activation, tmp_path):
  # Of a real CLIP is the width of a head, which no tensor tells.
  model = clip(
      activation, hidden_size=128, num_attention_heads=2, image_size=25)
  path = tmp_path / 'weights.safetensors'
  text = {
      'positional_embedding': np.zeros((5, 6), np.float32),
      'transformer.resblocks.0.ln_1.weight': np.zeros(6, np.float32),
      'token_embedding.weight': np.zeros((7, 6), np.float32),
      'logit_scale': np.zeros((), np.float32)}
  write_safetensors(path, (openai_names(model) | text).items())
  module, params, info = vision.load_vision(
      path, features='patches', activation=activation, embed=True)
  assert module.heads == 2 and info.fit == 'crop'
  expected = run_original(model, pictures(25), module)
  agreement.close(
      call(module, params, pictures(25)),
      expected.last_hidden_state[:, 1:].numpy(), atol=SMALL)
  agreement.close(
      call(module, params, pictures(25), 'embed'),
      expected.image_embeds.numpy(), atol=SMALL)


def test_an_open_clip_directory_says_what_tensors_do_not(tmp_path):
  model = clip('gelu', image_size=25)
  write_safetensors(
      tmp_path / 'open_clip_model.safetensors', openai_names(model).items())
  (tmp_path / 'open_clip_pytorch_model.bin').write_bytes(b'not looked at')
  scaling = dict(mean=[.4, .5, .6], std=[.3, .2, .1], resize_mode='squash')
  (tmp_path / 'open_clip_config.json').write_text(json.dumps(dict(
      model_cfg=dict(vision_cfg=dict(head_width=4)), preprocess_cfg=scaling)))
  module, params, info = vision.load_vision(tmp_path)
  assert (module.heads, module.activation) == (3, 'gelu')
  assert module.mean == (.4, .5, .6) and info.fit == 'squash'
  expected = run_original(model, pictures(25), module)
  agreement.close(
      call(module, params, pictures(25)), expected.last_hidden_state.numpy(),
      atol=SMALL)


def test_reading_and_writing_give_the_same_bits(tmp_path):
  for style, tensors in (
      ('hf', {k: v.numpy() for k, v in clip(image_size=25).state_dict().items()
              if 'position_ids' not in k}),
      ('open_clip', openai_names(clip(image_size=25)))):
    module = ViT(**vit_config.vit_config(
        SIZES | {'image_size': 25}, 'clip'), embed_width=7)
    rules = vit.vision_rules(module, style, ours='', embed=True)
    params, _ = layouts.read_params(
        {name: Stored.of(x) for name, x in tensors.items()}, rules,
        vit.expected_params(module, True), what='tower')
    written = dict(layouts.write_params(params, rules))
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
      np.testing.assert_array_equal(written[name].read(), tensor)


@pytest.mark.parametrize('height, width', [
    (37, 64), (64, 37), (23, 23), (9, 31)])
def test_pictures_are_cropped_and_squashed_as_the_processors_do(height, width):
  image = np.random.default_rng(0).integers(
      0, 256, (height, width, 3), np.uint8)
  raw = dict(do_rescale=False, do_normalize=False)
  crop = transformers.CLIPImageProcessor(
      size={'shortest_edge': 23}, crop_size=23, **raw)
  squash = transformers.SiglipImageProcessor(
      size={'height': 23, 'width': 23}, **raw)
  for fit, processor in (('crop', crop), ('squash', squash)):
    expected = processor(image, input_data_format='channels_last')
    np.testing.assert_array_equal(
        images_lib.Preprocess(23, fit)(image),
        np.moveaxis(expected['pixel_values'][0], 0, -1))


def test_normalised_pixels_are_those_of_the_processor():
  from flamingo.model.vision import pixels
  processor = transformers.CLIPImageProcessor(
      size={'shortest_edge': 23}, crop_size=23)
  expected = processor(list(pictures()), return_tensors='np')['pixel_values']
  got = pixels.normalise(
      jnp.asarray(pictures()), pixels.CLIP_MEAN, pixels.CLIP_STD)
  agreement.close(
      got, np.moveaxis(expected, 1, -1), atol=1e-6)
