"""Files of torch.save are read to the last bit, or refused with the reason."""

import argparse
import collections
import functools
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from flamingo.pretrained import formats
from torch_archives import Tensor, write_legacy, write_zip


class Imports:
  """An object whose pickle calls a function when it is read."""

  def __init__(self, function, *args):
    self.function, self.args = function, args

  def __reduce__(self):
    return self.function, self.args


@pytest.fixture(params=[write_zip, write_legacy], ids=['zip', 'legacy'])
def write_archive(request, tmp_path):
  """Writes an archive of a state and its storages, in each of two formats."""
  return functools.partial(request.param, tmp_path / 'weights.pth')


@pytest.fixture
def write_zip_archive(tmp_path):
  return functools.partial(write_zip, tmp_path / 'weights.pth')


def read(path):
  return {
      name: tensor.read()
      for name, tensor in formats.open_torch_archive(path).items()}


STORAGES = {
    '7': np.arange(12, dtype=np.float32), '8': np.float16([5]),
    '9': np.array([3, 1 << 40])}
STATE = {
    'matrix': Tensor('7', 0, (3, 4), (4, 1)),
    'transposed': Tensor('7', 0, (4, 3), (1, 4)),
    'part': Tensor('7', 5, (2,), (2,)),
    'repeated': Tensor('7', 3, (2, 3), (0, 1)),
    'scalar': Tensor('8', 0, (), ()),
    'empty': Tensor('8', 0, (0, 3), (3, 1)),
    'counts': Tensor('9', 0, (2, 1), (1, 1)),
}


def test_tensors_come_back_with_their_shapes_strides_and_offsets(
    write_archive):
  path = write_archive(STATE, STORAGES)
  opened, tensors = formats.open_torch_archive(path), read(path)
  matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
  assert list(tensors) == list(STATE)
  for name, tensor in tensors.items():
    assert tensor.shape == opened[name].shape == STATE[name].shape
    assert tensor.dtype == opened[name].dtype
    assert tensor.flags.c_contiguous and tensor.flags.writeable
    assert opened[name].file == str(path)
  np.testing.assert_array_equal(tensors['matrix'], matrix)
  np.testing.assert_array_equal(tensors['transposed'], matrix.T)
  np.testing.assert_array_equal(tensors['part'], [5, 7])
  np.testing.assert_array_equal(tensors['repeated'], [[3, 4, 5]] * 2)
  assert tensors['scalar'] == 5 and tensors['scalar'].dtype == np.float16
  np.testing.assert_array_equal(tensors['counts'], [[3], [1 << 40]])


def test_reading_all_at_once_reads_the_same(write_archive):
  path = write_archive(STATE, STORAGES)
  for name, tensor in formats.read_torch_archive(path).items():
    np.testing.assert_array_equal(tensor, read(path)[name])


def test_tensors_that_share_a_storage_are_arrays_of_their_own(write_archive):
  opened = formats.open_torch_archive(write_archive(STATE, STORAGES))
  opened['matrix'].read()[:] = -1
  np.testing.assert_array_equal(opened['part'].read(), [5, 7])
  np.testing.assert_array_equal(opened['matrix'].read()[0], [0, 1, 2, 3])


def test_a_module_state_dict_may_carry_its_metadata(write_archive):
  state = collections.OrderedDict(matrix=STATE['matrix'], one=STATE['scalar'])
  state._metadata = collections.OrderedDict(version=1)
  assert set(read(write_archive(state, STORAGES))) == {'matrix', 'one'}


def test_of_what_a_trainer_saves_the_model_is_read(write_archive):
  trainer = {
      'epoch': 3, 'loss': 0.5, 'tags': ['a', (1, None)], 'done': False,
      'rng_state': STATE['counts'],
      'model_state_dict': collections.OrderedDict(
          matrix=STATE['matrix'], one=STATE['scalar'], _extra_state=None),
      'optimizer_state_dict': {
          'state': {0: {'exp_avg': STATE['part'], 'step': 7}},
          'param_groups': [{'lr': 0.1, 'betas': (0.9, 0.95), 'params': [0]}]},
      'ema': {'matrix': STATE['transposed']},
      'scheduler': collections.Counter([10, 10, 20]),
  }
  tensors = read(write_archive(trainer, STORAGES))
  assert set(tensors) == {'matrix', 'one'}
  assert tensors['matrix'].shape == (3, 4)


