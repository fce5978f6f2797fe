"""Language models in Hugging Face directories against transformers.

Their parameters are random, and none is at the value it starts from.
"""

import functools
import json

import agreement
from flamingo import params as params_lib
from flamingo.data.spelling import byte_symbols
from flamingo.model.lm import LM
from flamingo.pretrained.lm import load_lm
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='parity: make parity')
transformers = pytest.importorskip(
    'transformers', reason='parity: make parity')

ROWS = 263  # of the embedding; the tokenizer has 257 tokens
PROMPT, NEW = 11, 7
LENGTHS = (PROMPT, 6, 2)  # of three prompts

LLAMA = dict(
    vocab_size=ROWS, hidden_size=24, intermediate_size=28, num_hidden_layers=2,
    num_attention_heads=6, num_key_value_heads=2, head_dim=10,
    rms_norm_eps=1e-5, tie_word_embeddings=False, rope_theta=100.0)
GPT2 = dict(
    vocab_size=ROWS, n_positions=31, n_embd=24, n_layer=2, n_head=3, n_inner=28)
OPT = dict(
    vocab_size=ROWS, hidden_size=24, ffn_dim=28, num_hidden_layers=2,
    num_attention_heads=3, max_position_embeddings=31, word_embed_proj_dim=24)
NEOX = dict(
    vocab_size=ROWS, hidden_size=32, intermediate_size=28, num_hidden_layers=2,
    num_attention_heads=2, rotary_emb_base=100)
MPT = dict(vocab_size=ROWS, d_model=24, n_layers=2, n_heads=4)
# Layers 2 and 4 of 5 see everything.
GEMMA = dict(
    vocab_size=ROWS, hidden_size=20, intermediate_size=28, num_hidden_layers=5,
    num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    query_pre_attn_scalar=17, sliding_window=4, sliding_window_pattern=2,
    rope_theta=300.0, rope_local_base_freq=20.0)
LLAMA3_ROPE = dict(
    rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32)


def llama(**kwargs):
  return transformers.LlamaForCausalLM(
      transformers.LlamaConfig(**(LLAMA | kwargs)))


def mistral():
  return transformers.MistralForCausalLM(
      transformers.MistralConfig(**LLAMA, sliding_window=5))


def gpt2(**kwargs):
  return transformers.GPT2LMHeadModel(
      transformers.GPT2Config(**(GPT2 | kwargs)))


def opt(**kwargs):
  return transformers.OPTForCausalLM(transformers.OPTConfig(**(OPT | kwargs)))


def gpt_neox(**kwargs):
  return transformers.GPTNeoXForCausalLM(
      transformers.GPTNeoXConfig(**(NEOX | kwargs)))


def mpt(clip_qkv=None, **kwargs):
  return transformers.MptForCausalLM(transformers.MptConfig(
      **(MPT | kwargs), attn_config=dict(clip_qkv=clip_qkv)))


def gemma3(**kwargs):
  return transformers.Gemma3ForCausalLM(
      transformers.Gemma3TextConfig(**(GEMMA | kwargs)))


def gemma3_with_vision():
  return transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(
      text_config=GEMMA, vision_config=dict(
          hidden_size=8, intermediate_size=8, num_hidden_layers=1,
          num_attention_heads=1, image_size=28, patch_size=14)))


class NormedHeads(torch.nn.Module):
  """MPT's fused projection, with norms over all of a token's queries and keys.

  As in mpt-1b-redpajama-200b, which transformers has not.
  """

  def __init__(self, linear, width):
    super().__init__()
    self.linear = linear
    self.q_ln = torch.nn.LayerNorm(width, bias=False)
    self.k_ln = torch.nn.LayerNorm(width, bias=False)

  def forward(self, x):
    query, key, value = self.linear(x).chunk(3, dim=-1)
    return torch.cat([self.q_ln(query), self.k_ln(key), value], dim=-1)


