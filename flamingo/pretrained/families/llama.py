"""Llama 1 to 3, SmolLM2 and Mistral."""

import dataclasses
from typing import Any

from flamingo.pretrained.families.family import Family
from flamingo.pretrained.families.fields import Fields


def llama_config(fields: Fields) -> dict[str, Any]:
  """Arguments of `LM` from the config of a LlamaForCausalLM."""
  width, heads = fields.take('hidden_size'), fields.take('num_attention_heads')
  bias = fields.take('attention_bias', False)
  rope_base, rope_scaling = fields.rope()
  # SmolLM2 says that its rotary embedding is not the interleaved one.
  fields.expect(rope_interleaved=False)
  return dict(
      vocab_size=fields.take('vocab_size'),
      width=width,
      layers=fields.take('num_hidden_layers'),
      heads=heads,
      kv_heads=fields.take('num_key_value_heads', None) or heads,
      head_dim=fields.take('head_dim', None) or width // heads,
      hidden=fields.take('intermediate_size'),
      rope_base=rope_base,
      rope_scaling=rope_scaling,
      norm_eps=fields.take('rms_norm_eps', 1e-6),
      activation=fields.activation('hidden_act', 'silu'),
      attn_bias=bias,
      out_bias=bias,
      ff_bias=fields.take('mlp_bias', False),
      tied=fields.take('tie_word_embeddings', False),
  )


def mistral_config(fields: Fields) -> dict[str, Any]:
  """Arguments of `LM` from the config of a MistralForCausalLM.

  In version 0.1 a token sees the last 4096; later ones have no such window.
  """
  window = fields.take('sliding_window', 4096)
  return dict(llama_config(fields), window=window)


_BLOCK = {
    'input_layernorm.weight': ('attn_norm/scale', 'm -> m'),
    'self_attn.q_proj.weight': ('attn/query/kernel', '(h d) m -> m h d'),
    'self_attn.q_proj.bias': ('attn/query/bias', '(h d) -> h d'),
    'self_attn.k_proj.weight': ('attn/key/kernel', '(k d) m -> m k d'),
    'self_attn.k_proj.bias': ('attn/key/bias', '(k d) -> k d'),
    'self_attn.v_proj.weight': ('attn/value/kernel', '(k d) m -> m k d'),
    'self_attn.v_proj.bias': ('attn/value/bias', '(k d) -> k d'),
    'self_attn.o_proj.weight': ('attn/out/kernel', 'm (h d) -> h d m'),
    'self_attn.o_proj.bias': ('attn/out/bias', 'm -> m'),
    'post_attention_layernorm.weight': ('mlp_norm/scale', 'm -> m'),
    'mlp.gate_proj.weight': ('mlp/gate/kernel', 'f m -> m f'),
    'mlp.gate_proj.bias': ('mlp/gate/bias', 'f -> f'),
    'mlp.up_proj.weight': ('mlp/up/kernel', 'f m -> m f'),
    'mlp.up_proj.bias': ('mlp/up/bias', 'f -> f'),
    'mlp.down_proj.weight': ('mlp/down/kernel', 'm f -> f m'),
    'mlp.down_proj.bias': ('mlp/down/bias', 'm -> m'),
}

LLAMA = Family(
    config=llama_config,
    trunks=('model.', ''),
    top={
        'embed_tokens.weight': ('embed/embedding', 'v m -> v m'),
        'norm.weight': ('final_norm/scale', 'm -> m'),
    },
    layer='layers.{}',
    block=_BLOCK,
    head={'lm_head.weight': ('unembed/kernel', 'v m -> m v')},
    ignored={
        r'.*\.rotary_emb\.inv_freq': 'frequencies follow from rope_theta'},
)

MISTRAL = dataclasses.replace(LLAMA, config=mistral_config)
