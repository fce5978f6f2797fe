"""Full disks, folders of others, and two runs in one: said so, nothing lost."""

import contextlib
import errno
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

import checkpoint_test
from flamingo.train import folder
from flamingo.train.checkpoint import Checkpointer
from flamingo.train.writer import read_metrics, Writer
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c


def open_(directory, **kwargs):
  return Checkpointer(
      directory, config={'steps': 9}, fingerprints={}, **kwargs)


def state_of(step, width=3):
  return checkpoint_test.make_state(seed=step, width=width).replace(
      step=jnp.int32(step))


# Disks.


# A writer that fails leaves threads of its own behind.
pytestmark = pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture
def small_disk(tmp_path):
  """A real file system of 1 MB."""
  made = subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', tmp_path],
      capture_output=True)
  if made.returncode:
    pytest.skip('Only root may mount a small disk.')
  try:
    yield tmp_path
  finally:
    subprocess.run(['umount', '--lazy', tmp_path], check=True)


def test_a_full_disk_is_said_so_and_the_checkpoint_before_is_whole(small_disk):
  checkpointer = open_(small_disk / 'run')
  checkpointer.save(state_of(4), {'next_index': 4}, wait=True)
  (small_disk / 'other').write_bytes(
      bytes(os.statvfs(small_disk).f_bavail * 4096 - 20_000))
  with pytest.raises(OSError) as error:
    checkpointer.save(state_of(8, width=2000), {'next_index': 8}, wait=True)
  text = str(error.value)
  assert 'could not be written' in text and 'MB are free' in text
  assert 'Checkpoint 4 is whole' in text and 'Make room' in text
  with contextlib.suppress(OSError):
    checkpointer.close()

  (small_disk / 'other').unlink()
  checkpointer = open_(small_disk / 'run')
  restored = checkpointer.restore(state_of(0))
  assert int(restored.state.step) == 4 and restored.data == {'next_index': 4}
  checkpointer.save(state_of(8), {'next_index': 8}, wait=True)
  checkpointer.close()
  # What was half written is gone.
  names = {p.name for p in (small_disk / 'run').iterdir()}
  assert names == {'4', '8', 'lock'}


def test_a_disk_that_fills_in_the_background_is_noticed_without_waiting(
    small_disk
):
  checkpointer = open_(small_disk / 'run')
  checkpointer.save(state_of(8, width=20_000), {'next_index': 8})
  with pytest.raises(OSError, match='could not be written'):
    for _ in range(600):
      checkpointer.check()
      time.sleep(0.05)
  with contextlib.suppress(OSError):
    checkpointer.close()


def test_metrics_that_find_no_room_are_an_error_and_those_before_are_kept(
    small_disk
):
  writer = Writer(small_disk / 'run')
  writer.write(1, {'loss': 2.0})
  with contextlib.suppress(OSError):
    (small_disk / 'other').write_bytes(bytes(1 << 20))
  with pytest.raises(OSError, match='Metrics cannot be written') as error:
    for step in range(2, 2000):
      writer.write(step, {f'loss/{i}': 1.0 for i in range(50)})
  assert error.value.errno == errno.ENOSPC
  writer.close()
  assert read_metrics(small_disk / 'run')[0] == {'step': 1, 'loss': 2.0}
  (small_disk / 'other').unlink()
  Writer(small_disk / 'run', resumed_at=1).close()
  text = (small_disk / 'run' / 'metrics.jsonl').read_text()
  assert text == '{"step": 1, "loss": 2.0}\n'


LIMITED = '''
import resource, sys
sys.path.insert(0, {tests!r})
import disk_test
checkpointer = disk_test.open_({directory!r})
checkpointer.save(disk_test.state_of(4), {{'next_index': 4}}, wait=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
checkpointer.save(
    disk_test.state_of(8, width=100_000), {{'next_index': 8}}, wait=True)
'''


def test_a_file_that_may_not_grow_is_an_error_for_users_who_mount_nothing(
    tmp_path
):
  script = LIMITED.format(
      tests=str(pathlib.Path(__file__).parent), directory=str(tmp_path / 'run'))
  done = subprocess.run(
      [sys.executable, '-c', script], capture_output=True, text=True,
      env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)})
  assert done.returncode == 1
  assert 'Checkpoint 4 is whole' in done.stderr, done.stderr
  checkpointer = open_(tmp_path / 'run')
  assert int(checkpointer.restore(state_of(0)).state.step) == 4
  checkpointer.close()


@pytest.mark.parametrize('make', [Writer, open_])
def test_a_folder_that_cannot_be_written_is_said_so(tmp_path, make):
  """Root may write anywhere, but not below a file."""
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='cannot be written.*owner'):
    make(tmp_path / 'file' / 'run')


# Two runs.


HOLD = '''
import pathlib, sys, time
from flamingo.train import folder
held = folder.hold(pathlib.Path(sys.argv[1]))
print('held', flush=True)
time.sleep(60)
'''


def test_two_runs_in_one_folder_are_refused_and_a_killed_one_leaves_no_lock(
    tmp_path
):
  other = subprocess.Popen(
      [sys.executable, '-c', HOLD, tmp_path / 'run'], stdout=subprocess.PIPE,
      env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)})
  try:
    assert other.stdout.readline() == b'held\n'
    with pytest.raises(RuntimeError) as error:
      open_(tmp_path / 'run')
    assert f'process {other.pid} on ' in str(error.value)
    assert 'since 20' in str(error.value)
    open_(tmp_path / 'run', read_only=True).close()
  finally:
    other.send_signal(signal.SIGKILL)
    other.wait()
  open_(tmp_path / 'run').close()


def test_a_closed_run_lets_go_of_its_folder(tmp_path):
  open_(tmp_path).close()
  folder.hold(tmp_path).close()
  folder.hold(tmp_path).close()
  assert f'process {os.getpid()}' in (tmp_path / 'lock').read_text()


# What TensorBoard shows.


def shown(directory):
  """(step, name) to value, as TensorBoard reads event files, one by one."""
  values = {}
  for path in sorted((directory / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while len(data) >= 12:
      length = struct.unpack('<Q', data[:8])[0]
      assert struct.unpack('<I', data[8:12])[0] == masked_crc32c(data[:8])
      body, data = data[12:12 + length], data[16 + length:]
      event = Event.FromString(body)
      if event.session_log.status == SessionLog.START:
        values = {k: v for k, v in values.items() if k[0] < event.step}
      for value in event.summary.value:
        values[event.step, value.tag] = value.simple_value
  return values


def test_tensorboard_shows_what_the_lines_say_also_after_a_kill(tmp_path):
  """Without a chance to flush: events are in the file when `write` returns."""
  for resumed_at, last in (0, 5), (3, 9), (8, 12):
    writer = Writer(tmp_path, resumed_at=resumed_at)
    for step in range(resumed_at + 1, last + 1):
      writer.write(step, {'loss': step / 8, 'gate/a': resumed_at})
    expected = {
        (row['step'], name): value for row in read_metrics(tmp_path)
        for name, value in row.items() if name != 'step'}
    assert shown(tmp_path) == expected and len(expected) == 2 * last


def test_lines_are_json(tmp_path):
  writer = Writer(tmp_path)
  writer.write(1, {'loss': jnp.float32(0.1)})
  writer.close()
  row = json.loads((tmp_path / 'metrics.jsonl').read_text())
  assert row == {'step': 1, 'loss': float(jnp.float32(0.1))}