def mosaic_gpt():
  model = mpt()
  for block in model.transformer.blocks:
    block.attn.Wqkv = NormedHeads(block.attn.Wqkv, MPT['d_model'])
  return model


def save_mosaic_gpt(model, directory):
  """Saves by the names and with the config of mpt-1b-redpajama-200b."""
  tensors = {}
  for name, tensor in model.state_dict().items():
    for new, old in {
        'Wqkv.linear': 'Wqkv', 'Wqkv.q_ln': 'q_ln', 'Wqkv.k_ln': 'k_ln',
        'norm_': 'ln_', 'ffn.up_proj': 'mlp.mlp_up',
        'ffn.down_proj': 'mlp.mlp_down'}.items():
      name = name.replace(new, old)
    if name != 'lm_head.weight':
      tensors[name] = tensor.clone()
  torch.save(tensors, directory / 'pytorch_model.bin')
  (directory / 'config.json').write_text(json.dumps(MPT | dict(
      model_type='mosaic_gpt', architectures=['MosaicGPT'], alibi=True,
      alibi_bias_max=8, attn_clip_qkv=None, attn_impl='torch', attn_pdrop=0,
      attn_qk_ln=True, attn_uses_sequence_id=False, emb_pdrop=0,
      embedding_fraction=1.0, init_device='cpu', init_std=0.02,
      logit_scale=None, low_precision_layernorm=True, max_seq_len=2048,
      mlp_ratio=4, no_bias=True, param_init_fn='kaiming_normal_',
      prefix_lm=False, resid_pdrop=0, softmax_scale=None, verbose=0,
      tokenizer_name='EleutherAI/gpt-neox-20b', use_cache=False)))


