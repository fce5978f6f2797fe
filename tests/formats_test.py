"""Weight files are read to the last bit, or refused with the reason."""

import collections
import os
import pickle
import sys
import types
from typing import NamedTuple

import numpy as np
import pytest

from flamingo.pretrained import formats


class Tensor(NamedTuple):
  """What the pickles of an archive say of a tensor."""

  key: str
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class Storage(NamedTuple):
  key: str


class Imports:
  """An object whose pickle calls a function when it is read."""

  def __init__(self, function, *args):
    self.function, self.args = function, args

  def __reduce__(self):
    return self.function, self.args


@pytest.fixture
def write_archive(tmp_path, monkeypatch):
  """Writes what torch 1.5 would: state dict, float32 storages by key."""
  torch = types.ModuleType('torch')
  torch.FloatStorage = type('FloatStorage', (), {'__module__': 'torch'})
  torch._utils = types.ModuleType('torch._utils')
  torch._utils._rebuild_tensor_v2 = lambda *args: args
  torch._utils._rebuild_tensor_v2.__module__ = 'torch._utils'
  torch._utils._rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torch._utils', torch._utils)

  def write(state, storages, *, system=None, numbers=None):
    class Pickler(pickle.Pickler):

      def reducer_override(self, value):
        if not isinstance(value, Tensor):
          return NotImplemented
        return torch._utils._rebuild_tensor_v2, (
            Storage(value.key), value.offset, value.shape, value.strides,
            False, collections.OrderedDict())

      def persistent_id(self, value):
        if not isinstance(value, Storage):
          return None
        size = (numbers or {}).get(value.key, storages[value.key].size)
        return (
            'storage', torch.FloatStorage, value.key, 'cpu', size, None)

    path = tmp_path / 'weights.pth'
    with open(path, 'wb') as file:
      pickle.dump(0x1950A86A20F9469CFC6C, file, 2)
      pickle.dump(1001, file, 2)
      pickle.dump(system or {'little_endian': True}, file, 2)
      Pickler(file, 2).dump(state)
      pickle.dump(sorted(storages), file, 2)
      for key in sorted(storages):
        file.write(storages[key].size.to_bytes(8, 'little'))
        file.write(storages[key].astype('<f4').tobytes())
    return path

  return write


STORAGES = {'7': np.arange(12.0), '8': np.array([5.0])}
STATE = {
    'matrix': Tensor('7', 0, (3, 4), (4, 1)),
    'transposed': Tensor('7', 0, (4, 3), (1, 4)),
    'part': Tensor('7', 5, (2,), (2,)),
    'scalar': Tensor('8', 0, (), ()),
    'empty': Tensor('8', 0, (0, 3), (3, 1)),
}


def test_tensors_come_back_with_their_shapes_strides_and_offsets(
    write_archive):
  tensors = formats.read_torch_archive(write_archive(STATE, STORAGES))
  matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
  assert list(tensors) == list(STATE)
  assert all(tensor.dtype == np.float32 for tensor in tensors.values())
  np.testing.assert_array_equal(tensors['matrix'], matrix)
  np.testing.assert_array_equal(tensors['transposed'], matrix.T)
  np.testing.assert_array_equal(tensors['part'], [5, 7])
  assert tensors['scalar'].shape == () and tensors['scalar'] == 5
  assert tensors['empty'].shape == (0, 3)


def test_a_module_state_dict_may_carry_its_metadata(write_archive):
  state = collections.OrderedDict(matrix=STATE['matrix'], one=STATE['scalar'])
  state._metadata = collections.OrderedDict(version=1)
  tensors = formats.read_torch_archive(write_archive(state, STORAGES))
  assert set(tensors) == {'matrix', 'one'}


@pytest.mark.parametrize('hostile, wants', [
    (Imports(os.system, 'exit 1'), r'\w+\.system'),
    (Imports(eval, '1 / 0'), r'\w+\.eval'),
    (Imports(getattr, 'a', 'b'), r'\w+\.getattr'),
    (np.zeros(3), r'numpy'),
], ids=['shell', 'eval', 'getattr', 'numpy'])
def test_a_pickle_that_wants_to_import_anything_else_is_refused(
    write_archive, hostile, wants):
  path = write_archive(STATE | {'extra': hostile}, STORAGES)
  with pytest.raises(pickle.UnpicklingError, match=f'wants to import {wants}'):
    formats.read_torch_archive(path)


def test_the_first_pickles_are_not_trusted_either(write_archive, tmp_path):
  path = write_archive(STATE, STORAGES, system=Imports(os.getcwd))
  with pytest.raises(pickle.UnpicklingError, match='getcwd'):
    formats.read_torch_archive(path)
  path.write_bytes(pickle.dumps(Imports(os.getcwd)))
  with pytest.raises(pickle.UnpicklingError, match='getcwd'):
    formats.read_torch_archive(path)


@pytest.mark.parametrize('tensor', [
    Tensor('7', 0, (13,), (1,)),
    Tensor('7', 12, (1,), (1,)),
    Tensor('7', 0, (2, 2), (1, 11)),
    Tensor('7', 11, (2,), (-1,)),
    Tensor('7', -1, (2,), (1,)),
    Tensor('7', 0, (2, 2), (1,)),
])
def test_a_tensor_outside_of_its_storage_is_refused(write_archive, tensor):
  path = write_archive(STATE | {'stray': tensor}, STORAGES)
  with pytest.raises(ValueError, match='stray|no tensor has'):
    formats.read_torch_archive(path)


