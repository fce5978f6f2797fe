"""Safetensors are read and written bit by bit, or refused for a reason."""

import json
import os

import ml_dtypes
import numpy as np
import pytest

from flamingo.pretrained import formats

DTYPES = [
    'float64', 'float32', 'float16', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2',
    'float8_e8m0fnu', 'complex64', 'int64', 'int32', 'int16', 'int8', 'uint64',
    'uint32', 'uint16', 'uint8', 'bool']


def numbers(dtype, shape=(3, 5)):
  rng = np.random.default_rng(0)
  return rng.integers(0, 2, shape).astype(np.float32).astype(dtype)


def write_raw(path, header, data=b''):
  """Writes a file by hand: a header, which may be bytes already, and data."""
  if not isinstance(header, bytes):
    header = json.dumps(header).encode()
  path.write_bytes(len(header).to_bytes(8, 'little') + header + data)
  return path


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'model.safetensors'


def read(path):
  return {
      name: tensor.read()
      for name, tensor in formats.open_safetensors(path).items()}


def check(tensors, expected):
  assert tensors.keys() == expected.keys()
  for name, array in expected.items():
    assert tensors[name].dtype == array.dtype
    assert tensors[name].shape == array.shape
    assert tensors[name].tobytes() == array.tobytes()


def test_a_file_by_the_letter_of_the_format_is_read(path):
  write_raw(path, {
      '__metadata__': {'format': 'pt'},
      'b': {'dtype': 'I16', 'shape': [2, 1], 'data_offsets': [8, 12]},
      'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]},
      'bf': {'dtype': 'BF16', 'shape': [], 'data_offsets': [12, 14]},
      'none': {'dtype': 'U8', 'shape': [3, 0], 'data_offsets': [14, 14]},
  }, np.float32([1.5, -2]).tobytes() + b'\x03\x00\xff\xff' + b'\x80\x3f')
  opened = formats.open_safetensors(path)
  assert list(opened) == ['b', 'a', 'bf', 'none']
  assert opened['b'].shape == (2, 1) and opened['b'].dtype == np.int16
  assert opened['b'].file == str(path) and opened['b'].nbytes == 4
  check(read(path), {
      'a': np.float32([1.5, -2]), 'b': np.int16([[3], [-1]]),
      'bf': np.array(1, ml_dtypes.bfloat16),
      'none': np.zeros((3, 0), np.uint8)})


def test_every_type_of_numbers_is_written_and_read(path):
  tensors = {name: numbers(name) for name in DTYPES}
  formats.write_safetensors(path, tensors.items())
  check(read(path), tensors)


def test_numbers_lie_at_multiples_of_their_size(path):
  tensors = {name: numbers(name, (3,)) for name in ['int8', 'float64', 'bool']}
  formats.write_safetensors(path, tensors.items())
  content = path.read_bytes()
  length = int.from_bytes(content[:8], 'little')
  header = json.loads(content[8:8 + length])
  assert (8 + length) % 8 == 0 and list(header) == ['float64', 'int8', 'bool']
  check(read(path), tensors)


def test_arrays_of_any_layout_are_written_in_c_order(path):
  whole = numbers('float32', (4, 3, 2))
  tensors = dict(
      turned=whole.T, part=whole[::2, 1:], scalar=whole[1, 1, 1],
      empty=whole[:0], big=np.arange(3, dtype='>i4'),
      repeated=np.broadcast_to(whole[0, :1], (5, 3, 2)))
  tensors['scalar'] = np.asarray(tensors['scalar'])
  formats.write_safetensors(path, tensors.items())
  check(read(path), {
      name: np.array(array, array.dtype.newbyteorder('='), order='C')
      for name, array in tensors.items()})


def test_what_is_stored_is_copied_from_file_to_file(path, tmp_path):
  tensors = {name: numbers(name) for name in DTYPES}
  formats.write_safetensors(path, tensors.items())
  again = tmp_path / 'again.safetensors'
  formats.write_safetensors(again, formats.open_safetensors(path).items())
  assert again.read_bytes() == path.read_bytes()


def test_what_was_read_is_an_array_of_its_own(path):
  formats.write_safetensors(path, {'a': np.zeros(3)}.items())
  opened = formats.open_safetensors(path)
  opened['a'].read()[:] = 1
  np.testing.assert_array_equal(opened['a'].read(), np.zeros(3))
  array = np.arange(6).reshape(2, 3)
  stored = formats.Stored.of(array.T)
  stored.read()[:] = 0
  np.testing.assert_array_equal(stored.read(), array.T)
  assert stored.read().flags.c_contiguous and stored.shape == (3, 2)


def test_no_tensors_make_a_file_too(path):
  formats.write_safetensors(path, iter(()), metadata={'format': 'pt'})
  assert read(path) == {}
  assert b'"format":"pt"' in path.read_bytes()


