"""Safetensors (github.com/huggingface/safetensors): JSON, then the numbers."""

from collections.abc import Mapping
import json
import math
import os
from typing import Any

import ml_dtypes
import numpy as np

from flamingo.pretrained.formats import stored
from flamingo.pretrained.formats.stored import Stored

# Of the format: a longer header is refused by every reader.
_MOST_HEADER = 100_000_000

_DTYPES = {
    'F64': np.dtype('<f8'),
    'F32': np.dtype('<f4'),
    'F16': np.dtype('<f2'),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
    'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2),
    'F8_E8M0': np.dtype(ml_dtypes.float8_e8m0fnu),
    'C64': np.dtype('<c8'),
    'I64': np.dtype('<i8'),
    'I32': np.dtype('<i4'),
    'I16': np.dtype('<i2'),
    'I8': np.dtype('i1'),
    'U64': np.dtype('<u8'),
    'U32': np.dtype('<u4'),
    'U16': np.dtype('<u2'),
    'U8': np.dtype('u1'),
    'BOOL': np.dtype('?'),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def open_safetensors(path: str | os.PathLike) -> dict[str, Stored]:
  """Reads which tensors a safetensors file has, and none of them yet.

  Args:
    path: the file.

  Returns:
    The tensors by name, in the order of the header.

  Raises:
    ValueError: if the file is cut short, damaged, of another format, or has a
      type of numbers that numpy and `ml_dtypes` lack.
  """
  try:
    with open(path, 'rb') as file:
      size = os.fstat(file.fileno()).st_size
      prefix = file.read(8)
      length = int.from_bytes(prefix, 'little')
      if len(prefix) < 8 or length > _MOST_HEADER:
        raise ValueError(
            'not a safetensors file: expected the length of its header in the '
            f'first 8 bytes, at most {_MOST_HEADER}, came {prefix!r}.')
      if length > size - 8:
        raise ValueError(
            f'the file is cut short inside its header: {length} bytes are '
            f'announced and {size - 8} are left. Fetch it again.')
      header = _parse(file.read(length))
    spans = {
        name: _span(name, entry) for name, entry in header.items()
        if name != '__metadata__'}
    _check_spans(spans, size - 8 - length)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None

  def open_one(begin: int, dtype: np.dtype, shape: tuple[int, ...]) -> Stored:
    read = lambda: stored.read_array(path, 8 + length + begin, shape, dtype)
    return Stored(shape, dtype, read, str(path))

  return {
      name: open_one(begin, dtype, shape)
      for name, (begin, _, dtype, shape) in spans.items()}


_Span = tuple[int, int, np.dtype, tuple[int, ...]]


def _parse(text: bytes) -> dict[str, Any]:
  """Parses the header: a JSON object by the names of the tensors."""

  def without_twins(pairs):
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
      twin = next(name for name in names if names.count(name) > 1)
      raise ValueError(f'its header has {twin!r} twice.')
    return dict(pairs)

  try:
    header = json.loads(text.decode(), object_pairs_hook=without_twins)
  except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
    raise ValueError(
        'not a safetensors file, or a damaged one: its header is no JSON '
        f'({error}). Fetch it again.') from None
  if not isinstance(header, dict):
    raise ValueError(
        'expected a JSON object as the header, came '
        f'a {type(header).__name__}.')
  return header


def _span(name: str, entry: Any) -> _Span:
  """Where a tensor begins and ends after the header, its type and shape."""
  try:
    kind, shape = entry['dtype'], entry['shape']
    begin, end = entry['data_offsets']
  except (TypeError, KeyError, ValueError):
    raise ValueError(
        f'tensor {name!r}: expected a dtype, a shape and two data_offsets, '
        f'came {entry!r:.200}.') from None
  if not (isinstance(kind, str) and kind in _DTYPES):
    raise ValueError(
        f'tensor {name!r}: expected a dtype of {sorted(_DTYPES)}, came '
        f'{kind!r:.100}. Save it in one of these.')
  if not (stored.is_shape(shape) and type(begin) is type(end) is int):
    raise ValueError(
        f'tensor {name!r}: no tensor has the shape {shape!r:.200} and the '
        f'offsets {[begin, end]!r:.200}.')
  dtype, shape = _DTYPES[kind], tuple(shape)
  size = math.prod(shape) * dtype.itemsize
  if end - begin != size:
    raise ValueError(
        f'tensor {name!r}: {kind} of shape {shape} takes {size} bytes, but '
        f'its offsets {[begin, end]} span {end - begin}. The file is damaged.')
  return begin, end, dtype, shape


def _check_spans(spans: Mapping[str, _Span], size: int) -> None:
  """Raises ValueError unless the tensors fill the file without holes."""
  filled = 0
  for name, (begin, end, *_) in sorted(
      spans.items(), key=lambda item: item[1][:2]):
    if begin != filled:
      what = 'a hole' if begin > filled else 'another tensor'
      raise ValueError(
          f'tensor {name!r} begins at byte {begin}, where {filled} was due: '
          f'there is {what}. The file is damaged.')
    filled = end
  if filled > size:
    raise ValueError(
        f'the file is cut short: its tensors take {filled} bytes and {size} '
        'are there. Fetch it again.')
  if filled < size:
    raise ValueError(
        f'{size - filled} bytes at the end of the file belong to no tensor. '
        'The file is damaged.')


def write_file(
    path: str | os.PathLike,
    tensors: Mapping[str, np.ndarray | Stored],
    metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes one safetensors file; `write_safetensors` is for users.

  What is `Stored` is read when its turn comes, and one tensor at a time. The
  file gets its name when it is whole.

  Args:
    path: the file, which is replaced if it is there.
    tensors: by name.
    metadata: words for the header, by words.

  Raises:
    ValueError: for a type of numbers that the format lacks, a name that it
      keeps for itself, metadata that are not words, or a `Stored` that reads as
      something else than it said.
  """
  header, end = {}, 0
  if metadata:
    if not all(isinstance(x, str) for pair in metadata.items() for x in pair):
      raise ValueError(f'Expected metadata of str by str, came {metadata!r}.')
    header['__metadata__'] = dict(metadata)
  # Wide numbers come first, so that each number lies at a multiple of its own
  # size and a file can be mapped.
  names = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
  for name in names:
    tensor = tensors[name]
    kind = _NAMES.get(tensor.dtype.newbyteorder('<'))
    if kind is None or name == '__metadata__':
      raise ValueError(
          f'Tensor {name!r} of {tensor.dtype} has no place in a safetensors '
          f'file. Expected a type of {sorted(map(str, _NAMES))}, and any name '
          'but __metadata__.')
    begin, end = end, end + tensor.nbytes
    header[name] = dict(
        dtype=kind, shape=list(tensor.shape), data_offsets=[begin, end])
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  part = f'{os.fspath(path)}.part'
  try:
    with open(part, 'wb') as file:
      file.write(len(text).to_bytes(8, 'little') + text)
      for name in names:
        file.write(_bytes(name, tensors[name]))
    os.replace(part, path)
  finally:
    if os.path.exists(part):
      os.remove(part)


def _bytes(name: str, tensor: np.ndarray | Stored) -> memoryview:
  array = tensor.read() if isinstance(tensor, Stored) else tensor
  if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
    raise ValueError(
        f'Tensor {name!r} was said to be {tensor.dtype} of shape '
        f'{tensor.shape}, and is {array.dtype} of {array.shape}.')
  array = np.asarray(array, array.dtype.newbyteorder('<'), order='C')
  return memoryview(array.reshape(-1).view(np.uint8))
