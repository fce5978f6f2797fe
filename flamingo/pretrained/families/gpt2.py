"""GPT-2."""

from typing import Any

from flamingo.pretrained.families.family import Family, QKV, QKV_BIAS
from flamingo.pretrained.families.fields import Fields


def gpt2_config(fields: Fields) -> dict[str, Any]:
  """Arguments of `LM` from the config of a GPT2LMHeadModel."""
  width, heads = fields.take('n_embd'), fields.take('n_head')
  fields.expect(scale_attn_by_inverse_layer_idx=False)
  fields.drop('n_special', 'predict_special_tokens')  # of the first files
  scaled = fields.take('scale_attn_weights', True)
  return dict(
      vocab_size=fields.take('vocab_size'),
      width=width,
      layers=fields.take('n_layer'),
      heads=heads,
      kv_heads=heads,
      head_dim=width // heads,
      hidden=fields.take('n_inner', None) or 4 * width,
      position='learned',
      max_positions=fields.take('n_positions'),
      query_scale=None if scaled else 1.0,
      norm='layer',
      norm_eps=fields.take('layer_norm_epsilon', 1e-5),
      activation=fields.activation('activation_function', 'gelu_new'),
      gated_ff=False,
      attn_bias=True,
      out_bias=True,
      ff_bias=True,
      tied=fields.take('tie_word_embeddings', True),
  )


# GPT-2's `Conv1D` has its inputs first: no kernel is turned over.
GPT2 = Family(
    config=gpt2_config,
    trunks=('transformer.', ''),
    top={
        'wte.weight': ('embed/embedding', 'v m -> v m'),
        'wpe.weight': ('position/embedding', 'p m -> p m'),
        'ln_f.weight': ('final_norm/scale', 'm -> m'),
        'ln_f.bias': ('final_norm/bias', 'm -> m'),
    },
    layer='h.{}',
    block={
        'ln_1.weight': ('attn_norm/scale', 'm -> m'),
        'ln_1.bias': ('attn_norm/bias', 'm -> m'),
        'attn.c_attn.weight': (QKV, 'm (n h d) -> n m h d'),
        'attn.c_attn.bias': (QKV_BIAS, '(n h d) -> n h d'),
        'attn.c_proj.weight': ('attn/out/kernel', '(h d) m -> h d m'),
        'attn.c_proj.bias': ('attn/out/bias', 'm -> m'),
        'ln_2.weight': ('mlp_norm/scale', 'm -> m'),
        'ln_2.bias': ('mlp_norm/bias', 'm -> m'),
        'mlp.c_fc.weight': ('mlp/up/kernel', 'm f -> m f'),
        'mlp.c_fc.bias': ('mlp/up/bias', 'f -> f'),
        'mlp.c_proj.weight': ('mlp/down/kernel', 'f m -> f m'),
        'mlp.c_proj.bias': ('mlp/down/bias', 'm -> m'),
    },
    head={'lm_head.weight': ('unembed/kernel', 'v m -> m v')},
    ignored={
        r'(.*\.)?h\.\d+\.(.*\.)?attn\.(bias|masked_bias)':
            'the causal mask is computed'},
)
