"""GGUF files hold the models of transformers that they are converted from.

The converter here does to tensors what llama.cpp's convert_hf_to_gguf.py does.
"""

import functools

import agreement
from flamingo import params as params_lib
from flamingo.model.lm import LM
from flamingo.pretrained.lm import load_lm
import gguf
from gguf_files import write_gguf
import jax.numpy as jnp
import lm_parity_test as parity
import numpy as np
import pytest

TOKENS = ['a', 'b', 'ab', *(f'[PAD{i}]' for i in range(3, parity.ROWS))]
TOKENIZER = {
    'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'gpt-2',
    'tokenizer.ggml.tokens': TOKENS,
    'tokenizer.ggml.token_type': [3] * len(TOKENS),
    'tokenizer.ggml.merges': ['a b'], 'tokenizer.ggml.eos_token_id': 0}


def permuted(tensor, heads):
  """Rows of each head, the two of a rotary pair side by side."""
  halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
  return halves.swapaxes(1, 2).reshape(tensor.shape)


def llama_tensor(name, tensor, config):
  if '.q_proj.' in name:
    return permuted(tensor, config.num_attention_heads)
  if '.k_proj.' in name:
    return permuted(tensor, config.num_key_value_heads)
  return tensor


def gpt2_tensor(name, tensor, config):
  del config
  linear = ('c_attn.weight', 'c_proj.weight', 'c_fc.weight')
  return tensor.T if name.endswith(linear) else tensor


def neox_tensor(name, tensor, config):
  if 'query_key_value' not in name:
    return tensor
  parts = tensor.reshape(config.num_attention_heads, 3, -1, *tensor.shape[1:])
  return np.concatenate([
      parts[:, i].reshape(-1, *tensor.shape[1:]) for i in range(3)])


def gemma_tensor(name, tensor, config):
  del config
  return tensor + 1 if name.endswith('norm.weight') else tensor


def llama_metadata(config):
  return {
      'context_length': 64, 'embedding_length': config.hidden_size,
      'block_count': config.num_hidden_layers,
      'feed_forward_length': config.intermediate_size,
      'attention.head_count': config.num_attention_heads,
      'attention.head_count_kv': config.num_key_value_heads,
      'attention.key_length': config.head_dim,
      'attention.value_length': config.head_dim,
      'attention.layer_norm_rms_epsilon': config.rms_norm_eps,
      'rope.freq_base': config.rope_theta, 'vocab_size': config.vocab_size,
      'rope.dimension_count': config.head_dim}


def scaled_llama_metadata(config):
  return llama_metadata(config) | {
      'rope.scaling.type': 'linear',
      'rope.scaling.factor': config.rope_scaling['factor']}


def gpt2_metadata(config):
  return {
      'context_length': config.n_positions, 'embedding_length': config.n_embd,
      'block_count': config.n_layer, 'feed_forward_length': config.n_inner,
      'attention.head_count': config.n_head,
      'attention.layer_norm_epsilon': config.layer_norm_epsilon}


def neox_metadata(config):
  head_dim = config.hidden_size // config.num_attention_heads
  return {
      'context_length': 64, 'embedding_length': config.hidden_size,
      'block_count': config.num_hidden_layers,
      'feed_forward_length': config.intermediate_size,
      'rope.dimension_count': int(config.rotary_pct * head_dim),
      'attention.head_count': config.num_attention_heads,
      'use_parallel_residual': config.use_parallel_residual,
      'attention.layer_norm_epsilon': config.layer_norm_eps}


def mpt_metadata(config):
  metadata = {
      'context_length': 64, 'embedding_length': config.d_model,
      'block_count': config.n_layers, 'feed_forward_length': 4 * config.d_model,
      'attention.head_count': config.n_heads,
      'attention.layer_norm_epsilon': 1e-5, 'attention.max_alibi_bias': 8.0}
  if config.attn_config.clip_qkv is not None:
    metadata['attention.clamp_kqv'] = config.attn_config.clip_qkv
  return metadata


def gemma_metadata(config):
  metadata = llama_metadata(config)
  del metadata['rope.dimension_count'], metadata['vocab_size']
  return metadata | {
      'attention.sliding_window': config.sliding_window,
      'attention.sliding_window_pattern': 2,
      'rope.freq_base_swa': config.rope_local_base_freq}


KINDS = {
    'llama': (parity.llama, 'llama', llama_tensor, llama_metadata),
    'llama, tied, with biases': (
        functools.partial(
            parity.llama, tie_word_embeddings=True, attention_bias=True,
            mlp_bias=True),
        'llama', llama_tensor, llama_metadata),
    'llama, linear rope': (
        functools.partial(
            parity.llama, rope_scaling=dict(rope_type='linear', factor=3.0)),
        'llama', llama_tensor, scaled_llama_metadata),
    'gpt2': (parity.gpt2, 'gpt2', gpt2_tensor, gpt2_metadata),
    'gpt_neox': (
        functools.partial(parity.gpt_neox, rotary_emb_base=10_000), 'gptneox',
        neox_tensor, neox_metadata),
    'mpt': (
        functools.partial(parity.mpt, clip_qkv=0.5), 'mpt',
        lambda name, tensor, config: tensor, mpt_metadata),
}


def load_both(make, arch, convert, metadata, directory):
  """A model, and what `load_lm` makes of its directory and its GGUF file."""
  model = parity.shaken(make())
  model.save_pretrained(directory)
  parity.write_tokenizer(directory)
  kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
  names = gguf.get_tensor_name_map(
      kinds[arch], model.config.num_hidden_layers)
  tied = model.config.tie_word_embeddings
  tensors = {
      names.get_name(name, try_suffixes=('.weight', '.bias')):
          np.ascontiguousarray(convert(name, tensor.numpy(), model.config))
      for name, tensor in model.state_dict().items()
      if not (tied and name == 'lm_head.weight')}
  path = write_gguf(
      directory / 'model.gguf', tensors, TOKENIZER | {
          f'{arch}.{key}': value
          for key, value in metadata(model.config).items()}, arch)
  return model, load_lm(directory), load_lm(path)


@pytest.mark.parametrize('kind', KINDS)
def test_a_gguf_file_has_the_parameters_of_the_directory(kind, tmp_path):
  _, (config, params, _), (gguf_config, gguf_params, _) = load_both(
      *KINDS[kind], tmp_path)
  assert LM(**gguf_config) == LM(**config)
  params, gguf_params = (
      dict(params_lib.flatten(p)) for p in (params, gguf_params))
  assert params.keys() == gguf_params.keys()
  for path, leaf in params.items():
    np.testing.assert_array_equal(gguf_params[path], leaf)


def test_gemma_whose_norms_the_file_shifts_has_the_same_logits(
    quick_jit, tmp_path):
  model, (config, _, _), (gguf_config, params, _) = load_both(
      functools.partial(parity.gemma3, query_pre_attn_scalar=12), 'gemma3',
      gemma_tensor, gemma_metadata, tmp_path)
  assert LM(**gguf_config) == LM(**(config | dict(norm_plus_one=False)))
  tokens, valid = parity.prompts('right')
  logits, _ = quick_jit(LM(**gguf_config).apply)(
      {'params': params}, jnp.asarray(tokens), valid=jnp.asarray(valid))
  agreement.close(
      np.asarray(logits)[valid],
      parity.their_logits(model, tokens, valid)[valid], atol=1e-4)
