"""flamingo-mini: its modules, written anew from what they compute, and ours.

There is no package of flamingo-mini that runs here. `MiniBlock` and
`MiniResampler` are the reference, around the CLIP, GPT-2 and OPT of
transformers; their names of parameters are flamingo-mini's.
"""

import json

from flamingo.data.tags import Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained.load import load
import jax
import numpy as np
import pytest

import ragged

torch = pytest.importorskip('torch', reason='parity: make parity')
transformers = pytest.importorskip('transformers')

VOCAB, ROWS, SIDE = 259, 264, 28  # tokens and rows of the LM, pixels
EOC = VOCAB
WIDTH, VISUAL, LATENTS, HEADS, HEAD = 24, 16, 7, 3, 10

nn = torch.nn


class SquaredReLU(nn.Module):

  def forward(self, x):
    return nn.functional.relu(x).square()


def feed_forward(width, activation):
  return nn.Sequential(
      nn.LayerNorm(width), nn.Linear(width, 4 * width, bias=False), activation,
      nn.Linear(4 * width, width, bias=False))


def attention(query, key, value, mask=None):
  """Of [B L H*d] on [B M H*d]; a query that may see nothing gets zero."""
  query, key, value = (
      x.unflatten(-1, (HEADS, HEAD)).transpose(1, 2)
      for x in (query, key, value))
  scores = query @ key.transpose(-1, -2) / HEAD**0.5
  if mask is None:
    weights = scores.softmax(-1)
  else:
    mask = mask[:, None]
    weights = scores.masked_fill(~mask, -1e30).softmax(-1) * mask
  return (weights @ value).transpose(1, 2).flatten(2)


class MiniAttention(nn.Module):
  """Latents look at features and at themselves."""

  def __init__(self):
    super().__init__()
    self.norm_media, self.norm_latents = nn.LayerNorm(VISUAL), nn.LayerNorm(
        VISUAL)
    linear = lambda: nn.Linear(VISUAL, HEADS * HEAD, bias=False)
    self.to_q, self.to_k, self.to_v = linear(), linear(), linear()
    self.to_out = nn.Linear(HEADS * HEAD, VISUAL, bias=False)

  def forward(self, features, latents):
    latents = self.norm_latents(latents)
    both = torch.cat([self.norm_media(features), latents], 1)
    return self.to_out(attention(
        self.to_q(latents), self.to_k(both), self.to_v(both)))


class MiniResampler(nn.Module):
  """Frames get an embedding of their time, and become one set of latents."""

  def __init__(self, depth, frames):
    super().__init__()
    self.latents = nn.Parameter(torch.zeros(LATENTS, VISUAL))
    self.time_pos_emb = nn.Parameter(torch.zeros(frames, 1, VISUAL))
    self.layers = nn.ModuleList([
        nn.ModuleList([MiniAttention(), feed_forward(VISUAL, nn.GELU())])
        for _ in range(depth)])
    self.norm = nn.LayerNorm(VISUAL)

  def forward(self, features):  # [B T S C]
    features = features + self.time_pos_emb[:features.shape[1]]
    x = self.latents.expand(len(features), -1, -1)
    for attend, think in self.layers:
      x = x + attend(features.flatten(1, 2), x)
      x = x + think(x)
    return self.norm(x)


class MiniCrossAttention(nn.Module):

  def __init__(self):
    super().__init__()
    self.norm = nn.LayerNorm(WIDTH)
    self.to_q = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
    self.to_kv = nn.Linear(VISUAL, 2 * HEADS * HEAD, bias=False)
    self.to_out = nn.Linear(HEADS * HEAD, WIDTH, bias=False)

  def forward(self, y, latents, index):
    images = 1 + torch.arange(latents.shape[1]).repeat_interleave(LATENTS)
    key, value = self.to_kv(latents.flatten(1, 2)).chunk(2, -1)
    return self.to_out(attention(
        self.to_q(self.norm(y)), key, value,
        index[:, :, None] == images[None, None]))


