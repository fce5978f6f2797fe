"""OpenFlamingo: the original classes and ours, with the same weights."""

import sys
import types

import agreement
from flamingo.data.tags import Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import families
from flamingo.pretrained import layouts
from flamingo.pretrained import openflamingo
from flamingo.pretrained import openflamingo_rules
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.load import load
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ragged

torch = pytest.importorskip('torch', reason='parity: make parity')
safetensors = pytest.importorskip('safetensors.torch')
transformers = pytest.importorskip('transformers')
# The factory and the trainer ask for them, what is used here does not.
for name in ('open_clip', 'wandb'):
  sys.modules.setdefault(name, types.ModuleType(name))
of = pytest.importorskip('open_flamingo.src.flamingo')
flamingo_lm = pytest.importorskip('open_flamingo.src.flamingo_lm')
helpers = pytest.importorskip('open_flamingo.src.helpers')
utils = pytest.importorskip('open_flamingo.src.utils')
train_utils = pytest.importorskip('open_flamingo.train.train_utils')



def shake(module, seed=0):
  """Draws every parameter anew, so that none is what it starts from."""
  rng = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in module.named_parameters():
      noise = torch.randn(parameter.shape, generator=rng)
      if parameter.ndim > 1 and 'latents' not in name and 'emb' not in name:
        noise = noise / parameter.shape[-1] ** 0.5
      elif name.endswith('weight'):
        noise = 1 + 0.3 * noise  # of a norm
      parameter.copy_(noise)
  return module.eval()


def stored(module):
  return {
      name: Stored.of(tensor.detach().numpy())
      for name, tensor in module.state_dict().items()}


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_resampler_is_the_originals(run, random_params):
  theirs = shake(helpers.PerceiverResampler(
      dim=24, depth=3, dim_head=8, heads=5, num_latents=7, max_num_frames=3))
  ours = PerceiverResampler(
      visual_width=24, width=24, layers=3, latents=7, heads=5, head_dim=8,
      activation='gelu', frames=3)
  visual = draw(2, 3, 3, 11, 24)  # B N T S C
  rules = openflamingo_rules.resampler_rules(3, theirs='x', frames=True)
  params, _ = layouts.read_params(
      {f'x.{name}': x for name, x in stored(theirs).items()}, rules,
      {'resampler': random_params(ours, jnp.asarray(visual[0]))}, what='test')
  expected = theirs(torch.from_numpy(visual)).detach().numpy()
  for images, latents in zip(visual, expected):
    agreement.close(
        run(ours, params['resampler'], images), latents, atol=1e-5)


@pytest.mark.parametrize('sees', ['last', 'all'])
def test_a_gated_block_is_the_originals(run, random_params, sees):
  theirs = shake(helpers.GatedCrossAttentionBlock(
      dim=20, dim_visual=12, dim_head=8, heads=5,
      only_attend_immediate_media=sees == 'last'))
  ours = GatedCrossAttention(
      width=20, visual_width=12, heads=5, head_dim=8, ff_hidden=80,
      activation='gelu', norm_visual=False, sees=sees)
  y, latents = draw(2, 13, 20), draw(2, 3, 7, 12, seed=1)
  tags = np.zeros((2, 13), bool)
  # OpenFlamingo shows text before any image every image if it sees all.
  tags[0, [0 if sees == 'all' else 2, 5, 6]] = True
  tags[1, [0, 11]] = True
  params, _ = layouts.read_params(
      {f'x.{name}': x for name, x in stored(theirs).items()},
      openflamingo_rules.block_rules('x', 'block'),
      {'block': random_params(ours, y, latents, np.cumsum(tags, 1))},
      what='test')
  expected = theirs(
      *map(torch.from_numpy, (y, latents, tags))).detach().numpy()
  came = run(ours, params['block'], y, latents, np.cumsum(tags, 1))
  agreement.close(came, expected, atol=1e-5)


# The whole model, from the files that OpenFlamingo works with.

VOCAB, SIDE = 259, 28  # tokens of the LM, pixels
LM = dict(vocab_size=264, num_hidden_layers=5, num_attention_heads=3)  # padded
FAMILIES = {
    'opt': lambda: transformers.OPTConfig(
        **LM, hidden_size=24, ffn_dim=40, word_embed_proj_dim=24,
        max_position_embeddings=64),
    # RedPajama-INCITE: everything rotates, and one half follows the other.
    'gpt_neox': lambda: transformers.GPTNeoXConfig(
        **LM, hidden_size=24, intermediate_size=40, rotary_pct=1.0,
        use_parallel_residual=False),
    'llama': lambda: transformers.LlamaConfig(
        **LM, hidden_size=24, intermediate_size=40),
    'mpt': lambda: transformers.MptConfig(
        vocab_size=264, d_model=24, n_heads=3, n_layers=5),
}


class Tower(torch.nn.Module):
  """A CLIP as open_clip hands it out: its patches, without the last norm."""

  def __init__(self, clip):
    super().__init__()
    self.clip = clip

  def forward(self, pixels):
    return None, self.clip(pixels).last_hidden_state[:, 1:]


