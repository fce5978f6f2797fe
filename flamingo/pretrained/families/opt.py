"""OPT, from 125M to 66B."""

from typing import Any

from flamingo.pretrained.families.family import Family
from flamingo.pretrained.families.fields import Fields


def opt_config(fields: Fields) -> dict[str, Any]:
  """Arguments of `LM` from the config of an OPTForCausalLM.

  The 350M is unlike the others: it normalises after the addition, and its words
  are narrower than its layers.
  """
  width, heads = fields.take('hidden_size'), fields.take('num_attention_heads')
  words = fields.take('word_embed_proj_dim', None) or width
  bias = fields.take('enable_bias', True)
  fields.expect(
      layer_norm_elementwise_affine=True, _remove_final_layer_norm=False)
  fields.drop('init_std')
  return dict(
      vocab_size=fields.take('vocab_size'),
      width=width,
      layers=fields.take('num_hidden_layers'),
      heads=heads,
      kv_heads=heads,
      head_dim=width // heads,
      hidden=fields.take('ffn_dim'),
      embed_width=None if words == width else words,
      position='learned',
      max_positions=fields.take('max_position_embeddings'),
      position_offset=2,  # fairseq counts from the row behind padding's
      norm='layer',
      norm_first=fields.take('do_layer_norm_before', True),
      activation=fields.activation('activation_function', 'relu'),
      gated_ff=False,
      attn_bias=bias,
      out_bias=bias,
      ff_bias=bias,
      tied=fields.take('tie_word_embeddings', True),
  )


OPT = Family(
    config=opt_config,
    trunks=('model.', ''),
    top={
        'decoder.embed_tokens.weight': ('embed/embedding', 'v m -> v m'),
        'decoder.embed_positions.weight': ('position/embedding', 'p m -> p m'),
        'decoder.project_in.weight': ('embed_in/kernel', 'm w -> w m'),
        'decoder.project_out.weight': ('embed_out/kernel', 'w m -> m w'),
        'decoder.final_layer_norm.weight': ('final_norm/scale', 'm -> m'),
        'decoder.final_layer_norm.bias': ('final_norm/bias', 'm -> m'),
    },
    layer='decoder.layers.{}',
    block={
        'self_attn_layer_norm.weight': ('attn_norm/scale', 'm -> m'),
        'self_attn_layer_norm.bias': ('attn_norm/bias', 'm -> m'),
        'self_attn.q_proj.weight': ('attn/query/kernel', '(h d) m -> m h d'),
        'self_attn.q_proj.bias': ('attn/query/bias', '(h d) -> h d'),
        'self_attn.k_proj.weight': ('attn/key/kernel', '(h d) m -> m h d'),
        'self_attn.k_proj.bias': ('attn/key/bias', '(h d) -> h d'),
        'self_attn.v_proj.weight': ('attn/value/kernel', '(h d) m -> m h d'),
        'self_attn.v_proj.bias': ('attn/value/bias', '(h d) -> h d'),
        'self_attn.out_proj.weight': ('attn/out/kernel', 'm (h d) -> h d m'),
        'self_attn.out_proj.bias': ('attn/out/bias', 'm -> m'),
        # Of the layer, not of the model: the norm before its feed-forward.
        'final_layer_norm.weight': ('mlp_norm/scale', 'm -> m'),
        'final_layer_norm.bias': ('mlp_norm/bias', 'm -> m'),
        'fc1.weight': ('mlp/up/kernel', 'f m -> m f'),
        'fc1.bias': ('mlp/up/bias', 'f -> f'),
        'fc2.weight': ('mlp/down/kernel', 'm f -> f m'),
        'fc2.bias': ('mlp/down/bias', 'm -> m'),
    },
    head={'lm_head.weight': ('unembed/kernel', 'v m -> m v')},
    ignored={r'(.*\.)?decoder\.version': 'the number of a file format'},
)
