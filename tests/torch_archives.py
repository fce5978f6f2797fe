"""Writes what torch saves, without torch: for tests of its readers."""

import collections
import io
import pathlib
import pickle
import sys
import types
from typing import Any, NamedTuple
from unittest import mock
import zipfile

import numpy as np

_STORAGES = {'<f4': 'FloatStorage', '<f2': 'HalfStorage', '<i8': 'LongStorage'}


class Tensor(NamedTuple):
  """What a pickle says of a tensor; strides and offset count numbers."""

  key: str
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  hooks: Any = collections.OrderedDict()


class Module:
  """A module of a TorchScript program: what it is made of, by name."""

  __module__ = '__torch__'

  def __init__(self, **attributes):
    vars(self).update(attributes)


class _Storage(NamedTuple):
  key: str


def pickled(
    state: Any,
    storages: dict[str, np.ndarray],
    numbers: dict[str, int] | None = None,
    views: tuple = (),
) -> tuple[bytes, list[str]]:
  """The pickle of an object with tensors in it, and the storages it mentions.

  Args:
    state: the object, with a `Tensor` for each tensor and a `Module` for each
      module of TorchScript.
    storages: what the tensors lie in, by key.
    numbers: sizes of storages, where the pickle should lie about them.
    views: what archives before 1.6 add to each storage.
  """
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  script = types.ModuleType('__torch__')
  script.Module = Module
  for name in _STORAGES.values():
    setattr(torch, name, type(name, (), {'__module__': 'torch'}))
  torch._utils = utils
  utils._rebuild_tensor_v2 = lambda *args: args
  utils._rebuild_tensor_v2.__module__ = 'torch._utils'
  utils._rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'

  used = set()

  class Pickler(pickle.Pickler):

    def reducer_override(self, value):
      if not isinstance(value, Tensor):
        return NotImplemented
      return utils._rebuild_tensor_v2, (
          _Storage(value.key), *value[1:4], False, value.hooks)

    def persistent_id(self, value):
      if not isinstance(value, _Storage):
        return None
      used.add(value.key)
      storage = storages[value.key]
      kind = getattr(torch, _STORAGES[storage.dtype.str])
      size = (numbers or {}).get(value.key, storage.size)
      return 'storage', kind, value.key, 'cpu', size, *views

  file = io.BytesIO()
  with mock.patch.dict(sys.modules, {
      'torch': torch, 'torch._utils': utils, '__torch__': script}):
    Pickler(file, 2).dump(state)
  return file.getvalue(), sorted(used)


def write_zip(
    path: pathlib.Path,
    state: Any,
    storages: dict[str, np.ndarray],
    *,
    numbers: dict[str, int] | None = None,
    program: bytes | None = None,
    more: dict[str, bytes] | None = None,
    **options,
) -> pathlib.Path:
  """Writes the archive of torch since 1.6.

  Args:
    path: of the file.
    state: see `pickled`.
    storages: see `pickled`.
    numbers: see `pickled`.
    program: a pickle to take the place of that of `state`.
    more: further entries, or others than they would be; None leaves one out.
    **options: of `zipfile.ZipFile`.
  """
  if program is None:
    program, _ = pickled(state, storages, numbers)
  entries = {'weights/data.pkl': program, 'weights/byteorder': b'little'}
  for key, storage in storages.items():
    entries[f'weights/data/{key}'] = storage.tobytes()
  entries |= {'weights/version': b'3\n'} | (more or {})
  with zipfile.ZipFile(path, 'w', **options) as archive:
    for name, content in entries.items():
      if content is not None:
        archive.writestr(name, content)
  return path


def write_legacy(
    path: pathlib.Path,
    state: Any,
    storages: dict[str, np.ndarray],
    *,
    numbers: dict[str, int] | None = None,
    program: bytes | None = None,
    system: Any = None,
) -> pathlib.Path:
  """Writes the archive of torch before 1.6."""
  keys = []
  if program is None:
    program, keys = pickled(state, storages, numbers, views=(None,))
  with open(path, 'wb') as file:
    pickle.dump(0x1950A86A20F9469CFC6C, file, 2)
    pickle.dump(1001, file, 2)
    pickle.dump(system or {'little_endian': True}, file, 2)
    file.write(program)
    pickle.dump(keys, file, 2)
    for key in keys:
      file.write(storages[key].size.to_bytes(8, 'little'))
      file.write(storages[key].tobytes())
  return path
