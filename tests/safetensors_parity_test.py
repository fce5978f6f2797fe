"""What we write the safetensors library reads, and the other way round."""

import numpy as np
import pytest

from flamingo.pretrained import formats

torch = pytest.importorskip('torch', reason='parity: make parity')
library = pytest.importorskip('safetensors.torch')

DTYPES = (
    'float64', 'float32', 'float16', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2',
    'complex64', 'int64', 'int32', 'int16', 'int8', 'uint64', 'uint32',
    'uint16', 'uint8', 'bool')


@pytest.fixture
def state():
  """A tensor of each type, and shapes of note."""
  torch.manual_seed(0)
  state = {
      name: (4 * torch.randn(3, 5)).abs().to(getattr(torch, name))
      for name in DTYPES}
  return state | dict(
      scalar=torch.tensor(2.5), empty=torch.zeros(0, 3), Ünicode=torch.ones(1))


def raw(tensor):
  return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_what_the_library_writes_is_read_to_the_last_bit(tmp_path, state):
  path = tmp_path / 'theirs.safetensors'
  library.save_file(state, path, metadata={'format': 'pt'})
  opened = formats.open_safetensors(path)
  assert opened.keys() == state.keys()
  for name, tensor in state.items():
    array = opened[name].read()
    assert array.dtype.name == str(tensor.dtype).removeprefix('torch.')
    assert array.shape == tuple(tensor.shape)
    assert array.tobytes() == raw(tensor)


def test_the_library_reads_what_is_written_to_the_last_bit(tmp_path, state):
  theirs, ours = tmp_path / 'theirs.safetensors', tmp_path / 'ours.safetensors'
  library.save_file(state, theirs)
  formats.write_safetensors(
      ours, formats.open_safetensors(theirs).items(),
      metadata={'format': 'pt'})
  tensors = library.load_file(ours)
  assert tensors.keys() == state.keys()
  for name, tensor in state.items():
    assert tensors[name].dtype == tensor.dtype
    assert tensors[name].shape == tensor.shape
    assert raw(tensors[name]) == raw(tensor)
  from safetensors import safe_open
  with safe_open(ours, 'pt') as file:
    assert file.metadata() == {'format': 'pt'}


def test_the_library_refuses_what_is_refused_here(tmp_path):
  path = tmp_path / 'model.safetensors'
  formats.write_safetensors(path, {'a': np.ones(3, np.float32)}.items())
  whole = path.read_bytes()
  for damaged in (whole[:-1], whole + b'\0', whole[:7], whole[:30],
                  whole.replace(b'F32', b'F64'), whole.replace(b'F32', b'F33'),
                  whole.replace(b'[0,12]', b'[4,16]')):
    path.write_bytes(damaged)
    with pytest.raises(ValueError):
      formats.open_safetensors(path)
    with pytest.raises(Exception, match='[Ee]rror'):
      library.load_file(path)


def test_transformers_loads_the_shards_that_are_written(tmp_path):
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
      n_layer=2, n_embd=12, n_head=3, vocab_size=37, n_positions=11))
  model.config.save_pretrained(tmp_path)
  state = {
      name: tensor.numpy() for name, tensor in model.state_dict().items()
      if name != 'lm_head.weight'}  # the same as wte, as the library wants it
  formats.write_safetensors(
      tmp_path, state.items(), max_shard_bytes=6000, metadata={'format': 'pt'})
  assert len(list(tmp_path.glob('*.safetensors'))) > 2
  again, report = transformers.GPT2LMHeadModel.from_pretrained(
      tmp_path, output_loading_info=True)
  assert not any(report.values())
  for name, tensor in again.state_dict().items():
    np.testing.assert_array_equal(tensor, model.state_dict()[name])
