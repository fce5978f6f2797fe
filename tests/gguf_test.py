"""GGUF files are read one tensor at a time, or refused with the reason."""

import sys

import numpy as np
import pytest

from flamingo.pretrained import formats


def write_gguf(path, raw=None):
  """Writes a file of four tensors, and returns them."""
  gguf = pytest.importorskip('gguf')
  rng = np.random.default_rng(0)
  tensors = {
      'plain': rng.normal(size=(3, 5)).astype(np.float32),
      'half': rng.normal(size=(2, 7)).astype(np.float16),
      'brain': rng.integers(-9, 9, size=(3, 32)).astype(np.float32),
      'packed': rng.normal(size=(4, 64)).astype(np.float32)}
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_block_count(30)
  writer.add_rope_freq_base(1e5)
  writer.add_token_list(['<s>', 'Ġthe', 'é'])
  writer.add_token_types([3, 1, 1])
  writer.add_add_bos_token(False)
  types = gguf.GGMLQuantizationType
  writer.add_tensor('plain', tensors['plain'])
  writer.add_tensor('half', tensors['half'])
  for name, kind in (('brain', types.BF16), ('packed', types.Q8_0)):
    writer.add_tensor(
        name, gguf.quants.quantize(tensors[name], kind), raw_dtype=kind)
  if raw is not None:
    writer.add_tensor('raw', raw)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return tensors


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'model.gguf'


def test_tensors_come_back_as_float32_in_rows(path):
  written = write_gguf(path)
  opened, _ = formats.open_gguf(path)
  assert opened.keys() == written.keys()
  tensors = {name: tensor.read() for name, tensor in opened.items()}
  for name, tensor in tensors.items():
    assert type(tensor) is np.ndarray and tensor.flags.c_contiguous
    assert tensor.dtype == opened[name].dtype == np.float32
    assert tensor.shape == opened[name].shape == written[name].shape
    assert opened[name].file == str(path)
  np.testing.assert_array_equal(tensors['plain'], written['plain'])
  np.testing.assert_array_equal(tensors['half'], written['half'])
  np.testing.assert_array_equal(tensors['brain'], written['brain'])
  # An 8-bit block of 32 has steps of its largest number / 127.
  np.testing.assert_allclose(tensors['packed'], written['packed'], atol=0.02)


def test_what_has_been_read_needs_the_file_no_more(path):
  write_gguf(path)
  opened, _ = formats.open_gguf(path)
  tensors = {name: tensor.read() for name, tensor in opened.items()}
  before = {name: tensor.copy() for name, tensor in tensors.items()}
  with open(path, 'r+b') as file:
    file.write(bytes(path.stat().st_size))
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(tensor, before[name])


def test_metadata_are_plain_python(path):
  write_gguf(path)
  _, metadata = formats.open_gguf(path)
  assert metadata['general.architecture'] == 'llama'
  assert metadata['llama.block_count'] == 30
  assert metadata['llama.rope.freq_base'] == 1e5
  assert metadata['tokenizer.ggml.tokens'] == ['<s>', 'Ġthe', 'é']
  assert metadata['tokenizer.ggml.token_type'] == [3, 1, 1]
  assert metadata['tokenizer.ggml.add_bos_token'] is False


