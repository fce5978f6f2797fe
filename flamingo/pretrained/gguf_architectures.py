"""What llama.cpp makes of each family: its metadata and its layouts."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flamingo.pretrained.families import Family, FAMILIES


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What llama.cpp makes of a family.

  Attributes:
    family: as Hugging Face has it.
    config: fields of its config.json, from a function that takes one of the
      metadata (key, default) and the tensors.
    layouts: of tensors of a layer that the converter lays out otherwise.
    changes: arguments of `LM` that differ because of what it does.
  """

  family: Family
  config: Callable[[Callable, Mapping[str, Any]], dict[str, Any]]
  layouts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _llama(take, tensors) -> dict[str, Any]:
  return dict(
      hidden_size=take('embedding_length'),
      num_hidden_layers=take('block_count'),
      num_attention_heads=take('attention.head_count'),
      num_key_value_heads=take('attention.head_count_kv', None),
      head_dim=take('attention.key_length', None),
      intermediate_size=take('feed_forward_length'),
      rms_norm_eps=take('attention.layer_norm_rms_epsilon'),
      rope_theta=take('rope.freq_base', 10_000),
      attention_bias='blk.0.attn_q.bias' in tensors,
      mlp_bias='blk.0.ffn_up.bias' in tensors)


def _gpt2(take, tensors) -> dict[str, Any]:
  del tensors
  return dict(
      n_embd=take('embedding_length'), n_layer=take('block_count'),
      n_head=take('attention.head_count'), n_inner=take('feed_forward_length'),
      n_positions=take('context_length'),
      layer_norm_epsilon=take('attention.layer_norm_epsilon'))


def _gptneox(take, tensors) -> dict[str, Any]:
  del tensors
  width, heads = take('embedding_length'), take('attention.head_count')
  return dict(
      hidden_size=width, num_hidden_layers=take('block_count'),
      num_attention_heads=heads, intermediate_size=take('feed_forward_length'),
      rotary_pct=take('rope.dimension_count') / (width // heads),
      rope_theta=take('rope.freq_base', 10_000),
      use_parallel_residual=take('use_parallel_residual', True),
      layer_norm_eps=take('attention.layer_norm_epsilon'))


def _mpt(take, tensors) -> dict[str, Any]:
  width, hidden = take('embedding_length'), take('feed_forward_length')
  alibi_max = take('attention.max_alibi_bias')
  return dict(
      d_model=width, n_layers=take('block_count'),
      n_heads=take('attention.head_count'), expansion_ratio=hidden // width,
      layer_norm_epsilon=take('attention.layer_norm_epsilon'),
      attn_config=dict(
          alibi=alibi_max > 0, alibi_bias_max=alibi_max,
          clip_qkv=take('attention.clamp_kqv', None),
          kv_n_heads=take('attention.head_count_kv', None),
          qk_ln='blk.0.attn_q_norm.weight' in tensors))


def _gemma3(take, tensors) -> dict[str, Any]:
  del tensors
  width, heads = take('embedding_length'), take('attention.head_count')
  layers, head_dim = take('block_count'), take('attention.key_length', 256)
  return dict(
      hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
      num_key_value_heads=take('attention.head_count_kv'), head_dim=head_dim,
      intermediate_size=take('feed_forward_length'),
      rms_norm_eps=take('attention.layer_norm_rms_epsilon'),
      rope_theta=take('rope.freq_base'),
      rope_local_base_freq=take('rope.freq_base_swa', 10_000),
      sliding_window=take('attention.sliding_window', None),
      sliding_window_pattern=take('attention.sliding_window_pattern', 6),
      final_logit_softcapping=take('final_logit_softcapping', None),
      # The file does not say; the 27B, of 62 layers, is unlike the others.
      query_pre_attn_scalar=width // heads if layers == 62 else head_dim)


# The converter turns the rows of Llama's queries and keys so that the pairs of
# the rotary embedding lie side by side: (2i, 2i + 1). Our `rotate` turns the
# pairs (i, i + d/2), as the model was trained: '(i p) -> (p i)' puts them back.
ARCHITECTURES = {
    'llama': Architecture(FAMILIES['llama'], _llama, {
        'self_attn.q_proj.weight': '(h i p) m -> m h (p i)',
        'self_attn.q_proj.bias': '(h i p) -> h (p i)',
        'self_attn.k_proj.weight': '(k i p) m -> m k (p i)',
        'self_attn.k_proj.bias': '(k i p) -> k (p i)'}),
    # Turned over, as torch has linear layers.
    'gpt2': Architecture(FAMILIES['gpt2'], _gpt2, {
        'attn.c_attn.weight': '(n h d) m -> n m h d',
        'attn.c_proj.weight': 'm (h d) -> h d m',
        'mlp.c_fc.weight': 'f m -> m f',
        'mlp.c_proj.weight': 'm f -> f m'}),
    # All queries, all keys, all values.
    'gptneox': Architecture(FAMILIES['gpt_neox'], _gptneox, {
        'attention.query_key_value.weight': '(n h d) m -> n m h d',
        'attention.query_key_value.bias': '(n h d) -> n h d'}),
    'mpt': Architecture(FAMILIES['mpt'], _mpt),
    # 1 is added to its norms.
    'gemma3': Architecture(
        FAMILIES['gemma3_text'], _gemma3, changes=dict(norm_plus_one=False)),
}
