"""GGUF, the quantised files of llama.cpp (github.com/ggml-org/ggml)."""

import functools
import os
from typing import Any

import numpy as np

from flamingo.pretrained.formats import stored
from flamingo.pretrained.formats.stored import Stored

MAGIC = b'GGUF'


def open_gguf(
    path: str | os.PathLike,
) -> tuple[dict[str, Stored], dict[str, Any]]:
  """Reads which tensors a GGUF file has, and what it says of them.

  Layout: docs/gguf.md of github.com/ggml-org/ggml.

  Args:
    path: the file.

  Returns:
    Tensors by name, which are dequantised to float32 as they are read, and the
    metadata by key as strings, numbers and lists of these. Matrices are
    [out in]: GGUF lists the axes from the fastest to the slowest, and numpy the
    other way.

  Raises:
    ImportError: if the package `gguf` is missing.
    ValueError: if the file is cut short, damaged, of another format, or
      quantised in a way that the package cannot undo.
  """
  try:
    import gguf
    from gguf import quants
  except ImportError as error:
    raise ImportError(
        'Reading GGUF files takes the package gguf. Install it with '
        "`pip install 'gguf>=0.19'`.") from error

  class Reader(gguf.GGUFReader):
    """The package's reader, which notices the end of the file."""

    def _get(self, offset, dtype, count=1, override_order=None):
      # A slice of a map that ends early is short, and no error; and a list that
      # claims 2^60 numbers would never end.
      if int(offset) + int(count) * np.dtype(dtype).itemsize > self.data.size:
        raise ValueError('the file ends early')
      return super()._get(offset, dtype, count, override_order)

  try:
    # The package counts in numpy's integers.
    with np.errstate(over='raise'):
      reader = Reader(path)
    metadata = {
        name: field.contents() for name, field in reader.fields.items()}
  except (
      ValueError, LookupError, ArithmeticError, RecursionError) as error:
    raise ValueError(
        f'{path}: not a GGUF file, or one cut short or damaged ({error}). '
        'Fetch it again.') from error

  def read(offset, shape, dtype, kind):
    try:
      packed = stored.read_array(path, offset, shape, dtype)
      return np.asarray(quants.dequantize(packed, kind), order='C')
    except NotImplementedError as error:
      raise ValueError(
          f'{path}: {error}. Convert the model with another quantisation, '
          'Q8_0 for one.') from None

  tensors = {}
  for tensor in reader.tensors:
    tensors[tensor.name] = Stored(
        tuple(int(size) for size in reversed(tensor.shape)),
        np.dtype(np.float32),
        functools.partial(
            read, tensor.data_offset, tensor.data.shape, tensor.data.dtype,
            tensor.tensor_type),
        str(path))
  return tensors, metadata


def read_gguf(
    path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads all of a GGUF file: see `open_gguf`, which takes less memory."""
  tensors, metadata = open_gguf(path)
  return {name: tensor.read() for name, tensor in tensors.items()}, metadata
