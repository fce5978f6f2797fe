"""IDEFICS: the original class and ours, from the directory that it saves."""

from flamingo.data.tags import Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained import formats
from flamingo.pretrained import idefics
from flamingo.pretrained.load import load
import numpy as np
import pytest

import ragged

torch = pytest.importorskip('torch', reason='parity: make parity')
transformers = pytest.importorskip('transformers', reason='parity: make parity')

SIDE, VOCAB = 28, 259
CONFIG = dict(
    vocab_size=VOCAB, additional_vocab_size=2, hidden_size=24,
    intermediate_size=28, num_hidden_layers=4, num_attention_heads=3,
    cross_layer_interval=2, qk_layer_norms=True, use_resampler=True,
    rms_norm_eps=1e-3, pad_token_id=258, vision_config=dict(
        embed_dim=20, image_size=SIDE, intermediate_size=28, patch_size=7,
        num_attention_heads=2, num_hidden_layers=2),
    perceiver_config=dict(
        resampler_depth=2, resampler_head_dim=6, resampler_n_heads=3,
        resampler_n_latents=5, qk_layer_norms_perceiver=True))

VARIANTS = {
    '9b': {},
    'no perceiver': dict(use_resampler=False),
    'a gate a channel': dict(alpha_type='vector'),
    'no norms of heads': dict(
        qk_layer_norms=False, cross_layer_interval=1,
        perceiver_config=CONFIG['perceiver_config'] | dict(
            qk_layer_norms_perceiver=False)),
    'every fourth': dict(cross_layer_interval=4),
    'tied': dict(tie_word_embeddings=True),
    'no new tokens': dict(additional_vocab_size=0),
}


def original(seed=0, **changes):
  """The class of transformers, with no parameter at its first value."""
  config = transformers.IdeficsConfig(**(CONFIG | changes))
  config._attn_implementation = 'eager'
  model = transformers.IdeficsForVisionText2Text(config)
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      if 'alpha' in name:
        noise = 0.5 + torch.sign(noise) * (1 + noise.abs())
      elif parameter.ndim > 1 and 'latents' not in name:
        noise = noise / parameter.shape[-1] ** 0.5
      elif parameter.ndim == 1:
        noise = 0.3 * noise + name.endswith('weight')
      parameter.copy_(noise)
  return model.eval()


def write(model, path, **kwargs):
  model.save_pretrained(path, **kwargs)
  Tokenizer.bytes(Tags(new_tokens=(), eoc=None)).save(path)
  return path


def batch(**changes):
  new = changes.get('additional_vocab_size') != 0
  return ragged.batch(
      SIDE, words=256, pad=258, image=VOCAB + 1 if new else None)


def original_logits(model, batch):
  sees = batch.image_index[:, :, None] == 1 + np.arange(batch.images.shape[1])
  with torch.no_grad():
    return model(
        input_ids=torch.from_numpy(batch.tokens),
        attention_mask=torch.from_numpy(batch.valid).long(),
        pixel_values=torch.from_numpy(batch.pixels[:, :, 0]),
        image_attention_mask=torch.from_numpy(sees).long(),
    ).logits.numpy()


@pytest.mark.parametrize('name', VARIANTS)
def test_logits_are_the_originals(tmp_path, quick_jit, name):
  changes = VARIANTS[name]
  model, inputs = original(**changes), batch(**changes)
  # Safetensors cannot hold a tensor by two names.
  tied = changes.get('tie_word_embeddings', False)
  write(model, tmp_path, safe_serialization=not tied)
  loaded = load(tmp_path, progress=False)
  came = ragged.logits(loaded, inputs, quick_jit)
  ragged.close(came, original_logits(model, inputs), inputs)


@pytest.mark.parametrize('name', ['9b', 'no perceiver', 'a gate a channel'])
def test_what_is_read_is_written_for_the_original_bit_for_bit(tmp_path, name):
  model, inputs = original(**VARIANTS[name]), batch()
  write(model, tmp_path / 'theirs', max_shard_size='50KB')
  loaded = load(tmp_path / 'theirs', progress=False)
  idefics.save(
      tmp_path / 'ours', loaded.model, loaded.params, loaded.tokenizer)
  theirs = formats.open_weights(tmp_path / 'theirs')
  ours = formats.open_weights(tmp_path / 'ours')
  assert ours.keys() == theirs.keys()
  for name, tensor in theirs.items():
    np.testing.assert_array_equal(ours[name].read(), tensor.read())
  again, about = transformers.IdeficsForVisionText2Text.from_pretrained(
      tmp_path / 'ours', attn_implementation='eager', output_loading_info=True)
  assert not any(about.values()), about
  np.testing.assert_array_equal(
      original_logits(again.eval(), inputs), original_logits(model, inputs))
