"""GGUF, the quantised files of llama.cpp (github.com/ggml-org/ggml).

The package `gguf` knows how numbers are packed. Its reader is not used: it
takes seconds for the hundred thousand words of a vocabulary.
"""

import functools
import math
import os
from typing import Any, BinaryIO

import numpy as np

from flamingo.pretrained.formats import stored
from flamingo.pretrained.formats.stored import Stored

MAGIC = b'GGUF'
_VERSIONS = (2, 3)

# Of values among the metadata, by the number that the format has for them.
_NUMBERS = {
    0: 'u1', 1: 'i1', 2: '<u2', 3: '<i2', 4: '<u4', 5: '<i4', 6: '<f4', 7: '?',
    10: '<u8', 11: '<i8', 12: '<f8'}
_TEXT, _LIST = 8, 9
_MOST_AXES = 4


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
  except ImportError as error:
    raise ImportError(
        'Reading GGUF files takes the package gguf. Install it with '
        "`pip install 'gguf>=0.19'`.") from error
  tensors = {}
  try:
    with open(path, 'rb') as file:
      header = _Header(file)
      infos, metadata = _read_header(header)
      alignment = metadata.get('general.alignment', 32)
      if type(alignment) is not int or alignment < 1 or (
          alignment & alignment - 1):
        raise ValueError(
            f'tensors lie at multiples of a power of 2, not {alignment!r}')
      start = -(-file.tell() // alignment) * alignment
    for name, (shape, number, offset) in infos.items():
      kind = gguf.GGMLQuantizationType(number)
      packed = _packed_shape(shape, *gguf.GGML_QUANT_SIZES[kind])
      if start + offset + math.prod(packed) > header.size:
        raise ValueError(f'the file ends within tensor {name!r}')
      tensors[name] = Stored(
          shape, np.dtype(np.float32),
          functools.partial(_read, path, start + offset, packed, shape, kind),
          str(path))
  except (ValueError, LookupError, RecursionError) as error:
    raise ValueError(
        f'{path}: not a GGUF file, or one cut short or damaged ({error}). '
        'Fetch it again.') from error
  return tensors, metadata


class _Header:
  """Reads a file from its start on, and notices its end.

  Attributes:
    size: of the file, in bytes.
  """

  def __init__(self, file: BinaryIO):
    self.size = os.fstat(file.fileno()).st_size
    self._left = self.size
    self._file = file

  def take(self, count: int) -> bytes:
    self._left -= count
    if self._left < 0:
      raise ValueError('the file ends early')
    return self._file.read(count)

  def count(self, size: int = 8) -> int:
    """A number without a sign, of as many bytes."""
    return int.from_bytes(self.take(size), 'little')

  def text(self) -> str:
    return str(self.take(self.count()), 'utf-8')

  def value(self, kind: int) -> Any:
    """A string, a number, or a list of either or of lists."""
    if kind == _TEXT:
      return self.text()
    if kind == _LIST:
      inner, count = self.count(4), self.count()
      if inner in _NUMBERS:
        return self._numbers(inner, count)
      # Each takes a byte at least, so that this ends.
      return [self.value(inner) for _ in range(min(count, self._left + 1))]
    if kind in _NUMBERS:
      return self._numbers(kind, 1)[0]
    raise ValueError(f'no value is of kind {kind}')

  def _numbers(self, kind: int, count: int) -> list:
    dtype = np.dtype(_NUMBERS[kind])
    return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()


_Info = tuple[tuple[int, ...], int, int]


def _read_header(header: _Header) -> tuple[dict[str, _Info], dict[str, Any]]:
  """Shape, kind and offset of each tensor; and the metadata."""
  if header.take(4) != MAGIC:
    raise ValueError('it does not begin with GGUF')
  version = header.count(4)
  if version not in _VERSIONS:
    # Of a big-endian file, it is 3 << 24.
    raise ValueError(f'expected version 2 or 3, came {version}')
  tensors, pairs = header.count(), header.count()
  metadata, infos = {}, {}
  for _ in range(pairs):
    key = header.text()
    if key in metadata:
      raise ValueError(f'its metadata have {key!r} twice')
    metadata[key] = header.value(header.count(4))
  for _ in range(tensors):
    name = header.text()
    if name in infos:
      raise ValueError(f'it has tensor {name!r} twice')
    axes = header.count(4)
    shape = [header.count() for _ in range(min(axes, _MOST_AXES))][::-1]
    if axes > _MOST_AXES or not stored.is_shape(shape):
      raise ValueError(f'no tensor has the shape {shape!r:.200}')
    infos[name] = tuple(shape), header.count(4), header.count()
  return infos, metadata


def _packed_shape(
    shape: tuple[int, ...], block: int, size: int
) -> tuple[int, ...]:
  """Shape in bytes, where rows consist of blocks of numbers."""
  *rows, row = shape or (1,)
  if row % block:
    raise ValueError(f'rows of {row} do not consist of blocks of {block}')
  return *rows, row // block * size


def _read(path, offset, packed, shape, kind) -> np.ndarray:
  from gguf import quants
  array = stored.read_array(path, offset, packed, np.dtype(np.uint8))
  try:
    array = quants.dequantize(array, kind)
  except NotImplementedError as error:
    raise ValueError(
        f'{path}: {error}. Convert the model with another quantisation, Q8_0 '
        'for one.') from None
  return np.asarray(array.reshape(shape), order='C')
