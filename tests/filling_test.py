"""Processes fill one store of features at once, killed or not."""

import signal
import subprocess
import sys
import textwrap
import threading
import time

from flamingo.data import features
from flamingo.data.claims import Claims
import numpy as np
import pytest

SHAPE = (3, 5)

# Pictures FIRST to LAST of one color each. It says what it encodes, then waits
# until GO is there; batch DEATH, if it comes to that, is its last.
PROGRAM = textwrap.dedent("""
    import os, pathlib, signal, sys, time
    import numpy as np
    from flamingo.data import features

    folder, go = map(pathlib.Path, sys.argv[1:3])
    first, last, death = map(int, sys.argv[3:])
    batches = []

    def encode(batch):
      batches.append(batch)
      said = sorted(set(batch[:, 0, 0, 0].tolist()))
      print('encodes', *said, flush=True)
      while not go.exists():
        time.sleep(0.01)
      if len(batches) == death:
        os.kill(os.getpid(), signal.SIGKILL)
      time.sleep(0.01)
      return batch[:, :3, :5, 0].astype(np.float32)

    features.FeatureStore(folder, 'tiny-1', (3, 5)).fill(
        [features.key(bytes([i])) for i in range(first, last)],
        lambda i: np.full((7, 7, 3), first + i, np.uint8), encode,
        batch_size=4)
""")


@pytest.fixture
def start(tmp_path):
  """Starts a process that fills the store, and kills it at the end."""
  started = []

  def begin(first, last, death=0):
    started.append(subprocess.Popen(
        [sys.executable, '-c', PROGRAM, tmp_path / 'store', tmp_path / 'go',
         *map(str, (first, last, death))],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
    return started[-1]

  yield begin
  for process in started:
    process.kill()
    process.communicate()


def encoded(lines):
  """Batches of which a process said that it encodes them."""
  return [list(map(int, line.split()[1:])) for line in lines
          if line.startswith('encodes')]


def first_batch(process):
  while True:
    line = process.stdout.readline()
    if not line or encoded([line]):
      return encoded([line])


def fill(folder, first, last):
  """Fills the store here; gives it and the batches that were encoded."""
  batches = []

  def encode(batch):
    batches.append(sorted(set(batch[:, 0, 0, 0].tolist())))
    return batch[:, :3, :5, 0].astype(np.float32)

  store = features.FeatureStore(folder, 'tiny-1', SHAPE)
  rows = store.fill(
      [features.key(bytes([i])) for i in range(first, last)],
      lambda i: np.full((7, 7, 3), first + i, np.uint8), encode, batch_size=4)
  np.testing.assert_array_equal(store[rows][:, 0, 0], range(first, last))
  return store, batches


def assert_whole(folder, count):
  store, batches = fill(folder, 0, count)
  assert len(store) == count and not batches
  assert (folder / 'rows.bin').stat().st_size == count * 3 * 5 * 2
  assert (folder / 'keys.bin').stat().st_size == count * 16


def test_nobody_waits_for_what_another_process_encodes_for_itself(
    start, tmp_path
):
  other = start(0, 8)
  assert first_batch(other) == [[0, 1, 2, 3]]
  store, batches = fill(tmp_path / 'store', 8, 19)
  assert other.poll() is None and len(store) == 11
  assert batches == [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18]]
  (tmp_path / 'go').touch()
  assert other.wait() == 0
  assert_whole(tmp_path / 'store', 19)


@pytest.mark.parametrize('killed', [False, True])
def test_what_another_encodes_is_left_to_it_unless_it_is_killed(
    start, tmp_path, monkeypatch, killed
):
  other = start(0, 8)
  assert first_batch(other) == [[0, 1, 2, 3]]
  waits, wait = threading.Event(), Claims.await_and_take

  def await_and_take(self, name):
    waits.set()
    wait(self, name)

  def let_go():
    waits.wait()
    time.sleep(0.1)
    if killed:
      other.kill()
    else:
      (tmp_path / 'go').touch()

  monkeypatch.setattr(Claims, 'await_and_take', await_and_take)
  threading.Thread(target=let_go, daemon=True).start()
  _, batches = fill(tmp_path / 'store', 0, 13)
  assert waits.is_set()
  assert batches[:2] == [[8, 9, 10, 11], [12]]
  assert batches[2:] == ([[0, 1, 2, 3], [4, 5, 6, 7]] if killed else [])
  assert other.wait() == (-signal.SIGKILL if killed else 0)
  assert_whole(tmp_path / 'store', 13)


def test_three_share_the_pictures_and_one_that_dies_costs_its_own(
    start, tmp_path
):
  processes = [start(0, 41), start(0, 41), start(0, 41, death=2)]
  # All encode before any goes on, and no picture twice.
  batches = list(map(first_batch, processes))
  assert len({i for (batch,) in batches for i in batch}) == 12
  (tmp_path / 'go').touch()
  for process, found in zip(processes, batches):
    found += encoded(process.communicate(timeout=120)[0].splitlines())
  assert [p.returncode for p in processes] == [0, 0, -signal.SIGKILL]
  dying = batches.pop()
  assert len(dying) == 2
  found = [i for some in (*batches, dying[:1]) for batch in some for i in batch]
  assert sorted(found) == list(range(41))
  assert_whole(tmp_path / 'store', 41)
