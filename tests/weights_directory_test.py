"""A directory of weights is one dict of tensors, however many files it has."""

import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from flamingo.pretrained import formats
from torch_archives import Tensor, write_legacy, write_zip

ARRAYS = {
    f'layer.{i}.weight': np.full((5, 3), i, np.float32) for i in range(7)}
STATE = {
    name: Tensor(str(i), 0, (5, 3), (3, 1)) for i, name in enumerate(ARRAYS)}
STORAGES = {str(i): array for i, array in enumerate(ARRAYS.values())}


def read(path):
  tensors = formats.open_weights(path)
  return {name: tensor.read() for name, tensor in tensors.items()}


def check(path, expected=ARRAYS):
  tensors = read(path)
  assert tensors.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(tensors[name], array, strict=True)


@pytest.fixture
def sharded(tmp_path):
  """A directory of three files, 60 bytes a tensor, and what its index says."""
  formats.write_safetensors(tmp_path, ARRAYS.items(), max_shard_bytes=200)
  return tmp_path


@pytest.fixture
def write_index(sharded):
  """Writes the index anew, with some of its places changed."""
  file = sharded / 'model.safetensors.index.json'

  def write(**places):
    index = json.loads(file.read_text())
    index['weight_map'] |= {
        name.replace('_', '.'): place for name, place in places.items()}
    file.write_text(json.dumps(index))
    return sharded

  return write


FIRST = 'model-00001-of-00003.safetensors'


def test_shards_and_their_index_are_in_the_layout_of_hugging_face(sharded):
  assert sorted(os.listdir(sharded)) == [
      FIRST, 'model-00002-of-00003.safetensors',
      'model-00003-of-00003.safetensors', 'model.safetensors.index.json']
  index = json.loads((sharded / 'model.safetensors.index.json').read_text())
  assert index['metadata'] == {'total_size': 7 * 60}
  for name, file in index['weight_map'].items():
    assert name in formats.open_safetensors(sharded / file)
  check(sharded)
  check(sharded / 'model.safetensors.index.json')


def test_what_fits_in_one_file_has_no_index(tmp_path):
  formats.write_safetensors(tmp_path / 'new' / 'one', ARRAYS.items())
  assert os.listdir(tmp_path / 'new' / 'one') == ['model.safetensors']
  check(tmp_path / 'new' / 'one')


def test_a_tensor_larger_than_a_shard_has_a_file_of_its_own(tmp_path):
  formats.write_safetensors(tmp_path, ARRAYS.items(), max_shard_bytes=1)
  assert len(list(tmp_path.glob('*.safetensors'))) == 7
  check(tmp_path)


def test_weights_are_not_written_among_others(sharded):
  before = sorted(os.listdir(sharded))
  with pytest.raises(FileExistsError, match=f'{FIRST}.*Remove them'):
    formats.write_safetensors(sharded, ARRAYS.items())
  assert sorted(os.listdir(sharded)) == before


def test_a_directory_that_was_not_finished_is_left_empty(tmp_path):

  def tensors():
    yield from ARRAYS.items()
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    formats.write_safetensors(tmp_path, tensors(), max_shard_bytes=200)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('write', [write_zip, write_legacy])
@pytest.mark.parametrize('name', [
    'pytorch_model.bin', 'checkpoint.pt', 'RN50.pth', 'last.ckpt', 'any.bin'])
def test_files_of_torch_are_found_and_told_by_what_is_in_them(
    tmp_path, write, name):
  write(tmp_path / name, {'model_state_dict': STATE, 'epoch': 3}, STORAGES)
  (tmp_path / 'config.json').write_text('{}')
  check(tmp_path)
  check(tmp_path / name)


def test_safetensors_are_told_by_what_is_in_them(tmp_path):
  formats.write_safetensors(tmp_path, ARRAYS.items())
  (tmp_path / 'model.safetensors').rename(tmp_path / 'weights.bin')
  check(tmp_path / 'weights.bin')


def test_shards_of_torch_are_read_by_their_index(tmp_path):
  names = list(STATE)
  for file, part in (('a.bin', names[:3]), ('b.bin', names[3:])):
    write_zip(tmp_path / file, {name: STATE[name] for name in part}, STORAGES)
  (tmp_path / 'pytorch_model.bin.index.json').write_text(json.dumps({
      'weight_map': {
          name: 'a.bin' if name in names[:3] else 'b.bin' for name in names}}))
  check(tmp_path)


