"""Language models in GGUF files, as those of Hugging Face under other names.

llama.cpp's converter renames the tensors of Hugging Face and lays some of them
out otherwise. So the rules here are those of the families, renamed by the
tables of the package `gguf`.
"""

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from flamingo.data.tags import FLAMINGO, Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.positions import RopeScaling
from flamingo.model.products import Dtype
from flamingo.pretrained import formats
from flamingo.pretrained import gguf_tokenizer
from flamingo.pretrained import layouts
from flamingo.pretrained.families import Fields, shapes
from flamingo.pretrained.gguf_architectures import Architecture, ARCHITECTURES
from flamingo.pretrained.rules import Rule
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
    if name not in ARCHITECTURES:
      raise ValueError(
          f'expected an architecture of {sorted(ARCHITECTURES)}, came '
          f'{name!r}. Convert a model of these families.')
    if _EMBEDDING not in tensors:
      raise ValueError(
          f'expected the tensor {_EMBEDDING}, came {layouts.some(tensors)}. '
          'Convert the whole model.')
    architecture = ARCHITECTURES[name]
    config = _read_config(name, architecture, metadata, tensors)
    tokenizer = gguf_tokenizer.read_tokenizer(
        metadata, config['vocab_size'], tags)
    params, _ = layouts.read_params(
        tensors, _rules(name, architecture, config), shapes(config),
        what='file', place=layouts.cast(dtype, place),
        ignored={_SLOWED: 'it says how the rotary embedding is slowed down'}
        if config.get('rope_scaling') else None)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  return config, params, tokenizer


def _read_config(
    name: str,
    architecture: Architecture,
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
  if _SLOWED in tensors and 'rope_base' in config:
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
    name: str, architecture: Architecture, config: Mapping[str, Any]
) -> list[Rule]:
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
    rules.append(Rule.of(
        f'{names.get_name(stem)}.{end}', rule.ours, layout,
        **(dict(p=2) if ' p)' in layout else {})))
  return rules


def _shortest(x: Any) -> Any:
  """The decimal number that was stored as float32: 1e-5, not 9.99999975e-6."""
  return float(str(np.float32(x))) if isinstance(x, float) else x