class MiniBlock(nn.Module):

  def __init__(self):
    super().__init__()
    self.attn = MiniCrossAttention()
    self.alpha_attn = nn.Parameter(torch.zeros(1))
    self.ffw = feed_forward(WIDTH, SquaredReLU())
    self.alpha_ffw = nn.Parameter(torch.zeros(1))

  def forward(self, y, latents, index):
    y = y + self.alpha_attn.tanh() * self.attn(y, latents, index)
    return y + self.alpha_ffw.tanh() * self.ffw(y)


class MiniLayer(nn.Module):
  """A layer of the language model behind a gated block."""

  def __init__(self, layer):
    super().__init__()
    self.xattn_block, self.lm_block = MiniBlock(), layer

  def forward(self, hidden_states, *args, **kwargs):
    return self.lm_block(
        self.xattn_block(hidden_states, *self.seen), *args, **kwargs)


LMS = {
    'gpt2': (
        transformers.GPT2Config(
            vocab_size=ROWS, n_embd=WIDTH, n_layer=5, n_head=3, n_positions=40),
        lambda lm: (lm.transformer, lm.transformer.h)),
    'facebook/opt-125m': (
        transformers.OPTConfig(
            vocab_size=ROWS, hidden_size=WIDTH, ffn_dim=40, num_hidden_layers=5,
            num_attention_heads=3, max_position_embeddings=40,
            word_embed_proj_dim=WIDTH),
        lambda lm: (lm.model, lm.model.decoder.layers)),
}


class Mini(nn.Module):

  def __init__(self, lm, every, path):
    super().__init__()
    config, parts = LMS[lm]
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.set_attn_implementation('eager')
    config.save_pretrained(path)
    model.resize_token_embeddings(ROWS + 1)
    self.vision_encoder = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=VISUAL, intermediate_size=20, num_hidden_layers=1,
            num_attention_heads=2, image_size=SIDE, patch_size=7))
    self.resampler = MiniResampler(depth=2, frames=4)
    self.lm, layers = parts(model)
    self.lm_head = model.lm_head
    self.gated = range(0, len(layers), every)
    for i in self.gated:
      layers[i] = MiniLayer(layers[i])
    self._layers = [layers[i] for i in self.gated]

  @torch.no_grad()
  def forward(self, batch):
    pixels = torch.from_numpy(batch.pixels)
    features = self.vision_encoder(pixels.flatten(0, 2)).last_hidden_state
    latents = self.resampler(
        features.unflatten(0, (-1, pixels.shape[2]))).unflatten(
            0, pixels.shape[:2])
    for layer in self._layers:
      layer.seen = latents, torch.from_numpy(batch.image_index)
    valid = torch.from_numpy(batch.valid).long()
    positions = {} if hasattr(self.lm, 'decoder') else dict(
        position_ids=(valid.cumsum(1) - 1).clamp(min=0))
    return self.lm_head(self.lm(
        torch.from_numpy(batch.tokens), attention_mask=valid,
        **positions).last_hidden_state).numpy()


def original(lm, every, path):
  (path / 'lm').mkdir()
  model = Mini(lm, every, path / 'lm')
  Tokenizer.bytes(Tags(new_tokens=(), eoc=None)).save(path / 'lm')
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      table = any(x in name for x in ('latents', 'emb', 'wte', 'wpe'))
      if parameter.ndim > 1 and not table:
        noise = noise / max(parameter.shape) ** 0.5
      elif 'alpha' not in name:
        noise = 0.3 * noise + (
            parameter.ndim == 1 and name.endswith('weight'))
      parameter.copy_(noise)
  return model.eval()


def write(model, lm, every, path, vision=True):
  tensors = {
      f'flamingo.{name}': x for name, x in model.state_dict().items()
      if vision or not name.startswith('vision_encoder.')}
  torch.save(tensors, path / 'pytorch_model.bin')
  (path / 'config.json').write_text(json.dumps(dict(
      lm=lm, clip_model_type='openai/clip-vit-base-patch32', dim=WIDTH,
      dim_visual=VISUAL, xattn_every=every, xattn_dim_head=HEAD,
      xattn_heads=HEADS, xattn_act='sqrelu', resampler_depth=2,
      resampler_dim_head=HEAD, resampler_heads=HEADS,
      resampler_num_latents=LATENTS)))
  model.vision_encoder.save_pretrained(path / 'clip')


