"""The benchmark: what it says of what it measured, and how it is run."""

import json
import os
import signal
import subprocess
import sys
import time

from experiments.bench import clock, figure, first_step, subjects, table
from experiments.bench.result import Ratio, result
from experiments.bench.subjects import Subject
import jax.numpy as jnp
import pytest


def made(name='a'):
  return result(
      {'slow': 6.0, 'fast': 1.5},
      [Ratio('slow over fast', 'slow', 'fast', 3.0),
       Ratio('share of it', 'fast', 'slow', 0.2, at_most=True),
       Ratio('of interest', 'slow', 'fast')],
      {'rows': 7, 'of each': {name: 0.5}}, ['Something is left out.'])


def test_a_ratio_is_the_quotient_of_two_named_times():
  ratios = made()['ratios']
  assert ratios['slow over fast']['value'] == 4
  assert ratios['share of it']['value'] == 0.25
  assert [ratios[name]['met'] for name in ratios] == [True, False, None]
  with pytest.raises(KeyError, match='quick'):
    result({'slow': 1.0}, [Ratio('wrong', 'slow', 'quick')])


def test_both_sides_are_timed_in_turns_after_they_have_compiled():
  called = []
  times = clock.in_turns(
      {'a': lambda: called.append('a'), 'b': lambda: called.append('b')},
      rounds=3, warm=2)
  assert ''.join(called) == 'aabb' + 'ababab'
  assert [len(each) for each in times.values()] == [3, 3]


def test_a_time_ends_when_the_result_is_there():
  assert clock.medians({'nap': lambda: time.sleep(0.02)}, rounds=1)[
      'nap'] >= 0.02
  assert clock.fastest(lambda x: x @ x, jnp.ones((5, 5)), repeats=1) > 0


def test_rounds_end_at_the_limit_but_the_first_is_always_timed():
  nap = lambda: time.sleep(0.01)
  assert len(clock.in_turns({'nap': nap}, rounds=50, limit=0)['nap']) == 1


# Subjects are functions of a module: they are sent to processes of their own.
def measured(given):
  return dict(made(given), process=os.getpid())


def broken(given):
  raise ValueError(f'{given} is out of order')


def killed(given):
  os.kill(os.getpid(), signal.SIGKILL)


def test_what_fails_says_so_in_its_place_and_the_others_are_measured():
  chosen = {
      'broken': Subject('one', 1, broken), 'killed': Subject('two', 1, killed),
      'last': Subject('three', 1, measured)}
  came = dict(subjects.measure(chosen, 'the clock'))
  assert list(came) == list(chosen)
  assert came['broken']['error'] == 'ValueError: the clock is out of order'
  assert 'in broken' in came['broken']['traceback']
  assert 'exit code -9, as one does that is killed for want of memory' in (
      came['killed']['error'])
  assert came['last']['ratios'] == made()['ratios']
  assert came['last']['facts']['of each'] == {'the clock': 0.5}
  # What it has needed is gone with its process.
  assert came['last']['process'] != os.getpid()


def document():
  return {
      'machine': subjects.machine(),
      'subjects': {
          'peer': dict(made(), about='one', took=2.0),
          'depth': dict(
              result({f'compile, {n} layers, {way}': n * k
                      for n in (6, 12) for way, k in (
                          ('scanned', 0.5), ('unrolled', 1.0))}),
              about='two', took=1.0),
          'images': {'about': 'three', 'took': 1.0, 'error': 'no | room',
                     'traceback': 'here'}}}


def test_the_result_survives_json():
  assert json.loads(json.dumps(document())) == document()


def test_people_read_every_time_ratio_and_error():
  text = '\n'.join(
      line for name, one in document()['subjects'].items()
      for line in table.lines(name, one))
  for part in ('6.00 s', '4.00 x', 'at least 3.00 x, met: slow / fast',
               'at most 20%, missed: fast / slow', 'a 0.5',
               'Something is left out.', 'failed: no | room'):
    assert part in text


def test_the_tables_hold_every_ratio_with_its_goal():
  text = table.markdown(document())
  assert '| peer | slow over fast | 4.00 x | at least 3.00 x | met |' in text
  assert '| peer | share of it | 25% | at most 20% | missed |' in text
  assert '| peer | of interest | 4.00 x |  |  |' in text
  assert '| images | failed: no / room | | | |' in text
  assert '| compile, 12 layers, unrolled | 12.00 s |' in text
  rows = [line for line in text.splitlines() if line.startswith('| peer')]
  assert len({row.count('|') for row in rows}) == 1


