"""The names that a pickle of torch may mention, and what stands in for them.

Everything else is refused. Nothing here imports or calls what is named.
"""

import dataclasses
import pickle
import reprlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flamingo.pretrained.formats import stored

DTYPES = {
    'float64': np.dtype('<f8'),
    'float32': np.dtype('<f4'),
    'float16': np.dtype('<f2'),
    'bfloat16': np.dtype(ml_dtypes.bfloat16),
    'float8_e4m3fn': np.dtype(ml_dtypes.float8_e4m3fn),
    'float8_e4m3fnuz': np.dtype(ml_dtypes.float8_e4m3fnuz),
    'float8_e5m2': np.dtype(ml_dtypes.float8_e5m2),
    'float8_e5m2fnuz': np.dtype(ml_dtypes.float8_e5m2fnuz),
    'float8_e8m0fnu': np.dtype(ml_dtypes.float8_e8m0fnu),
    'complex64': np.dtype('<c8'),
    'complex128': np.dtype('<c16'),
    'int64': np.dtype('<i8'),
    'int32': np.dtype('<i4'),
    'int16': np.dtype('<i2'),
    'int8': np.dtype('i1'),
    'uint64': np.dtype('<u8'),
    'uint32': np.dtype('<u4'),
    'uint16': np.dtype('<u2'),
    'uint8': np.dtype('u1'),
    'bool': np.dtype('?'),
}

# Other types have storages of plain bytes.
STORAGES = {
    'DoubleStorage': DTYPES['float64'],
    'FloatStorage': DTYPES['float32'],
    'HalfStorage': DTYPES['float16'],
    'BFloat16Storage': DTYPES['bfloat16'],
    'ComplexFloatStorage': DTYPES['complex64'],
    'ComplexDoubleStorage': DTYPES['complex128'],
    'LongStorage': DTYPES['int64'],
    'IntStorage': DTYPES['int32'],
    'ShortStorage': DTYPES['int16'],
    'CharStorage': DTYPES['int8'],
    'ByteStorage': DTYPES['uint8'],
    'BoolStorage': DTYPES['bool'],
    'UntypedStorage': DTYPES['uint8'],
    '_UntypedStorage': DTYPES['uint8'],
}


class Refused(pickle.UnpicklingError):
  """A pickle asked for something that is not on the list."""


class Malformed(ValueError):
  """The file is not what its reader expects."""


@dataclasses.dataclass(frozen=True)
class Storage:
  """A run of numbers in the file, which several tensors may share."""

  key: str
  dtype: np.dtype
  size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where a tensor lies in its storage, counted in numbers and not in bytes."""

  storage: Storage
  dtype: np.dtype
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  @property
  def extent(self) -> int:
    """Numbers from its first one to its last one in the storage."""
    if 0 in self.shape:
      return 0
    return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides))


class Name(NamedTuple):
  """What a pickle wants to import."""

  module: str
  name: str


@dataclasses.dataclass(eq=False)
class ScriptModule:
  """A module of a TorchScript program, without its code.

  Attributes:
    kind: its class.
    state: what was saved of it, its attributes by name.
  """

  kind: Name
  state: Any = None


# What stands for a thing that no weights are made of: a device, a layout.
INERT = type('Inert', (), {'__repr__': lambda self: 'a thing of torch'})()

_REBUILD = {
    Name('torch._utils', f'_rebuild_{what}')
    for what in ('tensor', 'tensor_v2', 'tensor_v3')}
_REBUILD_PARAMETER = {
    Name('torch._utils', f'_rebuild_parameter{what}')
    for what in ('', '_with_state')}
_REBUILD_FROM_TYPE = Name('torch._tensor', '_rebuild_from_type_v2')
_DICTS = {Name('collections', name) for name in ('OrderedDict', 'Counter')}
_SIZE = Name('torch', 'Size')
_SCRIPT_LISTS = {
    Name('torch.jit._pickle', name) for name in (
        'build_boollist', 'build_doublelist', 'build_intlist',
        'build_tensorlist', 'restore_type_tag')}
_INERT = _SCRIPT_LISTS | {
    Name('torch', 'device'), Name('torch.serialization', '_get_layout'),
    Name('torch', 'Tensor'), Name('torch.nn.parameter', 'Parameter'),
    Name('torch.nn.parameter', 'Buffer')}
_ALLOWED = (
    _REBUILD | _REBUILD_PARAMETER | {_REBUILD_FROM_TYPE} | _DICTS | {_SIZE}
    | _INERT
    | {Name('torch', name) for name in (*DTYPES, *STORAGES)}
    | {Name('torch.storage', name) for name in STORAGES})


def allow(module: str, name: str) -> Name:
  """Passes on a name that a state dict needs, or a class of TorchScript.

  Raises:
    Refused: for any other.
  """
  if Name(module, name) not in _ALLOWED and not _is_script(module):
    raise Refused(
        f'the file wants to import {module}.{name}, which a state dict does '
        'not need, so it is not read. If you trust it, load it with torch and '
        'save its state dict alone.')
  return Name(module, name)


def _is_script(module: str) -> bool:
  """Whether a class is of the program's own code, which stays unread."""
  return isinstance(module, str) and module.split('.')[0] == '__torch__'