def test_a_file_cut_short_anywhere_is_refused(write_archive):
  path = write_archive(STATE, STORAGES)
  whole = path.read_bytes()
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match='cut short|not a torch archive'):
      formats.read_torch_archive(path)


def test_a_storage_of_another_size_than_its_tensors_say_is_refused(
    write_archive):
  path = write_archive(STATE, STORAGES, numbers={'7': 1 << 60})
  with pytest.raises(ValueError, match="storage '7' has 12 numbers"):
    formats.read_torch_archive(path)


def test_what_is_not_a_flat_dict_of_tensors_is_refused(write_archive):
  with pytest.raises(ValueError, match="a dict under 'model'"):
    formats.read_torch_archive(write_archive({'model': STATE}, STORAGES))


def test_other_formats_are_told_apart(tmp_path, write_archive):
  path = tmp_path / 'weights'
  path.write_bytes(b'PK\x03\x04' + bytes(100))
  with pytest.raises(ValueError, match='zip archive'):
    formats.read_torch_archive(path)
  for content in (b'', b'\x89PNG' + bytes(100), pickle.dumps({'a': 1})):
    path.write_bytes(content)
    with pytest.raises(ValueError, match='not a torch archive|cut short'):
      formats.read_torch_archive(path)
  archive = write_archive(STATE, STORAGES, system={'little_endian': False})
  with pytest.raises(ValueError, match='little-endian'):
    formats.read_torch_archive(archive)


def test_what_torch_itself_writes_is_read_to_the_last_bit(tmp_path):
  torch = pytest.importorskip('torch')
  state = {
      name: torch.arange(-6, 6).reshape(3, 4).to(getattr(torch, name))
      for name in ('float64', 'float32', 'float16', 'bfloat16', 'int64',
                   'int32', 'int16', 'int8', 'uint8', 'bool')}
  state['transposed'] = state['float32'].T
  state['parameter'] = torch.nn.Parameter(torch.ones(3))
  path = tmp_path / 'weights.pth'
  torch.save(state, path, _use_new_zipfile_serialization=False)
  tensors = formats.read_torch_archive(path)
  assert tensors.keys() == state.keys()
  for name, tensor in state.items():
    assert tensors[name].dtype.name == str(tensor.dtype).removeprefix('torch.')
    np.testing.assert_array_equal(
        tensors[name].astype(np.float64), tensor.detach().double().numpy())


def write_gguf(path):
  """Writes a file of three tensors, and returns them."""
  gguf = pytest.importorskip('gguf')
  rng = np.random.default_rng(0)
  tensors = {
      'plain': rng.normal(size=(3, 5)).astype(np.float32),
      'half': rng.normal(size=(2, 7)).astype(np.float16),
      'packed': rng.normal(size=(4, 64)).astype(np.float32)}
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_block_count(30)
  writer.add_rope_freq_base(1e5)
  writer.add_token_list(['<s>', 'Ġthe', 'é'])
  writer.add_token_types([3, 1, 1])
  writer.add_add_bos_token(False)
  q8 = gguf.GGMLQuantizationType.Q8_0
  writer.add_tensor('plain', tensors['plain'])
  writer.add_tensor('half', tensors['half'])
  writer.add_tensor(
      'packed', gguf.quants.quantize(tensors['packed'], q8), raw_dtype=q8)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return tensors


def test_gguf_tensors_come_back_as_float32_in_rows(tmp_path):
  path = tmp_path / 'model.gguf'
  written = write_gguf(path)
  tensors, _ = formats.read_gguf(path)
  with open(path, 'r+b') as file:
    file.write(bytes(path.stat().st_size))  # the file is not needed any more
  assert tensors.keys() == written.keys()
  for name, tensor in tensors.items():
    assert type(tensor) is np.ndarray and tensor.dtype == np.float32
    assert tensor.shape == written[name].shape
  np.testing.assert_array_equal(tensors['plain'], written['plain'])
  np.testing.assert_array_equal(tensors['half'], written['half'])
  # An 8-bit block of 32 has steps of its largest number / 127.
  np.testing.assert_allclose(tensors['packed'], written['packed'], atol=0.02)


def test_gguf_metadata_is_plain_python(tmp_path):
  write_gguf(tmp_path / 'model.gguf')
  _, metadata = formats.read_gguf(tmp_path / 'model.gguf')
  assert metadata['general.architecture'] == 'llama'
  assert metadata['llama.block_count'] == 30
  assert metadata['llama.rope.freq_base'] == 1e5
  assert metadata['tokenizer.ggml.tokens'] == ['<s>', 'Ġthe', 'é']
  assert metadata['tokenizer.ggml.token_type'] == [3, 1, 1]
  assert metadata['tokenizer.ggml.add_bos_token'] is False


def test_a_gguf_file_cut_short_is_refused(tmp_path):
  path = tmp_path / 'model.gguf'
  write_gguf(path)
  whole = path.read_bytes()
  padding = 32
  for size in range(0, len(whole) - padding, 5):
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match='cut short'):
      formats.read_gguf(path)


def test_a_missing_gguf_package_is_named_with_the_command(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(ImportError, match="pip install 'gguf"):
    formats.read_gguf('model.gguf')