def test_the_only_dict_of_tensors_is_read_by_any_name(write_archive):
  path = write_archive({'step': 1, 'weights': STATE}, STORAGES)
  assert list(read(path)) == list(STATE)


@pytest.mark.parametrize('state, came', [
    ([STATE['matrix']], 'came a list'),
    ({'epoch': 3}, r"came 0 among \['epoch'\]"),
    ({'student': STATE, 'teacher': STATE}, r"came 2 among \['student', 'tea"),
    ({'student': STATE, 'scale': STATE['scalar']}, 'came 2 among'),
], ids=['list', 'none', 'two', 'within'])
def test_no_or_several_dicts_of_tensors_are_refused(write_archive, state, came):
  with pytest.raises(ValueError, match=f'expected .*dict of tensors.*{came}'):
    formats.open_torch_archive(write_archive(state, STORAGES))


# Hostile pickles.


@pytest.mark.parametrize('hostile, wants', [
    (Imports(os.system, 'exit 1'), r'\w+\.system'),
    (Imports(eval, '1 / 0'), r'\w+\.eval'),
    (Imports(getattr, 'a', 'b'), r'\w+\.getattr'),
    (np.zeros(3), r'numpy\.?\w*\.\w+\._reconstruct'),
    (np.float64(3), r'numpy\.?\w*\.\w+\.scalar'),
    (argparse.Namespace(lr=0.1), 'argparse.Namespace'),
    (Tensor('7', 0, (1,), (1,), Imports(os.system, '1')), r'\w+\.system'),
    (Tensor('7', 0, (Imports(os.getcwd),), (1,)), r'\w+\.getcwd'),
], ids=['shell', 'eval', 'getattr', 'numpy', 'number', 'namespace', 'hooks',
        'shape'])
def test_a_pickle_that_wants_to_import_anything_else_is_refused(
    write_archive, hostile, wants):
  path = write_archive(STATE | {'extra': hostile}, STORAGES)
  with pytest.raises(pickle.UnpicklingError, match=f'wants to import {wants}'):
    formats.open_torch_archive(path)


REBUILD = b'ctorch._utils\n_rebuild_tensor_v2\n'
TOUCH = b"X\x05\x00\x00\x00touch"


@pytest.mark.parametrize('program, problem', [
    (b'cos\nsystem\n(' + TOUCH + b'tR.', 'wants to import os.system'),
    (b'(' + TOUCH + b'ios\nsystem\n.', 'wants to import os.system'),
    (b'\x80\x04\x8c\x02os\x8c\x06system\x93.', 'wants to import os.system'),
    (b'ctorch._utils\n_rebuild_tensor_v2.__globals__\n.',
     'wants to import torch._utils._rebuild_tensor_v2.__globals__'),
    (b'ctorch\nload\n.', 'wants to import torch.load'),
    (b'ctorch.storage\n_load_from_bytes\n.', '_load_from_bytes'),
    (b'\x82\x01.', 'EXT1 is no instruction'),
    (b'Pexit\n.', 'PERSID is no instruction'),
    (TOUCH + b')R.', 'calls what is not a function'),
    (REBUILD + b')R.', 'damaged one'),
    (REBUILD + b'(]KK]))tR.', 'no tensor has'),
    (REBUILD + b'(' + REBUILD + REBUILD + b'))tR.', 'no tensor has'),
    (b'ctorch._tensor\n_rebuild_from_type_v2\n(' + TOUCH + b'N)NtR.',
     'no state dict calls'),
    (b'X\x02\x00\x00\x00idQ.', 'not a storage'),
    (b'](' + TOUCH + TOUCH + b'u.', 'what is no dict'),
    (b'}]Ns.', r'no state dict has the key \[\]'),
    (b'(Kad.', 'damaged one'),
    (b'h\x05.', 'damaged one'),
], ids=range(18))
def test_no_instruction_of_a_pickle_leads_anywhere(
    write_archive, program, problem):
  path = write_archive(None, {}, program=program)
  with pytest.raises(
      (pickle.UnpicklingError, ValueError), match=problem):
    formats.open_torch_archive(path)


