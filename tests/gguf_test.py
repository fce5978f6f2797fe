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
  tensors, _ = formats.read_gguf(path)
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
