"""What `torch.save` writes: no torch, and no code from the file."""

import collections
import math
import os
import pickle
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PROTOCOL = 1001
_ZIP_MAGIC = b'PK\x03\x04'

_TORCH_DTYPES = {
    'DoubleStorage': np.dtype('<f8'),
    'FloatStorage': np.dtype('<f4'),
    'HalfStorage': np.dtype('<f2'),
    'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
    'LongStorage': np.dtype('<i8'),
    'IntStorage': np.dtype('<i4'),
    'ShortStorage': np.dtype('<i2'),
    'CharStorage': np.dtype('i1'),
    'ByteStorage': np.dtype('u1'),
    'BoolStorage': np.dtype('?'),
}


def read_torch_archive(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a state dict that `torch.save` wrote.

  Only the format from before torch 1.6 is read as yet: five pickles (magic
  number, protocol, system, object, keys of the storages) and then the storages,
  each an int64 count and the numbers.

  Args:
    path: the file.

  Returns:
    Arrays by name: read-only, in the file's type, sharing memory where the
    tensors of the file did.

  Raises:
    pickle.UnpicklingError: if a pickle asks for anything but tensors and dicts.
      Such a file could run code; nothing of it has been run.
    ValueError: if the file is cut short, damaged, or of another format.
  """
  with open(path, 'rb') as file:
    if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
      raise ValueError(
          f'{path} is a zip archive, the format of torch.save since torch 1.6, '
          'which is not read yet. Save it again with '
          '`_use_new_zipfile_serialization=False`.')
    file.seek(0)
    try:
      return _assemble(*_read_legacy_archive(file))
    except _Refused as error:
      raise pickle.UnpicklingError(f'{path}: {error}') from None
    except _Malformed as error:
      raise ValueError(f'{path}: {error}') from None


class _Refused(pickle.UnpicklingError):
  """A pickle asked for something that is not on the list."""


class _Malformed(ValueError):
  """The file is not what a reader expects."""


class _Storage(NamedTuple):
  """A run of numbers in the file, which several tensors may share."""

  key: str
  dtype: np.dtype
  size: int


class _Tensor(NamedTuple):
  """Where a tensor lies in its storage, counted in numbers and not in bytes."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _TorchUnpickler(pickle.Unpickler):
  """Unpickles tensors and dicts, and refuses everything else.

  A pickle is a program that may import and call whatever it names. This one is
  given stand-ins for the few names that a state dict needs: storages become
  strings, and the functions that rebuild tensors only note their arguments.
  """

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      return self._rebuild_tensor
    if (module, name) == ('torch._utils', '_rebuild_parameter'):
      return self._rebuild_parameter
    if module == 'torch' and name in _TORCH_DTYPES:
      return name
    raise _Refused(
        f'the file wants to import {module}.{name}, which a state dict does '
        'not need, so it is not read. If you trust it, load it with torch and '
        'save its state dict alone.')

  def persistent_load(self, pid: Any) -> _Storage:
    match pid:
      case ('storage', str(kind), str(key), str(), int(size), None) if (
          kind in _TORCH_DTYPES and size >= 0):
        return _Storage(key, _TORCH_DTYPES[kind], size)
    raise _Refused(f'the file refers to {pid!r}, which is not a storage.')

  # A pickle could change the defaults of a function it is given, but not of a
  # method.
  def _rebuild_tensor(
      self, storage, offset, shape, strides, requires_grad=False, hooks=None):
    del requires_grad, hooks
    numbers = (offset, *shape, *strides)
    if not (
        isinstance(storage, _Storage) and len(shape) == len(strides)
        and all(isinstance(number, int) and number >= 0 for number in numbers)):
      raise _Malformed(f'no tensor has {offset=}, {shape=} and {strides=}.')
    return _Tensor(storage, offset, tuple(shape), tuple(strides))

  def _rebuild_parameter(self, data, requires_grad=False, hooks=None):
    del requires_grad, hooks
    return data


def _read_legacy_archive(
    file: BinaryIO,
) -> tuple[dict[str, _Tensor], dict[str, np.ndarray]]:
  """Returns where the tensors lie, by name, and the storages by key."""
  if _unpickle(file) != _TORCH_MAGIC:
    raise _Malformed(
        'not a torch archive: expected its magic number in the first pickle.')
  protocol, system = _unpickle(file), _unpickle(file)
  if protocol != _TORCH_PROTOCOL:
    raise _Malformed(f'expected protocol {_TORCH_PROTOCOL}, came {protocol!r}.')
  if not (isinstance(system, dict) and system.get('little_endian')):
    raise _Malformed('it was not written on a little-endian machine.')
  tensors = _state_tensors(_unpickle(file))
  keys = _unpickle(file)
  # Storages do not say their type; the tensors that lie in them do.
  declared = {}
  for name, tensor in tensors.items():
    storage = tensor.storage
    if declared.setdefault(storage.key, storage) != storage:
      raise _Malformed(f'tensor {name!r} differs on the type of its storage.')
  if not isinstance(keys, list) or set(map(repr, keys)) != set(
      map(repr, declared)):
    raise _Malformed('its list of storages is not that of its tensors.')
  return tensors, {key: _read_storage(file, declared[key]) for key in keys}


def _unpickle(file: BinaryIO) -> Any:
  """Loads one pickle, and tells a file cut short from one that is wrong."""
  try:
    return _TorchUnpickler(file).load()
  except (_Refused, _Malformed):
    raise
  # A damaged pickle can make the unpickler raise nearly anything.
  except Exception as error:
    if isinstance(error, EOFError) or 'truncated' in str(error):
      raise _Malformed(
          'the file is cut short inside a pickle. Fetch it again.') from error
    raise _Malformed(
        f'not a torch archive, or a damaged one ({error!r}).') from error


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
  """Reads a count and as many numbers."""
  count = int.from_bytes(_read_exactly(file, 8, storage), 'little')
  if count != storage.size:
    raise _Malformed(
        f'storage {storage.key!r} has {count} numbers where its tensors say '
        f'{storage.size}.')
  data = _read_exactly(file, count * storage.dtype.itemsize, storage)
  return np.frombuffer(data, storage.dtype)


def _read_exactly(file: BinaryIO, size: int, storage: _Storage) -> bytes:
  left = os.fstat(file.fileno()).st_size - file.tell()
  if left < size:
    raise _Malformed(
        f'the file is cut short: storage {storage.key!r} needs {size} bytes '
        f'more and {left} are left. Fetch it again.')
  return file.read(size)


def _state_tensors(state: Any) -> dict[str, _Tensor]:
  """Checks that the object is a flat dict of tensors."""
  if not isinstance(state, dict):
    raise _Malformed(
        f'expected a dict of tensors by name, came a {type(state).__name__}.')
  for name, value in state.items():
    if not (isinstance(name, str) and isinstance(value, _Tensor)):
      raise _Malformed(
          'expected a dict of tensors by name, but it has a '
          f'{type(value).__name__} under {name!r}. Save the state dict alone.')
  return state


def _assemble(
    tensors: dict[str, _Tensor], storages: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Lays the tensors over their storages."""
  arrays = {}
  for name, tensor in tensors.items():
    data = storages[tensor.storage.key]
    if not _lies_within(tensor, data.size):
      raise _Malformed(f'tensor {name!r} lies outside of its storage.')
    arrays[name] = np.lib.stride_tricks.as_strided(
        data[tensor.offset:], tensor.shape,
        [stride * data.itemsize for stride in tensor.strides], writeable=False)
  return arrays


def _lies_within(tensor: _Tensor, size: int) -> bool:
  """Whether every number of a tensor is one of the `size` of its storage."""
  if math.prod(tensor.shape) == 0:
    return True
  last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides))
  return tensor.offset + last < size