def test_attributes_that_a_pickle_sets_go_nowhere(write_archive):
  before = dict(vars(formats.Stored))
  state = b'X\x04\x00\x00\x00readX\x04\x00\x00\x00evil'
  program = b'ccollections\nOrderedDict\n(N}(' + state + b'utb.'
  with pytest.raises(ValueError, match='came a Name'):
    formats.open_torch_archive(write_archive(None, {}, program=program))
  assert dict(vars(formats.Stored)) == before
  assert 'read' not in vars(collections.OrderedDict)


@pytest.mark.parametrize('program', [
    b'}r' + (2**31).to_bytes(4, 'little') + b'.',
    b'\x8d' + (2**40).to_bytes(8, 'little') + b'text.',
    b'\x96' + (2**40).to_bytes(8, 'little') + b'text.',
    b'}(' + b')' + b'\x85' * 20_000 + b'Nu.',
    b'](' + b'N' * 1000 + b'eq\x00' + (
        b'ccollections\nOrderedDict\nh\x00\x85R') * 1000 + b'.',
], ids=['memory', 'text', 'bytes', 'nested', 'copies'])
def test_a_pickle_cannot_fill_the_memory(write_archive, program):
  path = write_archive(None, {}, program=program)
  tracemalloc.start()
  with pytest.raises(ValueError, match='cut short|damaged|expected|no state'):
    formats.open_torch_archive(path)
  assert tracemalloc.get_traced_memory()[1] < 20e6
  tracemalloc.stop()


@pytest.mark.parametrize('shape, strides', [
    ((1 << 40,), (0,)), ((1 << 20, 1 << 20), (0, 0)), ((1,) * 40, (1,) * 40),
    ((1 << 62, 4), (0, 0)), ((0, 1 << 70), (1, 1)), ((True,), (1,))])
def test_a_tensor_that_is_larger_than_the_file_is_refused(
    write_archive, shape, strides):
  path = write_archive(
      STATE | {'huge': Tensor('7', 0, shape, strides)}, STORAGES)
  with pytest.raises(ValueError, match='huge.*larger than|no tensor has'):
    formats.open_torch_archive(path)


@pytest.mark.parametrize('tensor', [
    Tensor('7', 0, (13,), (1,)),
    Tensor('7', 12, (1,), (1,)),
    Tensor('7', 0, (2, 2), (1, 11)),
    Tensor('7', 11, (2,), (-1,)),
    Tensor('7', -1, (2,), (1,)),
    Tensor('7', 0, (2, 2), (1,)),
    Tensor('7', 0.0, (2,), (1,)),
])
def test_a_tensor_outside_of_its_storage_is_refused(write_archive, tensor):
  path = write_archive(STATE | {'stray': tensor}, STORAGES)
  with pytest.raises(ValueError, match='stray|no tensor has'):
    formats.open_torch_archive(path)


# Damaged files, and files of other kinds.


def test_a_file_cut_short_anywhere_is_refused(write_archive):
  path = write_archive(STATE, STORAGES)
  whole = path.read_bytes()
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match='cut short|not a torch archive'):
      formats.open_torch_archive(path)


def test_a_file_cut_short_after_it_was_opened_is_refused(write_archive):
  path = write_archive(STATE, STORAGES)
  opened = formats.open_torch_archive(path)
  os.truncate(path, 60)
  for name in ('matrix', 'transposed', 'counts'):
    with pytest.raises(ValueError, match='cut short'):
      opened[name].read()


def test_a_storage_of_another_size_than_its_tensors_say_is_refused(
    write_archive):
  path = write_archive(STATE, STORAGES, numbers={'7': 1 << 60})
  with pytest.raises(ValueError, match="storage '7' has 12 numbers"):
    formats.open_torch_archive(path)


def test_the_first_pickles_are_not_trusted_either(tmp_path):
  path = tmp_path / 'weights.pth'
  write_legacy(path, STATE, STORAGES, system=Imports(os.getcwd))
  with pytest.raises(pickle.UnpicklingError, match='getcwd'):
    formats.open_torch_archive(path)
  path.write_bytes(pickle.dumps(Imports(os.getcwd)))
  with pytest.raises(pickle.UnpicklingError, match='getcwd'):
    formats.open_torch_archive(path)


