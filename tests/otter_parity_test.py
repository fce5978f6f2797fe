"""Otter: OpenFlamingo's classes with Otter's names, saved as Otter saves.

There is no package of Otter. Its model is OpenFlamingo's with layers named
otherwise and embeddings of frames, so the original is put together from
open-flamingo's modules, and the tensors renamed.
"""

import json
import re
import sys
import types

from flamingo.data.tags import Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained import formats
from flamingo.pretrained.load import load
import jax
import numpy as np
import pytest

import ragged

torch = pytest.importorskip('torch', reason='parity: make parity')
transformers = pytest.importorskip('transformers')
sys.modules.setdefault('open_clip', types.ModuleType('open_clip'))
of = pytest.importorskip('open_flamingo.src.flamingo')
flamingo_lm = pytest.importorskip('open_flamingo.src.flamingo_lm')
helpers = pytest.importorskip('open_flamingo.src.helpers')
utils = pytest.importorskip('open_flamingo.src.utils')

VOCAB, SIDE = 259, 28
EOC, IMAGE, ANSWER, PAD = range(VOCAB, VOCAB + 4)
LMS = {
    'llama': (transformers.LlamaConfig(
        vocab_size=VOCAB + 4, hidden_size=24, intermediate_size=40,
        num_hidden_layers=4, num_attention_heads=3), 'model.layers'),
    # Its embedding keeps rows of no token behind the new ones.
    'mpt': (transformers.MptConfig(
        vocab_size=VOCAB + 9, d_model=24, n_heads=3, n_layers=4),
            'transformer.blocks'),
}


class Otter(of.Flamingo):
  """OpenFlamingo that takes clips, for want of Otter's own class."""

  def _encode_vision_x(self, vision_x):
    b, images, frames = vision_x.shape[:3]
    features = self.vision_encoder(
        vision_x.flatten(0, 2)).last_hidden_state[:, 1:]
    latents = self.perceiver(features.unflatten(0, (b, images, frames)))
    for layer in self.lang_encoder._get_decoder_layers():
      layer.condition_vis_x(latents)


def original(family, every, frames):
  config, layers = LMS[family]
  lm = transformers.AutoModelForCausalLM.from_config(config)
  lm.set_attn_implementation('eager')
  utils.extend_instance(lm, flamingo_lm.FlamingoLMMixin)
  lm.set_decoder_layers_attr_name(layers)
  clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
      hidden_size=16, intermediate_size=20, num_hidden_layers=1,
      num_attention_heads=2, image_size=SIDE, patch_size=7))
  model = Otter(
      types.SimpleNamespace(visual=clip), lm, EOC, IMAGE, vis_dim=16,
      cross_attn_every_n_layers=every)
  model.perceiver = helpers.PerceiverResampler(
      dim=16, depth=2, num_latents=7, max_num_frames=frames)
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      if parameter.ndim > 1 and 'latents' not in name and 'emb' not in name:
        noise = noise / parameter[0].numel() ** 0.5
      elif 'norm' in name and name.endswith('weight'):
        noise = 1 + 0.3 * noise
      parameter.copy_(noise)
  return model.eval()


def otters(name):
  """Its name of OpenFlamingo's tensor."""
  name = re.sub(r'^(perceiver\.layers\.\d+)\.0\.', r'\1.', name)
  name = re.sub(r'^(perceiver\.layers\.\d+)\.1\.', r'\1.feed_forward.', name)
  return name.replace('layer.ff.', 'layer.feed_forward.')


def write(model, family, every, path, kind='otter', rename=otters):
  # Each tensor by one name. MPT's output is its embedding.
  second = 'old_decoder_blocks|gated_cross_attn_layers'
  if family == 'mpt':
    second += '|lm_head'
  tensors = {
      rename(name): x.numpy() for name, x in model.state_dict().items()
      if not re.search(second, name)}
  formats.write_safetensors(
      path, tensors.items(), max_shard_bytes=30_000, metadata={'format': 'pt'})
  config = dict(
      model_type=kind, cross_attn_every_n_layers=every,
      only_attend_previous=True, use_media_placement_augmentation=True,
      text_config=LMS[family][0].to_dict(),
      vision_config=model.vision_encoder.config.to_dict())
  (path / 'config.json').write_text(json.dumps(config))
  Tokenizer.bytes(Tags(new_tokens=(), eoc=None)).save(path)
  # Llama's and MPT's tokenizers have no token for padding.
  settings = json.loads((path / 'tokenizer_config.json').read_text())
  settings['pad_token'] = None
  (path / 'tokenizer_config.json').write_text(json.dumps(settings))


def original_logits(model, batch):
  with torch.no_grad():
    return model(
        torch.from_numpy(batch.pixels), torch.from_numpy(batch.tokens),
        torch.from_numpy(batch.valid).long()).logits.numpy()


@pytest.mark.parametrize('family, every, frames', [
    ('llama', 4, None), ('llama', 2, 3), ('mpt', 2, None)])
def test_logits_are_the_originals(tmp_path, quick_jit, family, every, frames):
  model = original(family, every, frames)
  write(model, family, every, tmp_path)
  loaded = load(tmp_path, progress=False)
  inputs = ragged.batch(
      SIDE, words=256, pad=PAD, image=IMAGE, eoc=EOC, frames=frames or 1)
  came = ragged.logits(loaded, inputs, quick_jit)
  ragged.close(came, original_logits(model, inputs), inputs)
  tokenizer = loaded.tokenizer
  assert tokenizer.image_ids == (IMAGE,)
  assert (tokenizer.eoc_id, tokenizer.pad_id) == (EOC, PAD)
  assert loaded.vision.fit == 'crop' and loaded.vision.features == 16


def test_the_embedding_of_an_image_is_the_originals(tmp_path):
  model = original('mpt', 2, None)
  write(model, 'mpt', 2, tmp_path)
  loaded = load(tmp_path, progress=False)
  inputs = ragged.batch(
      SIDE, words=256, pad=PAD, image=IMAGE, eoc=EOC)
  with torch.no_grad():
    expected = model.vision_encoder(
        torch.from_numpy(inputs.pixels[0]).flatten(0, 1)).pooler_output.numpy()
  assert expected.std() > 0.5
  np.testing.assert_allclose(
      ragged.embeddings(loaded, inputs), expected, atol=1e-4)


def test_an_openflamingo_whole_in_one_directory_is_read(tmp_path):
  model = original('mpt', 2, None)
  trees = []
  for i, rename in enumerate((otters, lambda name: name)):
    path = tmp_path / str(i)
    write(model, 'mpt', 2, path, kind='flamingo', rename=rename)
    loaded = load(path, progress=False)
    assert loaded.tokenizer.new_tokens == (
        '<|endofchunk|>', '<image>', '<PAD>')
    assert loaded.model.new_tokens == 9  # rows
    trees.append(loaded.params)
  jax.tree.map(np.testing.assert_array_equal, *trees)


def test_a_config_of_another_interval_names_what_does_not_fit(tmp_path):
  write(original('llama', 4, None), 'llama', 2, tmp_path)
  with pytest.raises(
      ValueError, match=r'gated blocks at 3: every=4, offset=3; the model was '
      r'built with every=2, offset=1, .*\.layers\.1\.gated_cross_attn_layer'
      r'\.attn_gate: expected \(1,\), came nothing\. Build'):
    load(tmp_path, progress=False)