def test_safetensors_are_preferred_to_pickles(tmp_path):
  write_zip(tmp_path / 'pytorch_model.bin', {'a': STATE['layer.0.weight']},
            STORAGES)
  formats.write_safetensors(tmp_path, ARRAYS.items())
  check(tmp_path)


def test_the_prefix_of_a_parallel_module_is_dropped(tmp_path):
  path = tmp_path / 'checkpoint.pt'
  wrapped = {f'module.{name}': tensor for name, tensor in STATE.items()}
  write_zip(path, {'state_dict': wrapped}, STORAGES)
  check(path)


def test_a_part_that_is_called_module_keeps_its_name(tmp_path):
  path = tmp_path / 'model.safetensors'
  arrays = {'module.a': np.ones(2), 'head': np.ones(3)}
  formats.write_safetensors(path, arrays.items())
  check(path, arrays)


def test_a_tensor_that_the_index_does_not_mention_is_there_too(
    sharded, tmp_path):
  file = tmp_path / 'model.safetensors.index.json'
  index = json.loads(file.read_text())
  del index['weight_map']['layer.0.weight']
  file.write_text(json.dumps(index))
  check(sharded)


def test_of_a_tensor_in_two_files_the_index_says_which(sharded, write_index):
  arrays = {'layer.0.weight': np.full((5, 3), -1, np.float32)}
  formats.write_safetensors(sharded / 'more.safetensors', arrays.items())
  check(write_index(layer_0_weight='more.safetensors'), ARRAYS | arrays)


# What is missing, and what is wrong.


def test_a_missing_shard_is_named(sharded):
  (sharded / FIRST).unlink()
  with pytest.raises(FileNotFoundError, match=f'1 of them.*{FIRST}'):
    formats.open_weights(sharded)


def test_a_file_that_only_the_index_has_is_named(write_index):
  with pytest.raises(FileNotFoundError, match='4 files.*lost.safetensors'):
    formats.open_weights(write_index(layer_0_weight='lost.safetensors'))


def test_a_tensor_that_its_shard_lacks_is_named(write_index):
  with pytest.raises(ValueError, match=f"'layer.9.weight' is not in {FIRST}"):
    formats.open_weights(write_index(layer_9_weight=FIRST))


def test_a_tensor_that_is_in_another_shard_is_named(write_index):
  with pytest.raises(ValueError, match=f"'layer.6.weight' is not in {FIRST}"):
    formats.open_weights(write_index(layer_6_weight=FIRST))


@pytest.mark.parametrize('place', [
    '../secret.safetensors', '/etc/passwd', 'sub/model.safetensors', '..', '.',
    '', '..\\secret', 'C:secret', 'a\0b'])
def test_an_index_does_not_lead_out_of_its_directory(
    tmp_path, write_index, place):
  formats.write_safetensors(
      tmp_path.parent / 'secret.safetensors', ARRAYS.items())
  with pytest.raises(ValueError, match='beside the index.*Do not trust'):
    formats.open_weights(write_index(layer_0_weight=place))


def test_two_files_with_a_tensor_that_the_index_leaves_open_are_refused(
    sharded, write_index):
  for name in ('a', 'b'):
    formats.write_safetensors(
        sharded / f'{name}.safetensors',
        {'twin': np.zeros(2), name: np.zeros(1)}.items())
  with pytest.raises(ValueError, match="'twin' is from: .*a.safeten.* or b.sa"):
    formats.open_weights(write_index(a='a.safetensors', b='b.safetensors'))


@pytest.mark.parametrize('text', [
    '', '{', '[]', '{"metadata": {}}', '{"weight_map": ["a"]}',
    '{"weight_map": {"a": 3}}', '[' * 100_000])
def test_an_index_that_is_damaged_is_refused(sharded, text):
  (sharded / 'model.safetensors.index.json').write_text(text)
  with pytest.raises(ValueError, match='expected .*weight_map'):
    formats.open_weights(sharded)


