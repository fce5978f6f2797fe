"""What torch saves, read without torch and without code from the file.

Since torch 1.6 it is a zip archive: a pickle, and a file for each storage; a
program of TorchScript has its code in there too. Before, it was five pickles,
and then the storages one after another.
"""

import dataclasses
import io
import math
import os
import pickle
import struct
from typing import Any, BinaryIO
import zipfile

import numpy as np

from flamingo.pretrained.formats import stored
from flamingo.pretrained.formats import torch_pickle
from flamingo.pretrained.formats.stored import Stored
from flamingo.pretrained.formats.torch_names import (
    Malformed, Refused, ScriptModule, Storage, Tensor)
from flamingo.pretrained.formats.torch_script import tensors_of_modules

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
ZIP_MAGIC = b'PK\x03\x04'


def open_torch_archive(path: str | os.PathLike) -> dict[str, Stored]:
  """Reads which tensors a file of torch has, and none of them yet.

  Args:
    path: a state dict, or what a trainer saves: a dict that has one, beside the
      state of its optimizer, counts and the like; or what `torch.jit.save`
      writes, as the models of OpenAI's CLIP are.

  Returns:
    The tensors by name.

  Raises:
    pickle.UnpicklingError: if a pickle asks for anything but tensors, plain
      values and collections. Such a file could run code; nothing of it has been
      run.
    ValueError: if the file is cut short, damaged, of another format, or without
      a dict of tensors.
  """
  try:
    with open(path, 'rb') as file:
      size = os.fstat(file.fileno()).st_size
      zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
      file.seek(0)
      state, places = (_read_zip if zipped else _read_legacy)(file, size)
    return {
        name: _open_tensor(path, name, tensor, places[tensor.storage.key], size)
        for name, tensor in find_state_dict(state).items()}
  except Refused as error:
    raise pickle.UnpicklingError(f'{path}: {error}') from None
  except Malformed as error:
    raise ValueError(f'{path}: {error}') from None


