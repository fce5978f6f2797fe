"""A damaged checkpoint is named and passed over; its numbers are never used."""

import pathlib
import shutil

import checkpoint_test
from flamingo.train import digest
from flamingo.train.checkpoint import Checkpointer, read_meta
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import numpy as np
import orbax.checkpoint as ocp
import pytest

OLD, NEW = 4, 8


def open_(directory, **kwargs):
  return Checkpointer(
      directory, config={'steps': 9}, fingerprints={'lm': 'abc'}, **kwargs)


def state_of(step):
  return checkpoint_test.make_state(seed=step).replace(step=jnp.int32(step))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A folder of two checkpoints; tests copy it."""
  directory = tmp_path_factory.mktemp('whole') / 'run'
  checkpointer = open_(directory)
  for step in OLD, NEW:
    checkpointer.save(
        state_of(step), {'next_index': step}, {'since': [{'loss': step / 3}]})
  checkpointer.close()
  return directory


@pytest.fixture
def run(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / 'run')


def restore(directory, **kwargs):
  checkpointer = open_(directory, **kwargs)
  try:
    return checkpointer.restore(state_of(0))
  finally:
    checkpointer.close()


def assert_is(restored, step):
  """All of it is what was saved at that step."""
  expected = state_of(step)
  jax.tree.map(
      np.testing.assert_array_equal,
      (restored.state.step, restored.state.trainable, restored.state.opt_state),
      (expected.step, expected.trainable, expected.opt_state))
  assert restored.data == {'next_index': step}
  assert restored.progress == {'since': [{'loss': step / 3}]}


def flip(path):
  data = bytearray(path.read_bytes())
  for i in range(len(data) // 2, len(data), 7):
    data[i] ^= 1 << (i % 8)
  path.write_bytes(data)


def cut(path):
  path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def empty(path):
  path.write_bytes(b'')


# A reader that fails leaves threads and coroutines of its own behind.
pytestmark = pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning', 'ignore::RuntimeWarning')


def test_whatever_file_is_spoilt_in_whatever_way_no_wrong_number_is_restored(
    whole, tmp_path, capsys
):
  """Some files are not needed; then the newest is used, and is right."""
  files = [
      p.relative_to(whole) for p in (whole / str(NEW)).rglob('*')
      if p.is_file()]
  # Copies of what the other files hold, places on other devices, and marks.
  needed = [name for name in files if not any(
      part in ('_sharding', '_CHECKPOINT_METADATA', 'commit_success.txt')
      or part.startswith('ocdbt.process') for part in name.parts)]
  assert len(needed) > 8
  found = set()
  for name in needed:
    for spoil in flip, cut, empty, pathlib.Path.unlink:
      run = shutil.copytree(whole, tmp_path / f'{name.name}-{spoil.__name__}')
      spoil(run / name)
      restored = restore(run)
      said = capsys.readouterr().out
      step = int(restored.state.step)
      assert_is(restored, step)
      assert (f'Checkpoint {NEW} is damaged' in said) == (step == OLD)
      if step == OLD:
        found.add((str(name.relative_to(str(NEW))), spoil.__name__))
      shutil.rmtree(run)
  for name in (
      'meta/metadata', 'data/metadata', 'progress/metadata', 'state/_METADATA',
      'state/manifest.ocdbt', 'digests/manifest.ocdbt'):
    for spoil in 'flip', 'cut', 'empty', 'unlink':
      assert (name, spoil) in found


def test_numbers_that_were_changed_behind_its_back_are_named(
    run, monkeypatch, capsys
):
  """As by a disk that returns other bytes than it was given."""
  read = ocp.CheckpointManager.restore

  def spoilt(self, step, **kwargs):
    found = read(self, step, **kwargs)
    if step == NEW and 'state' in found:
      block = found['state']['trainable']['xattn_0']['out']
      bits = np.asarray(block['kernel']).view(np.uint32).copy()
      bits[1, 1] ^= 1
      block['kernel'] = jnp.asarray(bits.view(np.float32))
    return found

  monkeypatch.setattr(ocp.CheckpointManager, 'restore', spoilt)
  assert_is(restore(run), OLD)
  assert 'trainable/xattn_0/out/kernel: not what was saved' in (
      capsys.readouterr().out)


def test_a_damaged_checkpoint_keeps_another_name_and_its_number_is_free(
    run, capsys
):
  (run / f'{NEW}/state/manifest.ocdbt').write_bytes(b'')
  checkpointer = open_(run)
  assert int(checkpointer.restore(state_of(0)).state.step) == OLD
  checkpointer.save(state_of(NEW), {'next_index': NEW}, {
      'since': [{'loss': NEW / 3}]}, wait=True)
  checkpointer.close()
  assert_is(restore(run), NEW)
  assert (run / f'{NEW}.damaged').is_dir()
  (run / f'{NEW}/meta/metadata').write_bytes(b'')
  assert_is(restore(run), OLD)
  assert (run / f'{NEW}.damaged-2').is_dir()


def test_reading_leaves_a_damaged_checkpoint_where_it_is(run, capsys):
  (run / f'{NEW}/meta/metadata').write_bytes(b'{}')
  assert_is(restore(run, read_only=True), OLD)
  assert read_meta(run)['config'] == {'steps': 9}
  assert (run / str(NEW)).is_dir() and not list(run.glob('*.damaged'))


def test_if_all_are_damaged_it_does_not_begin_anew(run):
  for step in OLD, NEW:
    shutil.rmtree(run / str(step) / 'state')
  with pytest.raises(OSError) as error:
    restore(run)
  text = str(error.value)
  assert f'Checkpoint {OLD} is damaged' in text and 'begin anew' in text
  assert f'Checkpoint {NEW} is damaged' in text
  assert (run / str(NEW)).is_dir()


def test_a_digest_is_that_of_the_same_numbers_on_any_mesh():
  tree = {'a': jnp.arange(24.0).reshape(4, 6), 'b': jnp.ones((2, 3), bool),
          'c': jnp.bfloat16(3), 'd': jnp.arange(8, dtype=jnp.int32)}
  mesh = jax.make_mesh((2,), ('x',), axis_types=(AxisType.Auto,))
  expected = np.asarray(digest.of_arrays(tree))
  for spec in P(), P('x'):
    spread = jax.device_put(tree, NamedSharding(mesh, P()))
    spread['a'], spread['d'] = jax.device_put(
        (tree['a'], tree['d']), NamedSharding(mesh, spec))
    np.testing.assert_array_equal(digest.of_arrays(spread), expected)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32', 'uint8'])
def test_every_flipped_bit_and_every_exchange_changes_a_digest(dtype):
  """Also signs that change in pairs, which a weighted sum would not see."""
  x = np.arange(1, 13).reshape(3, 4).astype(jnp.dtype(dtype))
  bits = x.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[x.dtype.itemsize])
  seen = {int(digest.of_arrays(x)[0])}
  changes = [[(i, 1 << bit)] for i in range(12)
             for bit in range(8 * x.dtype.itemsize)]
  top = 1 << (8 * x.dtype.itemsize - 1)
  changes += [[(i, top), (j, top)] for i in range(12) for j in range(i)]
  for change in changes:
    other = bits.copy()
    for place, mask in change:
      other.flat[place] ^= other.dtype.type(mask)
    seen.add(int(digest.of_arrays(other.view(x.dtype))[0]))
  seen.add(int(digest.of_arrays(x[::-1])[0]))
  assert len(seen) == len(changes) + 2