def test_a_shard_cut_short_is_named(sharded):
  os.truncate(sharded / FIRST, 100)
  with pytest.raises(ValueError, match=f'{FIRST}.*cut short'):
    formats.open_weights(sharded)


def test_no_weights_are_told_from_no_directory(tmp_path):
  with pytest.raises(FileNotFoundError, match='There is no .*nowhere'):
    formats.open_weights(tmp_path / 'nowhere')
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(FileNotFoundError, match=r"expected.*\['config.json'\]"):
    formats.open_weights(tmp_path)


def test_of_several_files_none_is_guessed(tmp_path):
  for name in ('epoch_1.pt', 'epoch_2.pt'):
    write_zip(tmp_path / name, STATE, STORAGES)
  with pytest.raises(ValueError, match='came 2: epoch_1.pt, epoch_2.pt'):
    formats.open_weights(tmp_path)


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_other_files_are_told_apart(tmp_path, name):
  path = tmp_path / name
  path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:4d7')
  with pytest.raises(ValueError, match='git lfs pull'):
    formats.open_weights(tmp_path)
  path.write_bytes(b'GGUF' + bytes(100))
  with pytest.raises(ValueError, match='is a GGUF file'):
    formats.open_weights(tmp_path)
  path.write_text('<html><body>404</body></html>')
  with pytest.raises(ValueError, match='not a (safetensors|torch)'):
    formats.open_weights(tmp_path)


# Memory.

MANY, LARGE = 12, np.zeros((1 << 19,), np.float32)  # 2 MiB each


def write_many(folder, kind):
  """Writes many large tensors in a format; returns the path."""
  names = [str(i) for i in range(MANY)]
  path = folder / f'many.{kind}'
  if kind == 'gguf':
    gguf = pytest.importorskip('gguf')
    writer = gguf.GGUFWriter(path, 'llama')
    for name in names:
      writer.add_tensor(name, LARGE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
  elif kind == 'safetensors':
    formats.write_safetensors(path, ((name, LARGE) for name in names))
  else:
    write = {'zip': write_zip, 'legacy': write_legacy}[kind]
    write(path, {name: Tensor(name, 0, LARGE.shape, (1,)) for name in names},
          {name: LARGE for name in names})
  return path


PROGRAM = '''
import sys
from flamingo.pretrained import formats
def most():
  with open('/proc/self/status') as file:
    return int(next(l for l in file if l.startswith('VmHWM')).split()[1]) << 10
path = sys.argv[1]
if path.endswith('gguf'):
  tensors = formats.open_gguf(path)[0]
else:
  tensors = formats.open_weights(path)
before = most()
for tensor in tensors.values():
  tensor.read()
print(most() - before)
'''


@pytest.mark.skipif(
    not os.path.exists('/proc/self/status'), reason='asks Linux for the peak')
@pytest.mark.parametrize('kind', ['safetensors', 'zip', 'legacy', 'gguf'])
def test_a_process_that_reads_a_file_holds_one_tensor_at_a_time(tmp_path, kind):
  path = write_many(tmp_path, kind)
  taken = int(subprocess.run(
      [sys.executable, '-c', PROGRAM, path], check=True, text=True,
      stdout=subprocess.PIPE).stdout)
  assert taken < 3 * LARGE.nbytes < MANY * LARGE.nbytes / 3


def peak(function):
  """Most memory that arrays and the rest of Python took in a call."""
  tracemalloc.start()
  try:
    function()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


def test_of_what_is_stored_a_writer_holds_one_tensor_at_a_time(tmp_path):
  tensors = formats.open_weights(write_many(tmp_path, 'zip'))
  taken = peak(lambda: formats.write_safetensors(
      tmp_path / 'new', tensors.items(), max_shard_bytes=4 * LARGE.nbytes))
  assert taken < 1.5 * LARGE.nbytes


def test_of_what_is_made_on_the_way_a_writer_holds_one_shard(tmp_path):
  made = ((str(i), LARGE.copy()) for i in range(MANY))
  taken = peak(lambda: formats.write_safetensors(
      tmp_path / 'new', made, max_shard_bytes=3 * LARGE.nbytes))
  # The shard, and the tensor that did not fit.
  assert taken < 4.5 * LARGE.nbytes
  assert len(list((tmp_path / 'new').iterdir())) == MANY / 3 + 1
