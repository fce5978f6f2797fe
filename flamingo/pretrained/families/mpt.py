"""MPT, and the first of its line, mpt-1b-redpajama-200b."""

from typing import Any

from flamingo.pretrained.families.family import Family, QKV
from flamingo.pretrained.families.fields import Fields

# What is trained otherwise, or runs elsewhere, and gives the same logits.
_TRAINING = (
    'attn_impl', 'emb_init_std', 'emb_init_uniform_lim', 'emb_pdrop',
    'embedding_fraction', 'fan_mode', 'fc_type', 'init_config', 'init_device',
    'init_div_is_residual', 'init_gain', 'init_nonlinearity', 'init_std',
    'low_precision_layernorm', 'max_seq_len', 'norm_type', 'param_init_fn',
    'tokenizer_name', 'use_pad_tok_in_ffn', 'verbose')


def mpt_config(fields: Fields) -> dict[str, Any]:
  """Arguments of `LM` from the config of an MptForCausalLM, such as MPT-7B."""
  attention = Fields(
      fields.take('attn_config', None) or {}, f'attn_config of {fields.what}')
  attention.expect(attn_type='multihead_attention')
  feed_forward = Fields(
      fields.take('ffn_config', None) or {}, f'ffn_config of {fields.what}')
  feed_forward.expect(ffn_type='mptmlp')
  config = _config(
      fields, attention, ratio='expansion_ratio', qk_norm='qk_ln',
      clip='clip_qkv')
  for section in (attention, feed_forward):
    # transformers writes this one into every config, nested ones too.
    section.drop('tie_word_embeddings', *_TRAINING)
    section.finish()
  return config


def mosaic_gpt_config(fields: Fields) -> dict[str, Any]:
  """Arguments of `LM` from the config of a MosaicGPT (mpt-1b-redpajama-200b).

  Its fields are those of MPT, without a section for the attention.
  """
  return _config(
      fields, fields, ratio='mlp_ratio', qk_norm='attn_qk_ln',
      clip='attn_clip_qkv')


def _config(
    fields: Fields, attention: Fields, *, ratio: str, qk_norm: str, clip: str
) -> dict[str, Any]:
  width, heads = fields.take('d_model'), fields.take('n_heads')
  attention.expect(
      alibi=True, prefix_lm=False, attn_uses_sequence_id=False, rope=False,
      qk_gn=False, sliding_window_size=-1, kv_n_heads=(heads, None))
  # With ALiBi there is no table of positions, whatever `learned_pos_emb` says.
  fields.drop('learned_pos_emb', *_TRAINING)
  fields.expect(logit_scale=None, no_bias=True, hidden_size=width)
  return dict(
      vocab_size=fields.take('vocab_size'),
      width=width,
      layers=fields.take('n_layers'),
      heads=heads,
      kv_heads=heads,
      head_dim=width // heads,
      hidden=fields.take(ratio, 4) * width,
      position='alibi',
      alibi_max=float(attention.take('alibi_bias_max', 8)),
      query_scale=attention.take('softmax_scale', None),
      clip_qkv=attention.take(clip, None),
      norm='layer',
      norm_bias=False,
      norm_eps=fields.take('layer_norm_epsilon', 1e-5),
      norm_heads='width' if attention.take(qk_norm, False) else None,
      activation='gelu',
      gated_ff=False,
      tied=fields.take('tie_word_embeddings', True),
  )


def _family(config, norm_1, norm_2, final, up, down) -> Family:
  return Family(
      config=config,
      trunks=('transformer.', ''),
      top={
          'wte.weight': ('embed/embedding', 'v m -> v m'),
          f'{final}.weight': ('final_norm/scale', 'm -> m'),
      },
      layer='blocks.{}',
      block={
          f'{norm_1}.weight': ('attn_norm/scale', 'm -> m'),
          'attn.Wqkv.weight': (QKV, '(n h d) m -> n m h d'),
          'attn.q_ln.weight': ('attn/norm_query/scale', 'm -> m'),
          'attn.k_ln.weight': ('attn/norm_key/scale', 'm -> m'),
          'attn.out_proj.weight': ('attn/out/kernel', 'm (h d) -> h d m'),
          f'{norm_2}.weight': ('mlp_norm/scale', 'm -> m'),
          f'{up}.weight': ('mlp/up/kernel', 'f m -> m f'),
          f'{down}.weight': ('mlp/down/kernel', 'm f -> f m'),
      },
      head={'lm_head.weight': ('unembed/kernel', 'v m -> m v')},
      ignored={},
  )


MPT = _family(
    mpt_config, norm_1='norm_1', norm_2='norm_2', final='norm_f',
    up='ffn.up_proj', down='ffn.down_proj')

MOSAIC_GPT = _family(
    mosaic_gpt_config, norm_1='ln_1', norm_2='ln_2', final='ln_f',
    up='mlp.mlp_up', down='mlp.mlp_down')