def stand_in(function: Name, arguments: tuple) -> Any:
  """What takes the place of calling one of the allowed names."""
  if function in _REBUILD:
    return _tensor(function, *arguments)
  if function in _REBUILD_PARAMETER:
    return arguments[0]
  if function == _REBUILD_FROM_TYPE:
    inner, _, arguments, _ = arguments
    if inner in _REBUILD | _REBUILD_PARAMETER:
      return stand_in(inner, arguments)
  if function in _DICTS:
    (items,) = arguments or ({},)
    if isinstance(items, dict):
      return items
    # Python 2 wrote them as a list of pairs, once. A pickle that copies the
    # same list over and over would fill the memory.
    pairs = {key(name): value for name, value in items}
    items.clear()
    return pairs
  if function == _SIZE and isinstance(arguments[0], tuple):
    return arguments[0]
  if function in _INERT:
    return INERT
  if _is_script(function.module) and not arguments:
    return ScriptModule(function)
  raise Malformed(f'no state dict calls {".".join(function)}.')


def _tensor(function: Name, storage, offset, shape, strides, *more) -> Tensor:
  """The tensor of `torch._utils._rebuild_tensor` and its successors."""
  # The second has requires_grad and hooks; the third the type as well. Then
  # both may have marks of what is yet to be done with the numbers.
  kind = storage.dtype if isinstance(storage, Storage) else None
  if function.name == '_rebuild_tensor_v3':
    kind = DTYPES.get(getattr(more[2], 'name', None))
    more = more[:2] + more[3:]
  if more[2:] and more[2]:
    raise Malformed(
        f'a tensor is marked as {reprlib.repr(more[2])}, which is not read. '
        'Save it with `.resolve_conj().resolve_neg()`.')
  if not (
      kind is not None and stored.is_shape(shape)
      and stored.is_shape([offset]) and len(shape) == len(strides)
      and all(type(stride) is int and stride >= 0 for stride in strides)):
    raise Malformed(
        f'no tensor has the offset {reprlib.repr(offset)}, the shape '
        f'{reprlib.repr(shape)} and the strides {reprlib.repr(strides)}.')
  return Tensor(storage, kind, offset, tuple(shape), tuple(strides))


def storage_of(pid: Any) -> Storage:
  """The storage that a pickle refers to."""
  match pid:
    # The last one is of archives before 1.6, where it could tell of a view.
    case (
        'storage', Name(_, name), str(key), str(), int(size), *views
    ) if name in STORAGES and size >= 0 and views in ([], [None]):
      return Storage(key, STORAGES[name], size)
  raise Refused(
      f'the file refers to {reprlib.repr(pid)}, which is not a storage.')


def key(value: Any) -> Any:
  """Passes on a key of a dict, if it is plain."""
  parts = value if isinstance(value, tuple) else (value,)
  plain = (str, int, float, bytes, type(None))
  if not all(isinstance(part, plain) for part in parts):
    raise Malformed(f'no state dict has the key {reprlib.repr(value)}.')
  return value
