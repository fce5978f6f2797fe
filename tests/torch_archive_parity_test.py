"""What torch itself writes is read to the last bit."""

import collections

import pytest

from flamingo.pretrained import formats

torch = pytest.importorskip('torch', reason='parity: make parity')

DTYPES = (
    'float64', 'float32', 'float16', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2',
    'complex64', 'int64', 'int32', 'int16', 'int8', 'uint64', 'uint32',
    'uint16', 'uint8', 'bool')


@pytest.fixture(params=[True, False], ids=['zip', 'legacy'])
def save(request, tmp_path):
  """Saves an object in each of two formats, and returns where."""

  def save(state, **options):
    path = tmp_path / 'weights.pt'
    torch.save(
        state, path, _use_new_zipfile_serialization=request.param, **options)
    return path

  return save


def raw(tensor):
  """The bytes of a tensor, in C order."""
  flat = tensor.detach().contiguous().reshape(-1)
  return flat.view(torch.uint8).numpy().tobytes()


def check(state, path):
  opened = formats.open_torch_archive(path)
  assert opened.keys() == state.keys()
  for name, tensor in state.items():
    array = opened[name].read()
    assert array.shape == tuple(tensor.shape) == opened[name].shape
    assert array.dtype.name == str(tensor.dtype).removeprefix('torch.')
    assert array.dtype == opened[name].dtype
    assert array.tobytes() == raw(tensor), name


def test_every_type_of_numbers_is_read(save):
  numbers = torch.arange(-6, 6).reshape(3, 4)
  state = {name: numbers.to(getattr(torch, name)) for name in DTYPES}
  check(state, save(state))


def test_views_of_one_storage_are_read(save):
  whole = torch.randn(5, 7, 3).to(torch.bfloat16)
  state = dict(
      whole=whole, turned=whole.permute(2, 0, 1), part=whole[1:4, 2::2],
      column=whole[:, 3, 1], scalar=whole[2, 2, 2], empty=whole[:0],
      repeated=whole[0, :1].expand(4, 3), last=whole[-1])
  check(state, save(state))


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(save, protocol):
  state = dict(weight=torch.randn(3, 2), steps=torch.tensor(7))
  check(state, save(state, pickle_protocol=protocol))


def test_parameters_and_buffers_are_read_with_what_hangs_on_them(save):
  tagged = torch.nn.Parameter(torch.randn(3))
  tagged.sharded = [1, 2]
  noted = torch.randn(2)
  noted.note = 'frozen'
  state = dict(
      plain=torch.nn.Parameter(torch.randn(2, 2)), tagged=tagged, noted=noted,
      buffer=torch.nn.Buffer(torch.randn(4)),
      frozen=torch.nn.Parameter(torch.randn(2), requires_grad=False))
  check(state, save(state))


def test_the_state_dict_of_a_module_is_read(save):
  model = torch.nn.Sequential(
      torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
  state = model.half().state_dict()
  assert hasattr(state, '_metadata')
  check(state, save(state))


def test_of_what_a_trainer_saves_the_model_is_read(save):
  model = torch.nn.Linear(3, 2)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
  schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
  model(torch.ones(3)).sum().backward()
  optimizer.step()
  schedule.step()
  path = save({
      'epoch': 3, 'best': float('nan'), 'device': torch.device('cuda', 0),
      'dtype': torch.bfloat16, 'layout': torch.strided,
      'shape': torch.Size([2, 3]), 'counts': collections.Counter('aab'),
      'rng_state': torch.get_rng_state(),
      'model_state_dict': model.state_dict(),
      'optimizer_state_dict': optimizer.state_dict(),
      'lr_scheduler_state_dict': schedule.state_dict()})
  check(model.state_dict(), path)


@pytest.mark.parametrize('tensor, problem', [
    (torch.ones(2, dtype=torch.complex64).conj(), 'resolve_conj'),
    (torch.ones(2, 2).to_sparse(), '_rebuild_sparse_tensor'),
    (torch.ones(2, device='meta'), '_rebuild_meta_tensor_no_storage'),
], ids=['conjugate', 'sparse', 'meta'])
def test_a_tensor_that_is_not_its_numbers_is_refused(save, tensor, problem):
  path = save({'fine': torch.ones(1), 'odd': tensor})
  with pytest.raises(Exception, match=problem) as caught:
    formats.open_torch_archive(path)
  assert caught.type.__name__ in ('ValueError', 'UnpicklingError')


def test_a_whole_module_is_refused_by_its_name(save):
  with pytest.raises(Exception, match=r'torch\.nn\.modules\.linear\.Linear'):
    formats.open_torch_archive(save(torch.nn.Linear(2, 2)))


def test_a_program_of_torchscript_is_told_apart(tmp_path):
  path = tmp_path / 'model.pt'
  torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
  with pytest.raises(ValueError, match=r'TorchScript.*state_dict\(\)'):
    formats.open_torch_archive(path)
