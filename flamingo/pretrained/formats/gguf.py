"""GGUF, the quantised files of llama.cpp."""

import os
from typing import Any

import numpy as np


def read_gguf(
    path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads a GGUF file (github.com/ggml-org/ggml, docs/gguf.md).

  Args:
    path: the file.

  Returns:
    Tensors by name, dequantised to float32, and the metadata by key as strings,
    numbers and lists of these. Matrices are [out in]: GGUF lists the axes from
    the fastest to the slowest, and numpy the other way.

  Raises:
    ImportError: if the package `gguf` is missing.
    ValueError: if the file is cut short, damaged, or of another format.
  """
  try:
    import gguf
    from gguf import quants
  except ImportError as error:
    raise ImportError(
        'Reading GGUF files takes the package gguf. Install it with '
        "`pip install 'gguf>=0.19'`.") from error
  try:
    reader = gguf.GGUFReader(path)
  except (ValueError, IndexError, KeyError, OverflowError) as error:
    raise ValueError(
        f'{path}: not a GGUF file, or one cut short or damaged ({error}). '
        'Fetch it again.') from error
  tensors = {}
  for tensor in reader.tensors:
    values = quants.dequantize(np.asarray(tensor.data), tensor.tensor_type)
    # What was float32 comes back as a view of the mapped file.
    shared = tensor.tensor_type == gguf.GGMLQuantizationType.F32
    tensors[tensor.name] = values.copy() if shared else values
  metadata = {
      name: field.contents() for name, field in reader.fields.items()}
  return tensors, metadata
