"""Who may import whom, read from the source.

  types, params, sharding, hardware
    <- model, data
    <- pretrained, train, eval
    <- analysis
    <- experiments, colabs

A room imports from the rooms before its row, never from its neighbours: the
network knows no tokenizer, and the loop takes evaluators as callables. The
heavy libraries live in one file each, so that they can be replaced.
"""

import ast
from collections.abc import Iterator
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

ROWS = [
    {'types', 'params', 'sharding', 'hardware'},
    {'model', 'data'},
    {'pretrained', 'train', 'eval'},
    {'analysis'},
    {'experiments', 'colabs'},
]
# Within the first row there is an order: nouns, then trees of them.
FIRST_ROW = {
    'types': set(), 'params': {'types'}, 'sharding': {'types', 'params'},
    'hardware': set()}

ONE_FILE = {
    'grain': 'flamingo/data/pipeline.py',
    'orbax': 'flamingo/train/checkpoint.py',
    'tensorflow_datasets': 'flamingo/data/openmoji.py',
}
# Configs and flags are the experiments' alone; and no other framework.
NEVER_IN_THE_LIBRARY = {'ml_collections', 'absl', 'tensorflow', 'torch', 'clu'}


def _imports(source: str, package: str) -> Iterator[str]:
  """Full names of what is imported anywhere in a file, `from`s by member.

  Args:
    source: the text of the file.
    package: full name of the package it is in, to resolve relative imports.
  """
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      above = package.split('.')[: len(package.split('.')) - node.level + 1]
      prefix = above if node.level else []
      module = '.'.join(prefix + ([node.module] if node.module else []))
      yield from (f'{module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Call):
      name = getattr(node.func, 'attr', getattr(node.func, 'id', None))
      if name in ('import_module', '__import__') and node.args:
        if isinstance(node.args[0], ast.Constant):
          yield node.args[0].value


def _room(name: str) -> str | None:
  """Room that a full name is in; None if it isn't ours."""
  parts = name.split('.')
  if parts[0] == 'flamingo':
    return parts[1] if len(parts) > 1 else 'flamingo'
  return parts[0] if parts[0] in ('experiments', 'colabs') else None


def _may_import(room: str) -> set[str]:
  """Rooms that a room may import from, itself included."""
  if room in FIRST_ROW:
    return FIRST_ROW[room] | {room}
  for i, row in enumerate(ROWS):
    if room in row:
      return set().union(*ROWS[:i]) | {room}
  raise KeyError(
      f'{room!r} has no place in the table of layers. Put it into a row.')


def _files(*tops: str) -> list[pathlib.Path]:
  return sorted(path for top in tops for path in (ROOT / top).rglob('*.py'))


def _imports_of(path: pathlib.Path) -> set[str]:
  package = '.'.join(path.relative_to(ROOT).parent.parts)
  return set(_imports(path.read_text(), package))


def _name(path: pathlib.Path) -> str:
  return path.relative_to(ROOT).as_posix()


LIBRARY = _files('flamingo')


def test_there_is_a_library_to_look_at():
  assert len(LIBRARY) > 20
  assert {'flamingo.types.Batch', 'jax'} <= _imports_of(
      ROOT / 'flamingo/train/step.py')


@pytest.mark.parametrize('path', LIBRARY, ids=_name)
def test_imports_go_to_the_left(path):
  if path == ROOT / 'flamingo/__init__.py':
    room, allowed = 'the public API', set().union(*ROWS[:-1])
  else:
    room = _room('.'.join(path.relative_to(ROOT).with_suffix('').parts))
    allowed = _may_import(room)
  for name in _imports_of(path):
    assert _room(name) in allowed | {None}, (
        f'{_name(path)} imports {name}, but {room} may import from '
        f'{sorted(allowed)} only.')


def test_configs_and_flags_and_other_frameworks_stay_outside():
  for path in LIBRARY:
    tops = {name.split('.')[0] for name in _imports_of(path)}
    assert not tops & NEVER_IN_THE_LIBRARY, _name(path)


@pytest.mark.parametrize('library', ONE_FILE)
def test_a_heavy_library_lives_in_one_file(library):
  files = [
      _name(path) for path in _files('flamingo', 'experiments')
      if library in {name.split('.')[0] for name in _imports_of(path)}]
  assert files == [ONE_FILE[library]]


def test_every_room_has_a_place_in_the_table():
  rooms = {
      path.stem for path in (ROOT / 'flamingo').iterdir()
      if not path.name.startswith(('_', '.'))}
  assert rooms <= set().union(*ROWS)


# The reader itself.


@pytest.mark.parametrize('source, expected', [
    ('import a.b as c, d', {'a.b', 'd'}),
    ('from a import b as c', {'a.b'}),
    ('def f():\n  if x:\n    from a.b import c', {'a.b.c'}),
    ('from . import step', {'flamingo.train.step'}),
    ('from ..eval import decode', {'flamingo.eval.decode'}),
    ('from .loss import weighted_nll', {'flamingo.train.loss.weighted_nll'}),
    ('importlib.import_module("a.b")', {'a.b'}),
    ('"import a"  # import b', set()),
])
def test_no_way_to_import_goes_unseen(source, expected):
  assert set(_imports(source, 'flamingo.train')) == expected


@pytest.mark.parametrize('importer, imported', [
    ('model', 'data'), ('data', 'model'), ('train', 'eval'), ('eval', 'train'),
    ('types', 'params'), ('model', 'train'), ('analysis', 'experiments')])
def test_the_table_keeps_apart_what_should_be(importer, imported):
  assert imported not in _may_import(importer)


def test_the_library_may_not_import_its_own_public_api():
  assert _room('flamingo') == 'flamingo'
  assert all('flamingo' not in _may_import(room) for room in set().union(*ROWS))