@pytest.mark.parametrize('seconds, text', [
    (3.2e-5, '32 us'), (0.0123, '12.3 ms'), (7.0, '7.00 s'),
    (4321.0, '4,321 s'), (-0.5, '-500 ms')])
def test_times_are_written_in_the_unit_that_suits_them(seconds, text):
  assert table.time(seconds) == text


def test_the_figure_shows_goals_and_curves_and_leaves_out_what_failed():
  drawn = figure.svg(document())
  assert drawn.count('<rect') == 1 + 2  # the ground, and ratios with a goal
  assert 'compile an update' in drawn and 'images in a row' not in drawn
  assert drawn.startswith('<svg xmlns=') or 'xmlns=' in drawn[:400]


def test_the_figure_of_nothing_is_a_picture_too():
  assert 'svg' in figure.svg({'machine': {}, 'subjects': {}})


def test_a_subject_that_is_not_known_is_named():
  assert list(subjects.choose(['peer', 'step'])) == ['step', 'peer']
  assert subjects.choose([]) == subjects.SUBJECTS
  with pytest.raises(ValueError, match="'pear'.*peer"):
    subjects.choose(['pear'])


# A training, as far as the clock knows it.
TRAINING = '''
import os, pathlib, sys, time
workdir = pathlib.Path(sys.argv[-1].removeprefix('--workdir='))
cache = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR']) / 'program'
if not cache.exists():
  time.sleep(0.3)
  cache.parent.mkdir()
  cache.write_text('compiled')
(workdir / 'pid').write_text(str(os.getpid()))
with (workdir / 'metrics.jsonl').open('w') as file:
  file.write('{"step": 1')
  file.flush()
  time.sleep(0.2)
  file.write('}\\n')
  file.flush()
  time.sleep(60)
'''


def test_the_first_step_is_waited_for_with_and_without_a_cache():
  came = first_step.measure([sys.executable, '-c', TRAINING], limit=30)
  seconds = came['seconds']
  assert seconds['cached'] >= 0.2
  assert seconds['cold'] >= 0.5
  assert came['ratios']['cold over cached']['value'] == (
      seconds['cold'] / seconds['cached'])
  assert came['facts']['cache_megabytes'] == len('compiled') / 1e6


def test_no_training_is_left_running(tmp_path):
  first_step.first_step(
      [sys.executable, '-c', TRAINING], tmp_path / 'run', tmp_path / 'cache',
      30)
  with pytest.raises(ProcessLookupError):
    os.kill(int((tmp_path / 'run' / 'pid').read_text()), signal.SIGCONT)


@pytest.mark.parametrize('program, limit, how', [
    ('raise SystemExit("no pictures")', 30, 'ended with 1.*no pictures'),
    ('import time; time.sleep(60)', 0.3, 'it goes on')])
def test_a_training_without_a_first_step_is_an_error(program, limit, how):
  with pytest.raises(RuntimeError, match=f'(?s)no first step: .*{how}'):
    first_step.measure([sys.executable, '-c', program], limit=limit)


def test_the_command_refuses_what_it_does_not_know():
  done = subprocess.run(
      [sys.executable, '-m', 'experiments.bench', '--only=pear'],
      capture_output=True, text=True)
  assert done.returncode == 1
  assert "--only names 'pear'; there are step, slice" in (
      done.stdout + done.stderr)


def test_a_terminated_command_leaves_no_process_behind():
  command = subprocess.Popen(
      [sys.executable, '-m', 'experiments.bench', '--only=slice'],
      stdout=subprocess.PIPE, text=True, start_new_session=True)
  assert 'Measuring slice' in command.stdout.readline()
  time.sleep(1)  # its subject has begun
  command.terminate()
  assert command.wait(60) == 1
  until = time.monotonic() + 20  # the system takes a moment to clear up
  with pytest.raises(ProcessLookupError):  # no one is left in its group
    while time.monotonic() < until:
      os.killpg(command.pid, 0)
      time.sleep(0.1)