@pytest.mark.parametrize('lm, every', [
    ('gpt2', 1), ('gpt2', 2), ('facebook/opt-125m', 2)])
@pytest.mark.parametrize('frames', [1, 3])
def test_logits_are_the_originals(tmp_path, quick_jit, lm, every, frames):
  model = original(lm, every, tmp_path)
  write(model, lm, every, tmp_path)
  loaded = load(
      tmp_path, lm=tmp_path / 'lm', vision=tmp_path / 'clip', progress=False)
  # `<image>` is plain text: no id of its own stands in the batch.
  inputs = ragged.batch(SIDE, words=256, pad=257, eoc=EOC, frames=frames)
  came = ragged.logits(loaded, inputs, quick_jit)
  ragged.close(came, model(inputs), inputs)
  assert came.shape[-1] == ROWS + 1
  assert loaded.tokenizer.eoc_id == EOC
  assert loaded.tokenizer.image_ids == tuple(b'<image>')
  assert loaded.vision.features == 17


@pytest.mark.parametrize('vision', [True, False])
def test_the_embedding_of_an_image_is_the_originals(tmp_path, vision):
  """Of a CLIP in the file, and of one beside it."""
  model = original('gpt2', 2, tmp_path)
  write(model, 'gpt2', 2, tmp_path, vision=vision)
  loaded = load(
      tmp_path, lm=tmp_path / 'lm', vision=tmp_path / 'clip', progress=False)
  inputs = ragged.batch(SIDE, words=256, pad=257, eoc=EOC)
  with torch.no_grad():
    expected = model.vision_encoder(
        torch.from_numpy(inputs.pixels[0]).flatten(0, 1)).pooler_output.numpy()
  assert expected.std() > 0.5
  np.testing.assert_allclose(
      ragged.embeddings(loaded, inputs), expected, atol=1e-4)


def test_its_clip_may_be_elsewhere(tmp_path):
  model = original('gpt2', 2, tmp_path)
  parts = dict(lm=tmp_path / 'lm', vision=tmp_path / 'clip', progress=False)
  write(model, 'gpt2', 2, tmp_path)
  whole = load(tmp_path, **parts)
  write(model, 'gpt2', 2, tmp_path, vision=False)
  apart = load(tmp_path, **parts)
  jax.tree.map(np.testing.assert_array_equal, apart.params, whole.params)
  assert len(apart.report.loaded) == len(whole.report.loaded)
  with pytest.raises(ValueError, match='does not hold its CLIP, .*vision=PATH'):
    load(tmp_path, lm=tmp_path / 'lm', progress=False)


def test_what_its_config_does_not_say_is_asked_for(tmp_path):
  write(original('gpt2', 2, tmp_path), 'gpt2', 2, tmp_path)
  with pytest.raises(ValueError, match="'gpt2', and not its sizes. Pass lm="):
    load(tmp_path, progress=False)
  config = json.loads((tmp_path / 'config.json').read_text())
  for changes, message in (
      (dict(dim=99), 'dim = 99, and the language model is 24 wide'),
      (dict(xattn_every=1),
       r'has gated blocks at 0, 2, 4: every=2, offset=0; the model was built '
       r'with every=1, offset=0, .*flamingo\.lm\.h\.1\.xattn_block\.alpha_attn'
       r': expected \(1,\), came nothing\. Build the model with every=2')):
    (tmp_path / 'config.json').write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=message):
      load(
          tmp_path, lm=tmp_path / 'lm', vision=tmp_path / 'clip',
          progress=False)


def test_a_file_without_gated_blocks_is_none(tmp_path):
  model = original('gpt2', 2, tmp_path)
  write(model, 'gpt2', 2, tmp_path)
  tensors = {
      f'flamingo.{name}': x for name, x in model.state_dict().items()
      if 'xattn' not in name}
  torch.save(tensors, tmp_path / 'pytorch_model.bin')
  with pytest.raises(ValueError, match='has no gated blocks'):
    load(
        tmp_path, lm=tmp_path / 'lm', vision=tmp_path / 'clip', progress=False)