@pytest.mark.parametrize('content', [
    b'', b'\x89PNG' + bytes(100), pickle.dumps({'a': 1}), b'\n' * 50])
def test_other_formats_are_told_apart(tmp_path, content):
  path = tmp_path / 'weights'
  path.write_bytes(content)
  with pytest.raises(ValueError, match='not a torch archive|cut short'):
    formats.open_torch_archive(path)


def test_numbers_of_a_big_endian_machine_are_refused(tmp_path):
  path = tmp_path / 'weights.pth'
  write_legacy(path, STATE, STORAGES, system={'little_endian': False})
  with pytest.raises(ValueError, match='little-endian'):
    formats.open_torch_archive(path)
  write_zip(path, STATE, STORAGES, more={'weights/byteorder': b'big'})
  with pytest.raises(ValueError, match='little-endian'):
    formats.open_torch_archive(path)


@pytest.mark.parametrize('more, problem', [
    ({'weights/../../../etc/passwd': b''}, 'leads out of the archive'),
    ({'/etc/passwd': b''}, 'leads out of the archive'),
    ({'..\\weights': b''}, 'leads out of the archive'),
    ({'weights/data/8': None}, "'weights/data/8' is missing"),
    ({'weights/data.pkl': None}, 'not a torch archive'),
    ({'other/data.pkl': b'}.'}, 'not a torch archive'),
])
def test_a_zip_archive_has_the_entries_of_torch_and_no_others(
    write_zip_archive, more, problem):
  with pytest.raises(ValueError, match=problem):
    formats.open_torch_archive(write_zip_archive(STATE, STORAGES, more=more))


def test_archives_from_before_the_byte_order_was_noted_are_read(
    write_zip_archive):
  path = write_zip_archive(STATE, STORAGES, more={'weights/byteorder': None})
  assert list(read(path)) == list(STATE)


def test_a_packed_archive_is_not_unpacked(write_zip_archive):
  storages = STORAGES | {'7': np.zeros(1 << 20, np.float32)}
  path = write_zip_archive(STATE, storages, compression=zipfile.ZIP_DEFLATED)
  with pytest.raises(ValueError, match='is packed.*zip -0'):
    formats.open_torch_archive(path)


def test_an_entry_twice_is_refused(write_zip_archive):
  path = write_zip_archive(STATE, STORAGES)
  with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning):
    archive.writestr('weights/data/7', bytes(48))
  with pytest.raises(ValueError, match='no entry twice'):
    formats.open_torch_archive(path)


@pytest.mark.parametrize('place, number, problem', [
    (20, 1 << 30, 'is packed'),  # the size in the archive alone
    (42, 7, 'not where its list says')])
def test_a_list_of_entries_that_lies_is_found_out(
    write_zip_archive, place, number, problem):
  path = write_zip_archive(STATE, STORAGES)
  damaged = bytearray(path.read_bytes())
  entry = damaged.rindex(b'weights/data/9') - 46
  assert damaged[entry:].startswith(b'PK\x01\x02')
  struct.pack_into('<I', damaged, entry + place, number)
  path.write_bytes(damaged)
  with pytest.raises(ValueError, match=problem):
    formats.open_torch_archive(path)


def test_a_list_of_entries_that_lies_about_its_place_is_found_out(
    write_zip_archive):
  path = write_zip_archive(STATE, STORAGES)
  damaged = bytearray(path.read_bytes())
  place, = struct.unpack_from('<I', damaged, len(damaged) - 6)
  # Counted from there, the first entry begins before the file does.
  struct.pack_into('<I', damaged, len(damaged) - 6, place + 5)
  path.write_bytes(damaged)
  with pytest.raises(ValueError, match='not where its list says|damaged'):
    formats.open_torch_archive(path)


def test_an_entry_that_claims_more_than_the_file_has_is_cut_short(
    write_zip_archive):
  path = write_zip_archive(STATE, STORAGES)
  damaged = bytearray(path.read_bytes())
  entry = damaged.rindex(b'weights/data/9') - 46
  struct.pack_into('<2I', damaged, entry + 20, 1 << 30, 1 << 30)
  path.write_bytes(damaged)
  with pytest.raises(ValueError, match='cut short'):
    formats.open_torch_archive(path)