@pytest.mark.parametrize('tensors, metadata, problem', [
    ([('a', np.array(['text']))], None, "'a' of <U4 has no place"),
    ([('a', np.zeros(2, ml_dtypes.int4))], None, "'a' of int4 has no place"),
    ([('a', np.zeros(2, np.complex128))], None, 'has no place'),
    ([('__metadata__', np.zeros(2))], None, '__metadata__'),
    ([('a', np.zeros(2)), ('a', np.zeros(2))], None, "'a' comes twice"),
    ([], {'epoch': 3}, 'metadata of str by str'),
    ([('a', formats.Stored((3,), np.dtype('f4'), lambda: np.zeros(3), ''))],
     None, 'said to be float32 of shape .* is float64'),
])
def test_what_the_format_cannot_hold_is_not_written(
    path, tensors, metadata, problem):
  path.write_bytes(b'from before')
  with pytest.raises(ValueError, match=problem):
    formats.write_safetensors(path, iter(tensors), metadata=metadata)
  assert [file.name for file in path.parent.iterdir()] == [path.name]
  assert path.read_bytes() == b'from before'


# Damaged files.


def test_a_file_cut_short_anywhere_is_refused(path):
  formats.write_safetensors(
      path, {'a': np.arange(5.0), 'b': np.ones((2, 3), np.float16)}.items())
  whole = path.read_bytes()
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match='cut short|not a safetensors file'):
      formats.open_safetensors(path)


def test_a_file_cut_short_after_it_was_opened_is_refused(path):
  formats.write_safetensors(path, {'a': np.arange(5.0)}.items())
  opened = formats.open_safetensors(path)
  os.truncate(path, path.stat().st_size - 1)
  with pytest.raises(ValueError, match='cut short: it lacks 1 bytes'):
    opened['a'].read()


def entry(dtype='F32', shape=(2,), offsets=(0, 8)):
  return dict(dtype=dtype, shape=list(shape), data_offsets=list(offsets))


@pytest.mark.parametrize('header, problem', [
    ({'a': entry('F33')}, "'a': expected a dtype of .*'F33'"),
    ({'a': entry(dtype=None)}, "'a': expected a dtype of"),
    ({'a': entry('F16')}, 'F16 of shape .* takes 4 bytes, but .* span 8'),
    ({'a': entry(shape=(3,))}, 'takes 12 bytes, but'),
    ({'a': entry(shape=(-1, -2))}, 'no tensor has the shape'),
    ({'a': entry(shape=(2.0,))}, 'no tensor has the shape'),
    ({'a': entry(shape=(True, 2))}, 'no tensor has the shape'),
    ({'a': entry(shape=(1,) * 99 + (2,))}, 'no tensor has the shape'),
    ({'a': entry(shape=(1 << 62, 4), offsets=(0, 1 << 66))}, 'no tensor has'),
    ({'a': entry(shape=(0, 1 << 70), offsets=(0, 0))}, 'no tensor has'),
    ({'a': entry(shape=(1 << 40,), offsets=(0, 1 << 42))}, 'cut short'),
    ({'a': entry(offsets=(0, 8, 9))}, 'two data_offsets'),
    ({'a': entry(offsets=('0', '8'))}, 'no tensor has'),
    ({'a': entry(offsets=(8, 0))}, 'span -8'),
    ({'a': entry(offsets=(-8, 0))}, 'begins at byte -8'),
    ({'a': entry(offsets=(8, 16))}, 'a hole'),
    ({'a': entry(), 'b': entry(offsets=(4, 12))}, "'b' begins .* another ten"),
    ({'a': entry(), 'b': entry()}, "'b' begins .* another tensor"),
    ({'a': entry(), 'b': entry(offsets=(12, 20))}, "'b' begins .* a hole"),
    ({'a': entry(shape=(1,), offsets=(0, 4))}, '12 bytes at the end'),
    ({'a': entry(), 'b': entry(offsets=(8, 16)), 'c': entry(offsets=(16, 24))},
     'cut short: its tensors take 24 bytes and 16 are there'),
    ({'a': dict(dtype='F32', shape=[2])}, 'two data_offsets'),
    ({'a': [1, 2]}, 'expected a dtype, a shape'),
    ([1, 2], 'expected a JSON object'),
    (b'{"a": 1', 'its header is no JSON'),
    (b'{"a\xff": 1}', 'its header is no JSON'),
    (b'[' * 100_000, 'its header is no JSON'),
    (b'{"a": {}, "a": {}}', "'a' twice"),
])
def test_a_header_that_does_not_fit_its_data_is_refused(path, header, problem):
  write_raw(path, header, bytes(16))
  with pytest.raises(ValueError, match=problem) as caught:
    formats.open_safetensors(path)
  assert str(path) in str(caught.value)


def test_a_header_that_is_too_long_is_not_read(path):
  path.write_bytes((1 << 40).to_bytes(8, 'little') + b'{}')
  with pytest.raises(ValueError, match='at most 100000000'):
    formats.open_safetensors(path)
