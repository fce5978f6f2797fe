"""Language models in GGUF files, as those of Hugging Face under other names.

llama.cpp's converter renames the tensors of Hugging Face and lays some of them
out otherwise. So the rules here are those of the families, renamed by the
tables of the package `gguf`.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
from typing import Any

import numpy as np

from flamingo.data.tags import FLAMINGO, Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.attention import Dtype
from flamingo.model.positions import RopeScaling
from flamingo.pretrained import formats
from flamingo.pretrained import gguf_tokenizer
from flamingo.pretrained import layouts
from flamingo.pretrained.families import Family, FAMILIES, Fields, shapes
from flamingo.types import Params

_EMBEDDING, _OUTPUT, _SLOWED = (
    'token_embd.weight', 'output.weight', 'rope_freqs.weight')


def load_gguf_lm(
    path: str | os.PathLike,
    *,
    dtype: Dtype = np.float32,
    place: layouts.Place | None = None,
    tags: Tags = FLAMINGO,
) -> tuple[dict[str, Any], Params, Tokenizer]:
  """Loads a language model from a GGUF file; see `lm.load_lm`.

  Architectures: llama, gpt2, gptneox, mpt, gemma3. What a file leaves open, the
  activation for one, is as in the family's published models.

  Raises:
    ImportError: the package `gguf` is missing.
    ValueError: it is no GGUF file, or of another architecture, or something in
      it is missing, left over, or not understood.
  """
  tensors, metadata = formats.open_gguf(path)
  try:
    name = metadata.get('general.architecture')
    if name not in _ARCHITECTURES:
      raise ValueError(
          f'expected an architecture of {sorted(_ARCHITECTURES)}, came '
          f'{name!r}. Convert a model of these families.')
    if _EMBEDDING not in tensors:
      raise ValueError(
          f'expected the tensor {_EMBEDDING}, came {layouts.some(tensors)}. '
          'Convert the whole model.')
    architecture = _ARCHITECTURES[name]
    config = _read_config(name, architecture, metadata, tensors)
    tokenizer = gguf_tokenizer.read_tokenizer(
        metadata, config['vocab_size'], tags)
    params, _ = layouts.read_params(
        tensors, _rules(name, architecture, config), shapes(config),
        what='file', place=layouts.cast(dtype, place),
        ignored={_SLOWED: 'it says how the rotary embedding is slowed down'})
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  return config, params, tokenizer


@dataclasses.dataclass(frozen=True)
class _Architecture:
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
_ARCHITECTURES = {
    'llama': _Architecture(FAMILIES['llama'], _llama, {
        'self_attn.q_proj.weight': '(h i p) m -> m h (p i)',
        'self_attn.q_proj.bias': '(h i p) -> h (p i)',
        'self_attn.k_proj.weight': '(k i p) m -> m k (p i)',
        'self_attn.k_proj.bias': '(k i p) -> k (p i)'}),
    # Turned over, as torch has linear layers.
    'gpt2': _Architecture(FAMILIES['gpt2'], _gpt2, {
        'attn.c_attn.weight': '(n h d) m -> n m h d',
        'attn.c_proj.weight': 'm (h d) -> h d m',
        'mlp.c_fc.weight': 'f m -> m f',
        'mlp.c_proj.weight': 'm f -> f m'}),
    # All queries, all keys, all values.
    'gptneox': _Architecture(FAMILIES['gpt_neox'], _gptneox, {
        'attention.query_key_value.weight': '(n h d) m -> n m h d',
        'attention.query_key_value.bias': '(n h d) -> n h d'}),
    'mpt': _Architecture(FAMILIES['mpt'], _mpt),
    # 1 is added to its norms.
    'gemma3': _Architecture(
        FAMILIES['gemma3_text'], _gemma3, changes=dict(norm_plus_one=False)),
}


def _read_config(
    name: str,
    architecture: _Architecture,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, formats.Stored],
) -> dict[str, Any]:
  """The arguments of `LM`. What they cannot express is an error."""
  fields = Fields(
      {key: _shortest(value) for key, value in metadata.items()
       if key.startswith(f'{name}.')}, 'the file')
  for key, value in metadata.items():
    if key.startswith(f'{name}.') and isinstance(value, list):
      raise ValueError(
          f'the file has {key} = {value}, and LM has the same in every layer. '
          'Take a model that it can express.')
  take = lambda key, *default: fields.take(f'{name}.{key}', *default)
  values = architecture.config(take, tensors)
  rows = tensors[_EMBEDDING].shape[0]
  values |= dict(vocab_size=rows, tie_word_embeddings=_OUTPUT not in tensors)
  kind = take('rope.scaling.type', 'none')
  factor = take('rope.scaling.factor', None)
  if kind != 'none':
    values['rope_scaling'] = dict(type=kind, factor=factor)
  fields.drop(f'{name}.context_length', f'{name}.rope.scaling.finetuned')
  understood = Fields(values, 'the file')
  config = architecture.family.config(understood) | architecture.changes
  understood.finish()
  if _SLOWED in tensors:
    config['rope_scaling'] = _llama3_scaling(tensors[_SLOWED].read(), config)
  rotary = int(config['head_dim'] * config.get('rope_fraction', 1))
  for key, value in {
      'vocab_size': rows, 'rope.dimension_count': rotary,
      'attention.head_count_kv': config['kv_heads'],
      'attention.key_length': config['head_dim'],
      'attention.value_length': config['head_dim'],
      'attention.causal': True}.items():
    fields.expect(**{f'{name}.{key}': value})
  fields.finish()
  return config


def _llama3_scaling(
    factors: np.ndarray, config: Mapping[str, Any]
) -> RopeScaling:
  """What the factors on the wavelengths say, with Llama 3.1's constants."""
  scaling = RopeScaling(
      'llama3', float(factors.max()), low=1.0, high=4.0, original=8192)
  frequency = config['rope_base'] ** (
      -np.arange(0, config['head_dim'], 2) / config['head_dim'])
  expected = frequency / scaling(frequency)
  if config['rope_scaling'] is not None or expected.shape != factors.shape or (
      not np.allclose(expected, factors, rtol=1e-4)):
    raise ValueError(
        f'{_SLOWED} slows the rotary embedding down by {factors}, and LM knows '
        f'the way of Llama 3.1, {expected}. Load the model from a Hugging Face '
        'directory.')
  return scaling


def _rules(
    name: str, architecture: _Architecture, config: Mapping[str, Any]
) -> list[layouts.Rule]:
  """Rules of the family by the names and in the layouts of llama.cpp."""
  import gguf
  kinds = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
  names = gguf.get_tensor_name_map(kinds[name], config['layers'])
  rules = []
  for rule in architecture.family.rules(config):
    stem, _, end = rule.theirs.rpartition('.')
    layout = next(
        (layout for theirs, layout in architecture.layouts.items()
         if rule.theirs.endswith(f'.{theirs}')), rule.layout)
    rules.append(layouts.Rule.of(
        f'{names.get_name(stem)}.{end}', rule.ours, layout,
        **(dict(p=2) if ' p)' in layout else {})))
  return rules


def _shortest(x: Any) -> Any:
  """The decimal number that was stored as float32: 1e-5, not 9.99999975e-6."""
  return float(str(np.float32(x))) if isinstance(x, float) else x
