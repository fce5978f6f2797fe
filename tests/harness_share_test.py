"""Devices and processes share a run, and what it leaves does not show it."""

import json
import signal

import benchmark_models as models
import benchmark_process
from benchmark_runs import birds_row, cell
from flamingo.eval.benchmarks import Item
from flamingo.eval.evaluate import Log
from flamingo.eval.harness import Piece, share as share_lib
from flamingo.eval.harness.share import Share
import numpy as np
import pytest

LOG, RESULTS = 'predictions.jsonl', 'results.json'
BASE = dict(shots=(1,), baselines=(), chunk=3, temperature=0.8, top_p=0.95)


@pytest.fixture(scope='module')
def job(tiny, random_params, tmp_path_factory):
  folder = tmp_path_factory.mktemp('job')
  benchmark_process.write_job(folder, models.seeing(tiny, random_params))
  return folder


def finish(process):
  said, _ = process.communicate(timeout=300)
  assert process.returncode == 0, said
  return said


@pytest.fixture(scope='module')
def whole(job):
  """The output of one process with one device."""
  finish(benchmark_process.start(job, job / 'whole', **BASE))
  return job / 'whole'


def records(output):
  lines = (output / LOG).read_text().splitlines()
  return [json.loads(line) for line in lines[1:]]


def assert_same(output, other):
  """The same but for rounding errors of log-likelihoods."""
  some, others = records(output), records(other)
  assert len(some) == len(others) == 2 * models.QUERIES
  for one, another in zip(some, others):
    scores, expected = one.pop('scores'), another.pop('scores')
    assert one == another
    assert (scores is None) == (expected is None)
    if scores is not None:
      np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
  assert results_without_cache(output) == results_without_cache(other)


def test_eight_devices_say_what_one_says(job, whole):
  output = job / 'eight'
  finish(benchmark_process.start(job, output, devices=8, **BASE))
  assert_same(output, whole)


def test_two_processes_one_of_them_killed_leave_the_log_of_one(job, whole):
  output = job / 'two'
  killed = benchmark_process.start(
      job, output, process=1, processes=2, stop=2, **BASE)
  other = benchmark_process.start(job, output, process=0, processes=2, **BASE)
  for line in killed.stdout:
    if benchmark_process.WAITING in line:
      break
  killed.send_signal(signal.SIGKILL)
  assert killed.wait() == -signal.SIGKILL
  assert 'of 8 pieces are still to come' in finish(other)
  assert not (output / RESULTS).exists() and not records(output)
  before = (output / 'parts/1.jsonl').read_bytes()
  finish(benchmark_process.start(job, output, process=1, processes=2, **BASE))
  assert (output / 'parts/1.jsonl').read_bytes().startswith(before)
  assert_same(output, whole)
  assert (output / LOG).read_bytes() == (whole / LOG).read_bytes()


def results_without_cache(output):
  """Results, but for the name of the folder of latents."""
  found = json.loads((output / RESULTS).read_text())
  found['config'].pop('cache')
  return json.dumps(found)


# Without a model.


class Asker:
  """Says each query's id, and remembers what it was asked."""

  class task:  # the name on the progress bar
    row = birds_row()

  def __init__(self):
    self.asked = []

  def ask(self, cells, queries):
    self.asked += [(c.shots, q.id) for c in cells for q in queries]
    return [
        {'cell': c.key, 'id': q.id, 'said': f'{c.shots} {q.id}'}
        for c in cells for q in queries]


IDENTITY = {'model': 'm'}
QUERIES = [
    Item(id=str(i), image=(), answer='a', references=('a',)) for i in range(7)]


def work_of(asker, shots=(1, 2)):
  return [
      Piece(asker, [cell(shots=n, seed=s) for s in (0, 1)],
            QUERIES[start : start + 3]) for n in shots for start in (0, 3, 6)]


def share_run(folder, process, processes, **changes):
  """Runs one process; returns its log, if it finished all, and its asker."""
  asker = Asker()
  log = share_lib.run(
      work_of(asker, **changes), folder / LOG, IDENTITY,
      Share(process, processes))
  return log, asker


@pytest.fixture
def alone(tmp_path):
  share_run(tmp_path / 'alone', 0, 1)
  return (tmp_path / 'alone' / LOG).read_bytes()


@pytest.mark.parametrize('order', [(0, 1), (1, 0), (2, 0, 1), (3, 4, 0, 2, 1)])
def test_the_last_to_finish_writes_the_log_of_one(tmp_path, alone, order):
  asked = []
  for process in order:
    log, asker = share_run(tmp_path, process, len(order))
    asked += asker.asked
    assert (log is None) == (process != order[-1])
  assert (tmp_path / LOG).read_bytes() == alone
  assert len(asked) == len(set(asked)) * 2 == 2 * 14  # of two seeds each
  # Whoever comes again changes nothing.
  log, asker = share_run(tmp_path, order[0], len(order))
  assert log is not None and not asker.asked
  assert (tmp_path / LOG).read_bytes() == alone


@pytest.mark.parametrize('after', [1, 3])
def test_another_number_of_processes_goes_on_with_what_is_there(
    tmp_path, alone, after
):
  _, first = share_run(tmp_path, 1, 2)
  assert len(first.asked) == 14
  asked = []
  for process in range(after):
    log, asker = share_run(tmp_path, process, after)
    asked += asker.asked
  assert not set(asked) & set(first.asked)
  assert (tmp_path / LOG).read_bytes() == alone


def test_several_processes_go_on_with_what_one_has_left(tmp_path, alone):
  share_run(tmp_path, 0, 1)
  (tmp_path / LOG).write_bytes(alone[: len(alone) // 2])
  for process in (0, 1):
    _, asker = share_run(tmp_path, process, 2)
    assert 0 < len(asker.asked) < 14
  assert (tmp_path / LOG).read_bytes() == alone


def test_the_log_is_not_touched_before_all_is_there(tmp_path, alone):
  share_run(tmp_path, 0, 1)
  log, _ = share_run(tmp_path, 0, 2, shots=(1, 2, 3))
  assert log is None
  assert (tmp_path / LOG).read_bytes() == alone


def test_a_part_of_another_model_is_refused(tmp_path):
  Log(tmp_path / 'parts/1.jsonl', {'model': 'other'}).close()
  with pytest.raises(ValueError, match='parts/1.jsonl holds.*something else'):
    share_run(tmp_path, 0, 2)


def test_two_processes_of_one_number_are_refused(tmp_path):
  part = share_lib.part_of(tmp_path / LOG, Share(1, 2))
  with share_lib.holding(part, wait=False):
    with pytest.raises(BlockingIOError, match='--process of its own'):
      with share_lib.holding(part, wait=False):
        pass
  with share_lib.holding(part, wait=False):
    pass  # it ends with its holder


@pytest.mark.parametrize('process, processes', [(2, 2), (-1, 2), (0, 0)])
def test_a_process_that_is_none_is_refused(process, processes):
  with pytest.raises(ValueError, match='count from 0'):
    Share(process, processes)