def original(family, every, path, new=3):
  """OpenFlamingo, and directories of the LM and the CLIP it is made of."""
  lm = shake(transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()))
  lm.save_pretrained(path / 'lm')
  Tokenizer.bytes(Tags(new_tokens=(), eoc=None)).save(path / 'lm')
  clip = shake(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
      hidden_size=16, intermediate_size=20, num_hidden_layers=1,
      num_attention_heads=2, image_size=SIDE, patch_size=7)), seed=1)
  clip.save_pretrained(path / 'clip')

  lm.set_attn_implementation('eager')
  utils.extend_instance(lm, flamingo_lm.FlamingoLMMixin)
  layers = {'opt': 'model.decoder.layers', 'gpt_neox': 'gpt_neox.layers',
            'llama': 'model.layers', 'mpt': 'transformer.blocks'}
  lm.set_decoder_layers_attr_name(layers[family])
  lm.resize_token_embeddings(VOCAB + new)
  model = of.Flamingo(
      types.SimpleNamespace(visual=Tower(clip)), lm, VOCAB, VOCAB + 1,
      vis_dim=16, cross_attn_every_n_layers=every)
  # As the factory does.
  model.requires_grad_(False)
  model.perceiver.requires_grad_(True)
  model.lang_encoder.gated_cross_attn_layers.requires_grad_(True)
  model.lang_encoder.get_input_embeddings().requires_grad_(True)
  shake(model.perceiver, seed=2)
  shake(model.lang_encoder.gated_cross_attn_layers, seed=3)
  with torch.no_grad():
    for embedding in (lm.get_output_embeddings(), lm.get_input_embeddings()):
      embedding.weight[VOCAB:] = torch.randn(
          embedding.weight[VOCAB:].shape,
          generator=torch.Generator().manual_seed(4))
    if family == 'llama':
      # It does not train these rows, and does not save them either.
      lm.lm_head.weight[VOCAB:] = 0
  return model.eval()


def release(model, path):
  """Writes what OpenFlamingo releases, the way it does it."""
  trained = train_utils.filter_state_dict_to_trainable(
      model, model.state_dict())
  torch.save(trained, path / 'checkpoint.pt')
  return path / 'checkpoint.pt'


def original_logits(model, batch):
  with torch.no_grad():
    return model(  # it counts the tags itself
        torch.from_numpy(batch.pixels), torch.from_numpy(batch.tokens),
        torch.from_numpy(batch.valid).long()).logits.numpy()


@pytest.mark.parametrize('every', [1, 2, 4])
@pytest.mark.parametrize('family', FAMILIES)
def test_logits_are_the_originals(tmp_path, quick_jit, family, every):
  model = original(family, every, tmp_path)
  loaded = load(
      release(model, tmp_path), lm=tmp_path / 'lm', vision=tmp_path / 'clip',
      progress=False)
  assert (loaded.model.every, loaded.model.offset) == (every, every - 1)
  inputs = ragged.batch(
      SIDE, words=256, pad=VOCAB + 2, image=VOCAB + 1, eoc=VOCAB)
  came = ragged.logits(loaded, inputs, quick_jit)
  ragged.close(came, original_logits(model, inputs), inputs)


@pytest.mark.parametrize('wrap', [False, True])
def test_what_the_trainer_saves_is_read(tmp_path, wrap):
  model = original('mpt', 4, tmp_path, new=2)
  trained = train_utils.filter_state_dict_to_trainable(
      model, model.state_dict())
  module = 'module.' if wrap else ''  # of DistributedDataParallel
  torch.save(dict(
      epoch=3, optimizer_state_dict={'state': {}, 'param_groups': []},
      model_state_dict={module + name: x for name, x in trained.items()},
  ), tmp_path / 'checkpoint_3.pt')
  parts = dict(lm=tmp_path / 'lm', vision=tmp_path / 'clip', progress=False)
  loaded = load(tmp_path / 'checkpoint_3.pt', **parts)
  again = load(release(model, tmp_path), **parts)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, again.params)


@pytest.mark.parametrize('family', ['gpt_neox', 'mpt'])
def test_what_is_written_is_read_by_the_original(tmp_path, family):
  model = original(family, 2, tmp_path)
  released = release(model, tmp_path)
  loaded = load(
      released, lm=tmp_path / 'lm', vision=tmp_path / 'clip', progress=False)
  path = tmp_path / 'ours.safetensors'
  openflamingo.save(
      path, loaded.model, loaded.params, families.FAMILIES[family])
  ours = safetensors.load_file(path)
  theirs = torch.load(released)
  # transformers gives MPT's embedding a second name; its own code does not.
  theirs.pop('lang_encoder.lm_head.weight', None)
  assert ours.keys() == theirs.keys()
  for name, tensor in theirs.items():
    assert torch.equal(ours[name], tensor), name
  came = model.load_state_dict(ours, strict=False)
  assert not came.unexpected_keys