MODELS = {
    'llama': llama,
    'llama, tied, with biases': functools.partial(
        llama, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    'llama, linear rope': functools.partial(
        llama, rope_scaling=dict(rope_type='linear', factor=3.0)),
    'llama 3.1': functools.partial(llama, rope_scaling=LLAMA3_ROPE),
    'mistral': mistral,
    'gpt2': gpt2,
    'gpt2, unscaled scores': functools.partial(gpt2, scale_attn_weights=False),
    'opt': opt,
    'opt-350m': functools.partial(
        opt, do_layer_norm_before=False, word_embed_proj_dim=14),
    'gpt_neox': functools.partial(gpt_neox, rotary_pct=0.25),
    'gpt_neox, sequential, all rotary': functools.partial(
        gpt_neox, rotary_pct=1.0, use_parallel_residual=False),
    'mpt': mpt,
    'mpt, 6 heads': functools.partial(mpt, n_heads=6),
    'mpt, clipped': functools.partial(mpt, clip_qkv=0.5),
    'mosaic_gpt': mosaic_gpt,
    'gemma3': gemma3,
    'gemma3, linear rope': functools.partial(
        gemma3, rope_scaling=dict(rope_type='linear', factor=8.0)),
    'gemma3, with vision': gemma3_with_vision,
}
# A cache compiles twice more; these are all that one could matter to.
WITH_CACHE = [
    'llama 3.1', 'mistral', 'gpt2', 'opt-350m', 'gpt_neox', 'mpt, 6 heads',
    'mosaic_gpt', 'gemma3']


def shaken(model):
  """The model with no parameter at the value it starts from."""
  generator = torch.Generator().manual_seed(0)
  plus_one = model.config.model_type.startswith('gemma3')
  for name, parameter in model.named_parameters():
    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim > 1:
      scale = 0.2 if 'emb' in name or 'wte' in name or 'wpe' in name else (
          2 / max(parameter.shape) ** 0.5)
      parameter.data = scale * noise
    else:
      start = 0 if plus_one or name.endswith('bias') else 1
      parameter.data = start + 0.3 * noise
  model.set_attn_implementation('eager')
  return model.eval()


def write_tokenizer(directory):
  """GPT-2's files without any merge: a token is a byte."""
  vocab = {symbol: i for i, symbol in enumerate(byte_symbols())}
  vocab['<|endoftext|>'] = 256
  (directory / 'vocab.json').write_text(json.dumps(vocab))
  (directory / 'merges.txt').write_text('#version: 0.2\n')
  (directory / 'tokenizer_config.json').write_text(
      '{"tokenizer_class": "GPT2Tokenizer"}')


@pytest.fixture(scope='module', params=MODELS)
def pair(request, tmp_path_factory):
  """A model of transformers, and (LM, params) from what it saved."""
  model = shaken(MODELS[request.param]())
  directory = tmp_path_factory.mktemp('model')
  if request.param == 'mosaic_gpt':
    save_mosaic_gpt(model, directory)
  else:
    model.save_pretrained(directory)
  write_tokenizer(directory)
  config, params, _ = load_lm(directory)
  return model, LM(**config), params


@pytest.fixture(scope='module')
def forward(quick_jit):
  """(lm, params, tokens, valid, cache) to logits and cache."""
  run = quick_jit(
      lambda lm, params, tokens, valid, cache: lm.apply(
          {'params': params}, tokens, valid=valid, cache=cache),
      static_argnums=0)
  return lambda lm, params, tokens, valid, cache=None: run(
      lm, params, jnp.asarray(tokens), jnp.asarray(valid), cache)


def prompts(side, length=PROMPT):
  """Tokens [3 L], and which of them are no padding [3 L]."""
  tokens = np.random.default_rng(0).integers(0, ROWS, (3, length))
  valid = np.arange(length) < np.array(LENGTHS)[:, None]
  return tokens, valid if side == 'right' else valid[:, ::-1]


def their_logits(model, tokens, valid):
  positions = {}
  # The others derive positions from the mask, or have none.
  if model.config.model_type not in ('opt', 'mpt'):
    positions['position_ids'] = torch.tensor(
        np.maximum(np.cumsum(valid, 1) - 1, 0))
  with torch.no_grad():
    return model(
        torch.tensor(tokens), attention_mask=torch.tensor(valid.astype(int)),
        **positions).logits.numpy()


def test_logits_are_those_of_transformers(pair, forward):
  model, lm, params = pair
  # As long as the text that is generated below, so it compiles once.
  pad = lambda x: np.pad(x, ((0, 0), (0, NEW)))
  for side in ('left', 'right'):
    tokens, valid = map(pad, prompts(side))
    logits, _ = forward(lm, params, tokens, valid)
    expected = their_logits(model, tokens, valid)[valid]
    assert np.ptp(expected, axis=-1).min() > 1
    agreement.close(
        np.asarray(logits)[valid], expected, atol=1e-4)


def their_text(model, tokens, valid):
  generated = model.generate(
      torch.tensor(tokens), attention_mask=torch.tensor(valid.astype(int)),
      max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
  return generated[:, tokens.shape[1]:].numpy()


def test_greedy_text_is_that_of_transformers(pair, forward):
  model, lm, params = pair
  tokens, valid = prompts('left')
  expected = their_text(model, tokens, valid)

  whole = np.pad(tokens, ((0, 0), (0, NEW)))
  seen = np.pad(valid, ((0, 0), (0, NEW)))
  for at in range(PROMPT, PROMPT + NEW):
    logits, _ = forward(lm, params, whole, seen)
    whole[:, at] = np.asarray(logits)[:, at - 1].argmax(-1)
    seen[:, at] = True
  np.testing.assert_array_equal(whole[:, PROMPT:], expected)


@pytest.mark.parametrize('pair', WITH_CACHE, indirect=True)
def test_greedy_text_with_a_cache_is_that_of_transformers(pair, forward):
  model, lm, params = pair
  tokens, valid = prompts('left')
  expected = their_text(model, tokens, valid)

  cache = lm.empty_cache(3, PROMPT + NEW)
  text, steps, step_valid = tokens, [], valid
  for _ in range(NEW):
    logits, cache = forward(
        lm, params, text[:, -step_valid.shape[1]:], step_valid, cache)
    steps.append(np.asarray(logits)[:, -1])
    text = np.append(text, steps[-1].argmax(-1)[:, None], 1)
    step_valid = np.ones((3, 1), bool)
  np.testing.assert_array_equal(text[:, PROMPT:], expected)
  # Random models repeat themselves: so not the words alone.
  valid = np.pad(valid, ((0, 0), (0, NEW)), constant_values=True)
  agreement.close(
      np.stack(steps, 1), their_logits(model, text, valid)[:, PROMPT - 1:-1],
      atol=1e-4)


# Settings that a text of a few tokens could be blind to.
@pytest.mark.parametrize('name, change', [
    ('llama, linear rope', dict(rope_scaling=None)),
    ('llama 3.1', dict(rope_scaling=None)),
    ('mistral', dict(window=6)),
    ('gpt2, unscaled scores', dict(query_scale=None)),
    ('gpt_neox', dict(rope_fraction=0.5)),
    ('mpt, 6 heads', dict(alibi_max=9.0)),
    ('mpt, clipped', dict(clip_qkv=None)),
    ('gemma3', dict(global_every=4)),
    ('gemma3', dict(window=5)),
    ('gemma3', dict(local_rope_base=None)),
    ('gemma3, linear rope', dict(rope_scaling=None)),
])
def test_these_logits_would_tell_another_setting(
    name, change, forward, tmp_path):
  model = shaken(MODELS[name]())
  model.save_pretrained(tmp_path)
  write_tokenizer(tmp_path)
  config, params, _ = load_lm(tmp_path)
  tokens, valid = prompts('right')
  expected = their_logits(model, tokens, valid)[valid]
  logits, _ = forward(LM(**(config | change)), params, tokens, valid)
  assert np.abs(np.asarray(logits)[valid] - expected).max() > 1e-2


# The same model in other files.


def assert_same(params, expected):
  params, expected = (dict(params_lib.flatten(p)) for p in (params, expected))
  assert params.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(params[path], leaf)


@pytest.mark.parametrize('make', [gpt2, gpt_neox])
def test_shards_and_torch_archives_hold_the_same_parameters(make, tmp_path):
  model = shaken(make())
  loaded = []
  for i, kwargs in enumerate((
      {}, dict(max_shard_size='20KB'), dict(safe_serialization=False),
      dict(safe_serialization=False, max_shard_size='20KB'))):
    directory = tmp_path / str(i)
    model.save_pretrained(directory, **kwargs)
    assert ('max_shard_size' in kwargs) == any(directory.glob('*.index.json'))
    write_tokenizer(directory)
    loaded.append(load_lm(directory)[1])
  for params in loaded[1:]:
    assert_same(params, loaded[0])


@pytest.mark.parametrize('make', [
    gpt2, opt, mpt, gemma3, functools.partial(llama, tie_word_embeddings=True)])
def test_a_model_without_its_output_projection_is_the_same(make, tmp_path):
  model = shaken(make())
  model.save_pretrained(tmp_path / 'whole')
  model.base_model.save_pretrained(tmp_path / 'base')
  for name in ('whole', 'base'):
    write_tokenizer(tmp_path / name)
  assert_same(
      load_lm(tmp_path / 'base')[1], load_lm(tmp_path / 'whole')[1])


def test_bfloat16_stays_as_it_is(tmp_path):
  model = shaken(llama()).to(torch.bfloat16)
  model.save_pretrained(tmp_path)
  write_tokenizer(tmp_path)
  _, params, _ = load_lm(tmp_path, dtype=jnp.bfloat16)
  embedding = params['embed']['embedding']
  assert embedding.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
      embedding.astype(np.float32),
      model.get_input_embeddings().weight.detach().float().numpy())