def read_torch_archive(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads all of a file: see `open_torch_archive`, which takes less memory."""
  return {
      name: tensor.read() for name, tensor in open_torch_archive(path).items()}


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where a storage lies in the file, in bytes."""

  offset: int
  size: int


def _read_zip(file: BinaryIO, size: int) -> tuple[Any, dict[str, _Place]]:
  """Returns the object, and where the storages lie by key."""
  try:
    with zipfile.ZipFile(file) as archive:
      entries = {entry.filename: entry for entry in archive.infolist()}
      several = len(entries) != len(archive.infolist())
  # The list of a damaged zip can raise nearly anything.
  except Exception as error:
    raise Malformed(
        f'the zip archive is cut short or damaged ({error}). Fetch it '
        'again.') from None
  for name in entries:
    if name.startswith('/') or '\\' in name or '..' in name.split('/'):
      raise Malformed(
          f'its entry {name!r} leads out of the archive. Do not trust it.')
  tops = [
      name.removesuffix('data.pkl') for name in entries
      if name.count('/') == 1 and name.endswith('/data.pkl')]
  if len(tops) != 1 or several:
    raise Malformed(
        'not a torch archive: expected a zip archive with one NAME/data.pkl '
        f'and no entry twice, came {len(entries)} entries, such as '
        f'{sorted(entries)[:4]}.')

  def place(name: str) -> _Place:
    if name not in entries:
      raise Malformed(f'its entry {name!r} is missing. Fetch the file again.')
    return _place(file, entries[name], size)

  def content(name: str) -> bytes:
    at = place(name)
    file.seek(at.offset)
    return file.read(at.size)

  order = f'{tops[0]}byteorder'
  if order in entries and content(order) != b'little':
    raise Malformed('it was not written on a little-endian machine.')
  state, storages = torch_pickle.load(io.BytesIO(content(f'{tops[0]}data.pkl')))
  places = {key: place(f'{tops[0]}data/{key}') for key in storages}
  for key, storage in storages.items():
    _check_size(storage, places[key].size / storage.dtype.itemsize)
  return state, places


def _place(file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> _Place:
  """Where the content of a zip entry lies."""
  if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or (
      entry.compress_size != entry.file_size):
    raise Malformed(
        f'its entry {entry.filename!r} is packed, which torch never does. '
        'Unpack the archive and zip it with `zip -0`.')
  # The header before the content has a padding that the list lacks.
  file.seek(max(entry.header_offset, 0))
  header = file.read(30)
  if entry.header_offset < 0 or len(header) < 30 or (
      not header.startswith(ZIP_MAGIC)):
    raise Malformed(
        f'its entry {entry.filename!r} is not where its list says. Fetch the '
        'file again.')
  start = entry.header_offset + 30 + sum(struct.unpack('<2H', header[26:]))
  if start + entry.file_size > size:
    raise Malformed(
        f'the file is cut short inside {entry.filename!r}. Fetch it again.')
  return _Place(start, entry.file_size)


def _read_legacy(file: BinaryIO, size: int) -> tuple[Any, dict[str, _Place]]:
  """Returns the object, and where the storages lie by key."""
  magic, _ = torch_pickle.load(file)
  if magic != _MAGIC:
    raise Malformed(
        'not a torch archive: expected its magic number in the first pickle.')
  (protocol, _), (system, _) = torch_pickle.load(file), torch_pickle.load(file)
  if protocol != _PROTOCOL:
    raise Malformed(f'expected protocol {_PROTOCOL}, came {protocol!r:.100}.')
  if not (isinstance(system, dict) and system.get('little_endian')):
    raise Malformed('it was not written on a little-endian machine.')
  state, storages = torch_pickle.load(file)
  keys, _ = torch_pickle.load(file)
  if not isinstance(keys, list) or sorted(map(repr, keys)) != sorted(
      map(repr, storages)):
    raise Malformed('its list of storages is not that of its tensors.')
  places = {}
  for key in keys:
    # Each is a count and as many numbers. Their type is in the pickle.
    count = file.read(8)
    left = size - file.tell()
    storage = storages[key]
    nbytes = storage.size * storage.dtype.itemsize
    if len(count) == 8:
      _check_size(storage, int.from_bytes(count, 'little'))
    if len(count) < 8 or left < nbytes:
      raise Malformed(
          f'the file is cut short: storage {key!r} needs {nbytes} bytes more '
          f'and {left} are left. Fetch it again.')
    places[key] = _Place(file.tell(), nbytes)
    file.seek(nbytes, os.SEEK_CUR)
  return state, places


def _check_size(storage: Storage, count: float) -> None:
  if count != storage.size:
    raise Malformed(
        f'storage {storage.key!r} has {count:g} numbers where its tensors say '
        f'{storage.size}. The file is damaged.')


# Names that trainers give to a state dict among other dicts of tensors.
_STATE_DICTS = ('model_state_dict', 'state_dict', 'model', 'module')


def find_state_dict(state: Any) -> dict[str, Tensor]:
  """The dict of tensors in what a file holds, and nothing that is beside them.

  Raises:
    Malformed: if there is none, or no telling which.
  """
  if isinstance(state, ScriptModule):
    return tensors_of_modules(state)
  if not isinstance(state, dict):
    raise Malformed(
        f'expected a dict of tensors by name, came a {type(state).__name__}.')
  inner = {
      name: value for name, value in state.items() if _tensors_of(value)}
  for name in _STATE_DICTS:
    if name in inner:
      return _tensors_of(inner[name])
  found = list(inner.values()) + ([state] if _tensors_of(state) else [])
  if len(found) != 1:
    raise Malformed(
        'expected one dict of tensors by name, came '
        f'{len(found)} among {list(state)!r:.200}. Save the state dict alone.')
  return _tensors_of(found[0])


def _tensors_of(state: Any) -> dict[str, Tensor]:
  if not isinstance(state, dict):
    return {}
  return {
      name: value for name, value in state.items()
      if isinstance(name, str) and isinstance(value, Tensor)}


def _open_tensor(
    path: str | os.PathLike,
    name: str,
    tensor: Tensor,
    place: _Place,
    file_size: int,
) -> Stored:
  """Checks that a tensor lies in its storage."""
  itemsize = tensor.dtype.itemsize
  begin = tensor.offset * itemsize
  if tensor.extent and begin + tensor.extent * itemsize > place.size:
    raise Malformed(f'tensor {name!r} lies outside of its storage.')
  # A stride of 0 repeats a number as often as the shape says.
  if math.prod(tensor.shape) * itemsize > file_size:
    raise Malformed(
        f'tensor {name!r} of shape {tensor.shape} is larger than the file.')
  read = lambda: _read_tensor(path, place.offset + begin, tensor)
  return Stored(tensor.shape, tensor.dtype, read, str(path))


def _read_tensor(
    path: str | os.PathLike, offset: int, tensor: Tensor
) -> np.ndarray:
  dense = tuple(
      math.prod(tensor.shape[i + 1:]) for i in range(len(tensor.shape)))
  if tensor.strides == dense or 0 in tensor.shape:
    return stored.read_array(path, offset, tensor.shape, tensor.dtype)
  run = stored.read_array(path, offset, (tensor.extent,), tensor.dtype)
  return np.array(np.lib.stride_tricks.as_strided(
      run, tensor.shape,
      [stride * run.itemsize for stride in tensor.strides]), order='C')
