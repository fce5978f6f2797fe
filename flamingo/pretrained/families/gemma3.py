"""Gemma 3, alone or as the language half of its multimodal model."""

from collections.abc import Mapping
from typing import Any

from flamingo.pretrained.families.family import Family
from flamingo.pretrained.families.fields import Fields

# What the multimodal config says beside its two halves.
_MULTIMODAL = (
    'boi_token_index', 'eoi_token_index', 'image_token_index',
    'boi_token_id', 'eoi_token_id', 'image_token_id', 'mm_tokens_per_image',
    'vision_config')


def gemma3_config(fields: Fields) -> dict[str, Any]:
  """Arguments of `LM` from the config of a Gemma3ForCausalLM.

  Published configs leave out what is as in the 4B, so there are defaults, and
  they are transformers'.
  """
  width = fields.take('hidden_size', 2304)
  layers = fields.take('num_hidden_layers', 26)
  window = fields.take('sliding_window', 4096)
  global_every = _global_every(fields, layers)
  windowed = window is not None and global_every != 1
  bias = fields.take('attention_bias', False)
  rope_base, rope_scaling = fields.rope(1_000_000)
  local_base = float(fields.take('rope_local_base_freq', 10_000))
  fields.expect(
      attn_logit_softcapping=None, final_logit_softcapping=None,
      use_bidirectional_attention=False)
  return dict(
      vocab_size=fields.take('vocab_size', 262_208),
      width=width,
      layers=layers,
      heads=fields.take('num_attention_heads', 8),
      kv_heads=fields.take('num_key_value_heads', 4),
      head_dim=fields.take('head_dim', 256),
      hidden=fields.take('intermediate_size', 9216),
      rope_base=rope_base,
      rope_scaling=rope_scaling,
      window=window if windowed else None,
      global_every=global_every if windowed else 0,
      local_rope_base=local_base if windowed else None,
      query_scale=fields.take('query_pre_attn_scalar', 256) ** -0.5,
      norm_eps=fields.take('rms_norm_eps', 1e-6),
      norm_plus_one=True,
      norm_after=True,
      norm_heads='head',
      activation=fields.activation('hidden_activation', 'gelu_pytorch_tanh'),
      attn_bias=bias,
      out_bias=bias,
      embed_scale=width**0.5,
      tied=fields.take('tie_word_embeddings', True),
  )


def _global_every(fields: Fields, layers: int) -> int:
  """Of how many layers the last looks at everything; 0 if none does."""
  every = fields.take('sliding_window_pattern', None)
  every = fields.take('_sliding_window_pattern', every) or 6
  kinds = fields.take('layer_types', None)
  if kinds is None:
    return every
  full = [i + 1 for i, kind in enumerate(kinds) if kind == 'full_attention']
  every = full[0] if full else 0
  regular = [
      'full_attention' if every and i % every == 0 else 'sliding_attention'
      for i in range(1, layers + 1)]
  if list(kinds) != regular:
    raise ValueError(
        f'{fields.what} has layer_types {kinds}, and LM has a layer of full '
        'attention at the end of every group of so many. Take a model that it '
        'can express.')
  return every


def gemma3_multimodal_config(fields: Fields) -> dict[str, Any]:
  """Arguments of `LM` from the config of a Gemma3ForConditionalGeneration."""
  text: Mapping[str, Any] = fields.take('text_config')
  tied = fields.take('tie_word_embeddings', True)
  fields.drop(*_MULTIMODAL)
  inside = Fields(
      {'tie_word_embeddings': tied} | text, f'text_config of {fields.what}')
  config = gemma3_config(inside)
  inside.finish()
  return config


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
    'self_attn.q_norm.weight': ('attn/norm_query/scale', 'd -> d'),
    'self_attn.k_norm.weight': ('attn/norm_key/scale', 'd -> d'),
    # Llama calls the norm before its feed-forward by this name.
    'post_attention_layernorm.weight': ('attn_after_norm/scale', 'm -> m'),
    'pre_feedforward_layernorm.weight': ('mlp_norm/scale', 'm -> m'),
    'post_feedforward_layernorm.weight': ('mlp_after_norm/scale', 'm -> m'),
    'mlp.gate_proj.weight': ('mlp/gate/kernel', 'f m -> m f'),
    'mlp.up_proj.weight': ('mlp/up/kernel', 'f m -> m f'),
    'mlp.down_proj.weight': ('mlp/down/kernel', 'm f -> f m'),
}


def _family(config, trunks, ignored) -> Family:
  return Family(
      config=config,
      trunks=trunks,
      top={
          'embed_tokens.weight': ('embed/embedding', 'v m -> v m'),
          'norm.weight': ('final_norm/scale', 'm -> m'),
      },
      layer='layers.{}',
      block=_BLOCK,
      head={'lm_head.weight': ('unembed/kernel', 'v m -> m v')},
      ignored=ignored,
  )


GEMMA3 = _family(gemma3_config, ('model.', ''), {})

GEMMA3_MULTIMODAL = _family(
    gemma3_multimodal_config,
    # As published, as newer files have it, and without its output projection.
    ('language_model.model.', 'model.language_model.', 'language_model.'),
    {r'(.*\.)?(vision_tower|multi_modal_projector)\..*':
         'the language half alone is read',
     r'(.*\.)?language_model\.lm_head\.weight':
         'the output projection is the embedding'})
