"""What torch itself writes is read to the last bit."""

import collections
import functools

from flamingo.pretrained import formats
from flamingo.pretrained import vision
import jax
import numpy as np
import pytest

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


# Programs of TorchScript.


class Block(torch.nn.Module):
  """All that a module may have beside parameters."""

  def __init__(self):
    super().__init__()
    self.flag, self.scale, self.names, self.nothing = 3, 0.5, ['a', 'b'], None
    self.linear = torch.nn.Linear(3, 3)
    self.norm = torch.nn.BatchNorm1d(3)
    self.register_buffer('steps', torch.arange(3))
    self.register_buffer('mask', torch.ones(3), persistent=False)
    self.listed = [torch.ones(1)]
    self.table = {'key': torch.ones(1)}

  def forward(self, x):
    x = self.norm(self.linear(x)) + self.steps * self.mask + len(self.listed)
    return self.scale * x + len(self.table) * self.flag + len(self.names)


class Program(torch.nn.Module):
  """Nested modules, one of them twice, and weights that two of them share."""

  def __init__(self):
    super().__init__()
    nested = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU())
    self.layers = torch.nn.Sequential(Block(), nested)
    self.again = nested[0]
    self.lists = torch.nn.ModuleList([torch.nn.Linear(3, 4)])
    self.embed = torch.nn.Embedding(4, 3)
    self.tied = torch.nn.Linear(3, 4)
    self.tied.weight = self.embed.weight
    self.turned = torch.nn.Parameter(torch.randn(4, 3).T)
    self.part = torch.nn.Parameter(torch.randn(9)[3:7])

  def forward(self, x):
    for module in self.lists:
      x = module(self.again(self.layers(x)))
    x = self.tied(x @ self.embed.weight) + self.part
    return x @ self.turned.T


def script(module, inputs):
  del inputs
  return torch.jit.script(module)


@pytest.fixture(params=[script, torch.jit.trace], ids=['script', 'trace'])
def save_program(request, tmp_path):
  """Compiles and saves a module, in each of two ways, and returns where."""

  def save(module, inputs):
    path = tmp_path / 'program.pt'
    torch.jit.save(request.param(module.eval(), inputs), path)
    return path

  return save


@pytest.mark.filterwarnings('ignore')  # of torch.jit, which is deprecated
@pytest.mark.parametrize('dtype', [
    torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_program_is_read_as_its_state_dict(save_program, dtype):
  model = Program().to(dtype)
  path = save_program(model, torch.ones(2, 3, dtype=dtype))
  state = torch.jit.load(path).state_dict()
  # TorchScript does not know of buffers that are not to be saved.
  assert state.keys() == model.state_dict().keys() | {'layers.0.mask'}
  check(state, path)
  assert list(formats.open_torch_archive(path)) == list(state)


@pytest.mark.filterwarnings('ignore')
def test_what_is_no_parameter_and_no_buffer_comes_along(tmp_path):
  module = Program()
  module.again.constant = torch.ones(2)
  path = tmp_path / 'program.pt'
  torch.jit.save(torch.jit.script(module), path)
  extra = formats.open_torch_archive(path).keys() - (
      torch.jit.load(path).state_dict().keys())
  assert extra == {'again.constant', 'layers.1.0.constant'}


class Attention(torch.nn.Module):

  def __init__(self):
    super().__init__()
    self.attn = torch.nn.MultiheadAttention(64, 1)
    self.ln_1, self.ln_2 = torch.nn.LayerNorm(64), torch.nn.LayerNorm(64)
    self.mlp = torch.nn.Sequential(collections.OrderedDict(
        c_fc=torch.nn.Linear(64, 17), gelu=torch.nn.GELU(),
        c_proj=torch.nn.Linear(17, 64)))

  def forward(self, x):
    y = self.ln_1(x)
    x = x + self.attn(y, y, y, need_weights=False)[0]
    return x + self.mlp(self.ln_2(x))


class Visual(torch.nn.Module):

  def __init__(self):
    super().__init__()
    self.conv1 = torch.nn.Conv2d(3, 64, 5, 5, bias=False)
    self.class_embedding = torch.nn.Parameter(torch.randn(64))
    self.positional_embedding = torch.nn.Parameter(torch.randn(10, 64))
    self.proj = torch.nn.Parameter(torch.randn(64, 7))
    self.ln_pre, self.ln_post = torch.nn.LayerNorm(64), torch.nn.LayerNorm(64)
    self.transformer = torch.nn.Module()
    self.transformer.resblocks = torch.nn.Sequential(Attention(), Attention())

  def forward(self, x):
    x = self.conv1(x).flatten(2).mT
    first = self.class_embedding.expand(len(x), 1, 64)
    x = torch.cat([first, x], 1) + self.positional_embedding
    x = self.transformer.resblocks(self.ln_pre(x).transpose(0, 1))
    return self.ln_post(x[0]) @ self.proj


class CLIP(torch.nn.Module):
  """As OpenAI's, of the text tower only what is not within a module."""

  def __init__(self):
    super().__init__()
    self.visual = Visual()
    self.logit_scale = torch.nn.Parameter(torch.ones(()))
    self.text_projection = torch.nn.Parameter(torch.randn(6, 7))
    for name in ('input_resolution', 'context_length', 'vocab_size'):
      self.register_buffer(name, torch.tensor(15))

  def forward(self, x):
    return self.visual(x) * self.logit_scale.exp() @ self.text_projection.T


@pytest.mark.filterwarnings('ignore')
def test_a_clip_is_the_same_from_a_program_as_from_its_state_dict(tmp_path):
  program, state = tmp_path / 'ViT.pt', tmp_path / 'state.pt'
  torch.manual_seed(0)
  model, images = CLIP().eval().half(), torch.ones(1, 3, 15, 15).half()
  torch.jit.save(torch.jit.trace(model, images), program)
  torch.save(model.state_dict(), state)
  load = functools.partial(
      vision.load_vision, activation='quick_gelu', embed=True)
  _, expected, info = load(state)
  module, params, again = load(program)
  assert again.fingerprint == info.fingerprint
  assert module.image_size == 15 and module.layers == 2
  jax.tree.map(np.testing.assert_array_equal, params, expected)
