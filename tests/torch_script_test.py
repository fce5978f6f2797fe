"""Of a TorchScript program the tensors are read, and nothing of it is run."""

import functools
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from flamingo.pretrained import formats
from torch_archives import Module, Tensor, write_zip


class Imports:
  """An object whose pickle calls a function when it is read."""

  def __init__(self, function, *args):
    self.function, self.args = function, args

  def __reduce__(self):
    return self.function, self.args


STORAGES = {
    '0': np.arange(12, dtype=np.float32), '1': np.float16([5, 6]),
    '2': np.array([224])}
MATRIX = Tensor('0', 0, (3, 4), (4, 1))
TURNED = Tensor('0', 0, (4, 3), (1, 4))
BIAS = Tensor('1', 0, (2,), (1,))
SIZE = Tensor('2', 0, (), ())


@pytest.fixture
def write(tmp_path):
  """Writes a program, whose code is none."""
  code = {
      'weights/code/__torch__.py': b'import os; os.abort()',
      'weights/constants.pkl': pickle.dumps(Imports(os.abort)),
      'weights/constants/0': bytes(48)}
  return functools.partial(write_zip, tmp_path / 'program.pt', more=code)


def test_a_tensor_has_the_name_of_the_path_to_it(write):
  shared = Module(training=False, weight=TURNED, bias=None)
  conv = {'0': shared, '1': Module(training=True, bias=BIAS)}
  program = Module(
      training=False, visual=Module(conv1=Module(**conv), proj=MATRIX, heads=3),
      input_resolution=SIZE, names=['a'], scale=0.5, again=shared,
      inert=[BIAS], table={'a': BIAS})
  opened = formats.open_weights(write(program, STORAGES))
  assert list(opened) == [
      'input_resolution', 'visual.proj', 'visual.conv1.0.weight',
      'visual.conv1.1.bias', 'again.weight']
  matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
  np.testing.assert_array_equal(opened['visual.proj'].read(), matrix)
  np.testing.assert_array_equal(opened['again.weight'].read(), matrix.T)
  bias = opened['visual.conv1.1.bias'].read()
  assert bias.tolist() == [5, 6] and bias.dtype == np.float16
  assert opened['input_resolution'].read() == 224


@pytest.mark.parametrize('program', [
    Module(weight=BIAS, hook=Imports(os.system, 'exit 1')),
    Module(weight=BIAS, inner=Module(hook=Imports(eval, '1 / 0'))),
    Imports(os.system, 'exit 1'),
    Imports(getattr, Module(weight=BIAS), 'weight'),
], ids=['attribute', 'inner', 'root', 'getattr'])
def test_a_program_that_wants_to_import_anything_else_is_refused(
    write, program):
  with pytest.raises(pickle.UnpicklingError, match='wants to import'):
    formats.open_torch_archive(write(program, STORAGES))


EXIT = b'X\x06\x00\x00\x00exit 1'
NEW = b'c__torch__\nModule\n)\x81'
NAME = b'X\x01\x00\x00\x00'


@pytest.mark.parametrize('program, problem', [
    # A class of the program is nothing that could be called.
    (b'c__torch__\nsystem\n(' + EXIT + b'tR.', 'no state dict calls'),
    (b'c__torch__.os\nsystem\n(' + EXIT + b'tR.', 'no state dict calls'),
    (b'c__torch__\nos.system\n(' + EXIT + b't\x81.', 'no state dict calls'),
    (b'c__torch__\nModule\n' + EXIT + b'R.', 'what is not a function'),
    (NEW + b'(' + EXIT + b'tR.', 'what is not a function'),
    (b'(i__torch__\nModule\n.', 'INST is no instruction'),
    (b'(c__torch__\nModule\no.', 'OBJ is no instruction'),
    (b'c__torch__\nModule\n.', 'came a Name'),
    # Its name has no other meaning.
    (b'c__torch__os\nsystem\n.', 'wants to import __torch__os.system'),
    (b'cos.__torch__\nsystem\n.', 'wants to import os.__torch__.system'),
    (b'\x80\x04NX\x01\x00\x00\x00a\x93.', 'damaged|wants to import'),
    # Attributes are a dict, and stay in it.
    (NEW + b'.', 'not saved attribute by attribute'),
    (NEW + b'(' + EXIT + b'tb.', 'not saved attribute by attribute'),
    (NEW + b'}K\x01' + NEW + b'sb.', 'not saved attribute by attribute'),
    (NEW + b'}' + NAME + b'.' + NEW + b'sb.', 'not saved attribute by'),
    (NEW + b'(}}tb.', 'not saved attribute by attribute'),
    (NEW + EXIT + EXIT + b's.', 'what is no dict'),
    (NEW + EXIT + b'a.', 'does not add to a list'),
    (b'c__torch__\nModule\n}' + EXIT + EXIT + b'sb.', 'came a Name'),
    (NEW + b'}' + EXIT + EXIT + b'sb.', 'modules have no tensors'),
    (NEW + b'}}b.', 'expected one dict of tensors'),
], ids=range(21))
def test_no_instruction_of_a_program_leads_anywhere(write, program, problem):
  before = dict(vars(Module))
  with pytest.raises((pickle.UnpicklingError, ValueError), match=problem):
    formats.open_torch_archive(write(None, {}, program=program))
  assert dict(vars(Module)) == before


def within_itself():
  module = Module(weight=BIAS)
  module.inner = module
  return module


def doubled(depth, **attributes):
  module = Module(**attributes)
  for _ in range(depth):
    module = Module(a=module, b=module)
  return module


def long_names():
  module, name = Module(weight=BIAS), 'n' * 1_000_000
  for _ in range(100):
    module = Module(**{name: module, 'weight': BIAS})
  return module


@pytest.mark.parametrize('program', [
    within_itself, functools.partial(doubled, 60, weight=BIAS),
    functools.partial(doubled, 60, training=True), long_names,
], ids=['cycle', 'names', 'visits', 'long'])
def test_a_program_cannot_fill_the_memory_with_names(write, program):
  path = write(program(), STORAGES)
  tracemalloc.start()
  with pytest.raises(ValueError, match='without end'):
    formats.open_torch_archive(path)
  assert tracemalloc.get_traced_memory()[1] < 60e6
  tracemalloc.stop()


def test_a_tensor_outside_of_its_storage_is_refused_by_its_name(write):
  program = Module(inner=Module(weight=Tensor('0', 6, (3, 4), (4, 1))))
  with pytest.raises(ValueError, match='inner.weight.*outside'):
    formats.open_torch_archive(write(program, STORAGES))


def test_a_program_cut_short_anywhere_is_refused(write):
  path = write(Module(inner=Module(weight=MATRIX, bias=BIAS)), STORAGES)
  whole = path.read_bytes()
  for size in range(0, len(whole), 3):
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match='cut short|not a torch archive'):
      formats.open_torch_archive(path)
