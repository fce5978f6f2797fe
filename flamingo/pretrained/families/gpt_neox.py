"""GPT-NeoX: Pythia and RedPajama-INCITE."""

from typing import Any

from flamingo.pretrained.families.family import Family, QKV, QKV_BIAS
from flamingo.pretrained.families.fields import Fields


def gpt_neox_config(fields: Fields) -> dict[str, Any]:
  """Arguments of `LM` from the config of a GPTNeoXForCausalLM."""
  width, heads = fields.take('hidden_size'), fields.take('num_attention_heads')
  bias = fields.take('attention_bias', True)
  rope_base, rope_scaling = fields.rope(fields.take('rotary_emb_base', 10_000))
  fraction = fields.take('rotary_pct', 0.25)
  fields.expect(partial_rotary_factor=fraction)  # the same once more
  return dict(
      vocab_size=fields.take('vocab_size'),
      width=width,
      layers=fields.take('num_hidden_layers'),
      heads=heads,
      kv_heads=heads,
      head_dim=width // heads,
      hidden=fields.take('intermediate_size'),
      rope_base=rope_base,
      rope_fraction=fraction,
      rope_scaling=rope_scaling,
      norm='layer',
      norm_eps=fields.take('layer_norm_eps', 1e-5),
      activation=fields.activation('hidden_act', 'gelu'),
      gated_ff=False,
      attn_bias=bias,
      out_bias=bias,
      ff_bias=True,
      parallel=fields.take('use_parallel_residual', True),
      tied=fields.take('tie_word_embeddings', False),
  )


GPT_NEOX = Family(
    config=gpt_neox_config,
    trunks=('gpt_neox.', ''),
    top={
        'embed_in.weight': ('embed/embedding', 'v m -> v m'),
        'final_layer_norm.weight': ('final_norm/scale', 'm -> m'),
        'final_layer_norm.bias': ('final_norm/bias', 'm -> m'),
    },
    layer='layers.{}',
    block={
        'input_layernorm.weight': ('attn_norm/scale', 'm -> m'),
        'input_layernorm.bias': ('attn_norm/bias', 'm -> m'),
        # Query, key and value of a head lie together.
        'attention.query_key_value.weight': (QKV, '(h n d) m -> n m h d'),
        'attention.query_key_value.bias': (QKV_BIAS, '(h n d) -> n h d'),
        'attention.dense.weight': ('attn/out/kernel', 'm (h d) -> h d m'),
        'attention.dense.bias': ('attn/out/bias', 'm -> m'),
        'post_attention_layernorm.weight': ('mlp_norm/scale', 'm -> m'),
        'post_attention_layernorm.bias': ('mlp_norm/bias', 'm -> m'),
        'mlp.dense_h_to_4h.weight': ('mlp/up/kernel', 'f m -> m f'),
        'mlp.dense_h_to_4h.bias': ('mlp/up/bias', 'f -> f'),
        'mlp.dense_4h_to_h.weight': ('mlp/down/kernel', 'm f -> f m'),
        'mlp.dense_4h_to_h.bias': ('mlp/down/bias', 'm -> m'),
    },
    head={'embed_out.weight': ('unembed/kernel', 'v m -> m v')},
    ignored={
        r'.*\.attention\.(bias|masked_bias)': 'the causal mask is computed',
        r'.*\.rotary_emb\.inv_freq':
            'frequencies follow from rotary_emb_base and rotary_pct'},
)