def write_header(path, add, **options):
  """Writes a file of one tensor, and the metadata that `add` adds."""
  gguf = pytest.importorskip('gguf')
  writer = gguf.GGUFWriter(path, 'llama', **options)
  add(writer)
  writer.add_tensor('one', np.arange(7, dtype=np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def test_every_kind_of_metadata_is_as_the_package_reads_it(path):
  gguf = pytest.importorskip('gguf')
  numbers = dict(
      uint8=200, int8=-3, uint16=60_000, int16=-3, uint32=1 << 31, int32=-3,
      float32=0.1, uint64=1 << 63, int64=-(1 << 40), float64=0.1, bool=True)

  def add(writer):
    for kind, number in numbers.items():
      getattr(writer, f'add_{kind}')(kind, number)
      writer.add_key_value(
          f'{kind}s', [number, type(number)(1)], gguf.GGUFValueType.ARRAY,
          gguf.GGUFValueType[kind.upper()])
    writer.add_string('text', 'é\0\n')
    writer.add_array('texts', ['', 'Ġthe', '\U0001f98a'])

  write_header(path, add)
  _, metadata = formats.open_gguf(path)
  expected = {
      name: field.contents()
      for name, field in gguf.GGUFReader(path).fields.items()
      if not name.startswith('GGUF.')}
  assert metadata == expected and len(metadata) == 25
  assert all(type(metadata[key]) is type(expected[key]) for key in expected)
  assert metadata['uint64'] == 1 << 63 and metadata['bools'] == [True, True]


@pytest.mark.parametrize('kind', [
    'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q4_K', 'Q6_K', 'IQ4_NL', 'TQ1_0'])
def test_packed_numbers_are_as_the_package_unpacks_them(path, kind):
  gguf = pytest.importorskip('gguf')
  kind = gguf.GGMLQuantizationType[kind]
  row = gguf.quants.quant_shape_to_byte_shape((512,), kind)
  # Bytes of no pattern: scales that are infinite or no number as well.
  packed = np.random.default_rng(0).integers(0, 256, (3, *row), np.uint8)
  write_header(
      path, lambda writer: writer.add_tensor('packed', packed, raw_dtype=kind))
  with np.errstate(all='ignore'):
    tensor = formats.open_gguf(path)[0]['packed'].read()
    expected = gguf.quants.dequantize(packed, kind)
  assert tensor.shape == (3, 512)
  np.testing.assert_array_equal(tensor, expected)


def test_tensors_may_lie_at_other_multiples(path):
  write_header(path, lambda writer: writer.add_custom_alignment(256))
  tensors, metadata = formats.open_gguf(path)
  assert metadata['general.alignment'] == 256
  np.testing.assert_array_equal(tensors['one'].read(), np.arange(7))
  whole = path.read_bytes()
  for alignment in (0, 48, 1 << 31):
    damaged = bytearray(whole)
    at = damaged.index(b'general.alignment') + 17 + 4
    damaged[at:at + 4] = alignment.to_bytes(4, 'little')
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='power of 2|ends within'):
      formats.open_gguf(path)


@pytest.mark.parametrize('old, new, problem', [
    (b'key_a', b'key_b', "'key_b' twice"),
    (b'key_a', b'key_\xff', 'codec'),
    (b'key_a\x08', b'key_a\x0d', 'no value is of kind 13'),
    (b'key_a\x08', b'key_a\x09', 'the file ends early'),
    (b'two\x01\x00', b'one\x01\x00', "tensor 'one' twice"),
    (b'two\x01\x00', b'two\x05\x00', 'no tensor has the shape'),
    (b'two\x01\x00', b'two\xff\xff', 'no tensor has the shape'),
    (b'GGUF', b'GGML', 'begin with GGUF'),
    (b'GGUF\x03', b'GGUF\x01', 'expected version 2 or 3, came 1'),
])
def test_a_damaged_header_is_refused(path, old, new, problem):

  def add(writer):
    writer.add_string('key_a', 'a')
    writer.add_string('key_b', 'b')
    writer.add_tensor('two', np.ones(32, np.float32))

  write_header(path, add)
  whole = path.read_bytes()
  assert whole.count(old) == 1
  path.write_bytes(whole.replace(old, new))
  with pytest.raises(ValueError, match=f'cut short or damaged.*{problem}'):
    formats.open_gguf(path)


def test_lists_within_lists_may_not_be_without_end(path):
  pytest.importorskip('gguf')
  # A list of one list of one list and so on.
  lists = (9).to_bytes(4, 'little') + (1).to_bytes(8, 'little')
  path.write_bytes(
      b'GGUF\3\0\0\0' + bytes(8) + (1).to_bytes(8, 'little')
      + bytes(8) + b'\t\0\0\0' + lists * 100_000)
  with pytest.raises(ValueError, match='cut short or damaged'):
    formats.open_gguf(path)


def test_numbers_of_a_big_endian_machine_are_refused(path):
  gguf = pytest.importorskip('gguf')
  write_header(path, lambda writer: None, endianess=gguf.GGUFEndian.BIG)
  with pytest.raises(ValueError, match='expected version 2 or 3, came 50331'):
    formats.open_gguf(path)


def test_a_file_cut_short_is_refused(path):
  write_gguf(path)
  whole = path.read_bytes()
  padding = 32
  for size in range(0, len(whole) - padding, 5):
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match='cut short'):
      formats.open_gguf(path)


def test_a_file_cut_short_after_it_was_opened_is_refused(path):
  write_gguf(path)
  opened, _ = formats.open_gguf(path)
  path.write_bytes(path.read_bytes()[:200])
  with pytest.raises(ValueError, match='cut short'):
    opened['packed'].read()


def test_a_list_that_claims_more_than_the_file_has_is_refused(path):
  write_gguf(path)
  damaged = bytearray(path.read_bytes())
  # The length lies between the type of the list's members and the first token.
  length = damaged.index(b'tokenizer.ggml.tokens') + 21 + 4 + 4
  assert damaged[length] == 3
  damaged[length:length + 8] = (1 << 60).to_bytes(8, 'little')
  path.write_bytes(damaged)
  with pytest.raises(ValueError, match='cut short or damaged'):
    formats.open_gguf(path)


def test_a_tensor_larger_than_the_file_is_refused(path):
  write_gguf(path)
  damaged = bytearray(path.read_bytes())
  shape = damaged.index(b'plain') + 5 + 4
  assert damaged[shape] == 5
  for sizes in ((5, 1 << 40), (1 << 33, 1 << 33), (5, 1 << 63)):
    damaged[shape:shape + 16] = b''.join(
        size.to_bytes(8, 'little') for size in sizes)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='cut short or damaged'):
      formats.open_gguf(path)


def test_an_unknown_type_of_numbers_is_refused(path):
  write_gguf(path)
  damaged = bytearray(path.read_bytes())
  kind = damaged.index(b'plain') + 5 + 4 + 2 * 8
  assert damaged[kind] == 0
  damaged[kind] = 99
  path.write_bytes(damaged)
  with pytest.raises(ValueError, match='damaged.*99'):
    formats.open_gguf(path)


def test_numbers_that_cannot_be_unpacked_are_refused_by_their_type(path):
  write_gguf(path, raw=np.arange(6, dtype=np.int32).reshape(2, 3))
  opened, _ = formats.open_gguf(path)
  with pytest.raises(ValueError, match='I32.*Convert the model'):
    opened['raw'].read()


def test_a_missing_package_is_named_with_the_command(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(ImportError, match="pip install 'gguf"):
    formats.open_gguf('model.gguf')
