"""Processes that train as one: what one process would, and they end together.

Real processes of `experiments.train`, signalled and killed. They share what is
compiled, so only the first of a kind compiles.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

from experiments import processes
from flamingo.train.writer import read_metrics
import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent
SILENCE = 10  # seconds
MESH = tuple(f'--config.mesh.{axis}=2' for axis in ('data', 'fsdp', 'tensor'))
TIMES = re.compile(
    'seconds_.*|.*_per_second|data_wait_.*|mfu')


class Run:
  """A training in processes of four devices each."""

  def __init__(self, workdir, cache, count, *args):
    with socket.socket() as found:
      found.bind(('localhost', 0))
      port = found.getsockname()[1]
    environment = os.environ | {
        'PYTHONPATH': str(HERE.parent), 'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    several = (
        f'--coordinator=localhost:{port}', f'--processes={count}',
        f'--silence={SILENCE}')
    self.workdir = workdir
    self.processes = [
        subprocess.Popen(
            [sys.executable, HERE / 'tiny_training.py',
             f'--config={HERE / "tiny_config.py"}', f'--workdir={workdir}',
             *args, *((*several, f'--process={i}') if count > 1 else ())],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment)
        for i in range(count)]

  def wait_for_step(self, step):
    while not any(row['step'] >= step for row in read_metrics(self.workdir)):
      for process in self.processes:
        assert process.poll() is None, process.communicate()[1]
      time.sleep(0.05)

  def ends(self):
    """(exit status, standard output, errors) of each process."""
    outputs = [process.communicate(timeout=300) for process in self.processes]
    return [
        (p.returncode, *output) for p, output in zip(self.processes, outputs)]


@pytest.fixture(scope='module')
def train(tmp_path_factory):
  """(workdir, number of processes, *flags) to a running `Run`."""
  cache, runs = tmp_path_factory.mktemp('compiled'), []

  def start(*args):
    runs.append(Run(args[0], cache, *args[1:]))
    return runs[-1]

  yield start
  for run in runs:
    for process in run.processes:
      process.kill()


@pytest.fixture(scope='module')
def one_process(train, tmp_path_factory):
  """A training of one process with one device, which may still run."""
  return train(tmp_path_factory.mktemp('alone'), 1)


def test_a_process_that_falls_silent_ends_the_others(
    train, tmp_path, request
):
  run = train(tmp_path, 2, '--devices=4', '--slow=0.03', *MESH)
  run.wait_for_step(1)
  run.processes[1].send_signal(signal.SIGSTOP)
  began = time.monotonic()
  request.getfixturevalue('one_process')  # trains while this one waits
  out, errors = run.processes[0].communicate(timeout=300)
  assert time.monotonic() - began < 3 * SILENCE
  assert run.processes[0].returncode != 0
  assert 'another task died' in errors or 'run on every host again' in errors


@pytest.fixture(scope='module')
def alone(one_process):
  """Metrics of one process with one device."""
  (status, _, errors), = one_process.ends()
  assert status == 0, errors
  return read_metrics(one_process.workdir)


def test_two_processes_train_as_one_device_through_a_signal_and_a_kill(
    train, alone, tmp_path
):
  # A signal to one stops both, and saves.
  run = train(tmp_path, 2, '--devices=4', '--slow=0.03', *MESH)
  run.wait_for_step(3)
  run.processes[1].send_signal(signal.SIGTERM)
  (first, out, errors), (second, quiet, _) = run.ends()
  assert (first, second) == (0, 0), errors
  stopped = int(re.search(r'Stopped at step (\d+) and saved', out)[1])
  assert (tmp_path / 'checkpoints' / str(stopped)).is_dir()
  # The first alone prints, but for what gloo says of its connections.
  assert 'Stopped' in out and 'Reading' in out
  assert 'Stopped' not in quiet and 'Reading' not in quiet

  # Where one is killed, the other ends, soon, and says what to do.
  run = train(tmp_path, 2, '--devices=4', '--slow=0.03', *MESH)
  run.wait_for_step(stopped + 2)
  run.processes[1].kill()
  began = time.monotonic()
  (first, out, errors), _ = run.ends()
  assert time.monotonic() - began < SILENCE + 10
  assert first not in (0, None)
  assert 'To go on, run on every host again:' in errors
  assert f'Resuming at step {stopped} of' in out

  # The same command goes on, to the same end.
  run = train(tmp_path, 2, '--devices=4', *MESH)
  (first, out, errors), (second, _, _) = run.ends()
  assert (first, second) == (0, 0), errors
  assert 'Resuming at step' in out
  together = read_metrics(tmp_path)
  assert [row['step'] for row in together] == [row['step'] for row in alone]
  for one, other in zip(alone, together, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      if not TIMES.fullmatch(name):
        np.testing.assert_allclose(
            other[name], one[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('given', [
    dict(coordinator='localhost:1', processes=2),
    dict(processes=2, process=0),
    dict(process=0),
])
def test_some_of_three_is_an_error(given):
  with pytest.raises(ValueError, match='all three are needed, or none'):
    processes.join(**given)


def test_one_process_joins_no_one():
  processes.join(processes=1)
