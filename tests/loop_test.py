"""Training is stopped, killed and spoilt, and goes on as if it had not been.

The real thing is a process of its own, with a model, data and checkpoints; what
needs no process has a step that only counts.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from flamingo.model.stack import Groups, stack
from flamingo.train import loop
from flamingo.train.checkpoint import Checkpointer
from flamingo.train.meter import TIMES
from flamingo.train.writer import read_metrics, Writer
from flamingo.types import TrainState
import jax.numpy as jnp
import numpy as np
import pytest

SCRIPT = '''
import os, pathlib, signal, sys, time
from flamingo import params as params_lib
from flamingo.data.pipeline import Dataset, Layout, make_pipeline
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.train import loop
from flamingo.train.checkpoint import Checkpointer
from flamingo.train.optimizer import make_optimizer
from flamingo.train.step import make_train_step
from flamingo.types import Chunk, TrainState
import jax
import jax.numpy as jnp
import numpy as np

workdir, steps, killed_at = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
model = Flamingo(
    lm=LM(vocab_size=259, width=8, layers=1, heads=2, kv_heads=1, head_dim=4,
          hidden=8),
    resampler=PerceiverResampler(
        visual_width=6, width=6, layers=1, latents=2, heads=1, head_dim=4,
        frames=0),
    xattn=[GatedCrossAttention(
        width=8, visual_width=6, heads=1, head_dim=4, ff_hidden=8,
        gate_init=0.5)])
features = np.random.default_rng(0).normal(size=(9, 4, 6)).astype(np.float32)

def source(rng):
  return [Chunk(text=rng.choice(['ab', 'c']), image=np.int64(rng.integers(9)))]

batches = make_pipeline(
    [Dataset(name='words', source=source, batch_size=2)], Tokenizer.bytes(),
    Layout(length=6, images=1, image_shape=(1, 4, 6),
           lookup=features.__getitem__),
    seed=0, steps=steps)
shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 1, 1, 4, 6)),
    *jnp.zeros((2, 1, 2), int))
rng = np.random.default_rng(1)
params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype),
    shapes['params'])
trainable, frozen = params_lib.split(params)
optimizer = make_optimizer(steps=9, learning_rate=0.01, warmup=2)
state = jax.device_put(TrainState(
    step=jnp.int32(0), trainable=trainable, frozen=frozen,
    opt_state=optimizer.init(trainable)), jax.devices()[0])

def measure(state):
  if int(state.step) == killed_at:  # metrics are written, nothing is saved
    while not (workdir / 'checkpoints' / '4').exists():
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
  return {'held_out/gate': float(state.trainable['xattn_0']['attn_gate'])}

checkpointer = Checkpointer(
    workdir / 'checkpoints', config={}, fingerprints={})
state = loop.train(
    state=state,
    step_fn=jax.jit(
        make_train_step(model, optimizer, {'words': 1.0}), donate_argnums=0,
        compiler_options={'xla_backend_optimization_level': 0}),
    batches=batches, put=lambda x: x, checkpointer=checkpointer,
    directory=workdir, steps=steps, checkpoint_every=4, log_every=2,
    evaluators=[loop.Evaluator(4, measure)], resume_command='python again.py')
checkpointer.close()
leaves = jax.tree.leaves((state.trainable, state.opt_state))
np.savez(workdir / 'final.npz', *map(np.asarray, leaves))
'''


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  """(folder, steps, step to be killed at) to a process that trains."""
  folder = tmp_path_factory.mktemp('script')
  script = folder / 'script.py'
  script.write_text(SCRIPT)
  # Compiled by the first process, for all.
  environment = os.environ | {
      'PYTHONPATH': str(pathlib.Path(loop.__file__).parents[2]),
      'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}

  def run(folder, steps, killed_at=-1):
    return subprocess.Popen(
        [sys.executable, script, folder, str(steps), str(killed_at)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment)

  return run


def finish(process):
  """What it printed; fails if it went wrong."""
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  return out


def without_times(folder):
  return [
      {k: v for k, v in row.items() if k not in TIMES}
      for row in read_metrics(folder)]


def test_a_killed_run_ends_as_an_undisturbed_one_bit_for_bit(start, tmp_path):
  """Killed at step 8, whose metrics are written and whose state is not."""
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  finish(start(whole, 11))
  killed = start(broken, 11, killed_at=8)
  assert killed.wait(timeout=120) == -signal.SIGKILL
  assert read_metrics(broken)[-1]['step'] == 8
  saved = {p.name for p in (broken / 'checkpoints').iterdir()}
  assert '4' in saved and '8' not in saved

  assert 'Resuming at step 4 of 11.' in finish(start(broken, 11))
  one, two = (np.load(f / 'final.npz') for f in (whole, broken))
  assert one.files == two.files and len(one.files) > 50
  for name in one.files:
    np.testing.assert_array_equal(one[name], two[name])
  assert without_times(broken) == without_times(whole)
  assert [row['step'] for row in without_times(whole)] == [
      2, 4, 4, 6, 8, 8, 10, 11, 11]


def test_a_terminated_run_saves_exits_with_zero_and_says_how_to_go_on(
    start, tmp_path
):
  process = start(tmp_path, 1_000_000)
  while not read_metrics(tmp_path):
    assert process.poll() is None, process.communicate()[1]
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  out = finish(process)
  stopped = re.search(
      r'Stopped at step (\d+) and saved. To go on: python again.py', out)
  step = int(stopped[1])
  assert read_metrics(tmp_path)[-1]['step'] in (step, step - 1)
  data = tmp_path / 'checkpoints' / str(step) / 'data' / 'metadata'
  assert json.loads(data.read_text()) == {'next_index': step}


# In this process.


class Numbers:
  """Data: 1, 2, 3 ..., each called a batch."""

  def __init__(self):
    self._next = 1

  def __next__(self):
    self._next += 1
    return {'numbers': self._next - 1}

  def get_state(self):
    return {'next': self._next}

  def set_state(self, state):
    self._next = state['next']


def add(state, batch):
  """Adds the batch to the only parameter; its loss is the batch."""
  number = batch['numbers']
  trainable = {'sum': state.trainable['sum'] + number,
               'xattn_0': state.trainable['xattn_0']}
  state = state.replace(step=state.step + 1, trainable=trainable)
  return state, {'loss': jnp.float32(number), 'loss/a': jnp.float32(2 * number)}


def spoilt_at(step, value):
  """The same, with a loss that is no number at one step alone."""
  def update(state, batch):
    state, metrics = add(state, batch)
    if batch['numbers'] == step:
      metrics['loss'] = jnp.float32(value)
    return state, metrics

  return update


def train(
    folder, *, steps=7, step_fn=add, checkpoint_every=3, log_every=2,
    evaluators=()
):
  checkpointer = Checkpointer(
      folder / 'checkpoints', config={}, fingerprints={})
  state = TrainState(
      step=jnp.int32(0), frozen={}, opt_state=(),
      trainable={
          'sum': jnp.float32(0), 'xattn_0': {'attn_gate': jnp.float32(0.5)}})
  try:
    return loop.train(
        state=state, step_fn=step_fn, batches=Numbers(), put=lambda x: x,
        checkpointer=checkpointer, directory=folder, steps=steps,
        checkpoint_every=checkpoint_every, log_every=log_every,
        evaluators=evaluators, resume_command='again')
  finally:
    checkpointer.close()


def saved(folder):
  return sorted(
      int(p.name) for p in (folder / 'checkpoints').iterdir()
      if p.name.isdigit())


def test_a_line_is_the_mean_since_the_last_one(tmp_path):
  train(tmp_path)
  rows = read_metrics(tmp_path)
  assert [(r['step'], r['loss'], r['loss/a']) for r in rows] == [
      (2, 1.5, 3), (4, 3.5, 7), (6, 5.5, 11), (7, 7, 14)]
  for row in rows:
    assert row['gate/xattn_0/attn_gate'] == pytest.approx(np.tanh(0.5))
    assert row['seconds_per_step'] > 0 and 0 <= row['data_wait_share'] <= 1


def test_gates_of_stacked_layers_are_those_of_the_layers():
  trainable = {
      f'xattn_{i}': {'attn_gate': jnp.float32(i / 9), 'out': jnp.ones(2)}
      for i in range(4)}
  found = loop.gates(trainable)
  assert list(found) == [f'gate/xattn_{i}/attn_gate' for i in range(4)]
  assert found['gate/xattn_3/attn_gate'] == pytest.approx(np.tanh(1 / 3))
  assert loop.gates(stack(trainable, Groups(0, 1, 3))) == found


def test_a_datasets_loss_is_the_mean_over_its_targets_in_these_steps(tmp_path):
  """Not of the steps: a dataset may have few targets in one, or none."""
  def step(state, batch):
    number = batch['numbers']
    state, _ = add(state, batch)
    return state, {
        'loss/a': jnp.float32(number), 'targets/a': jnp.float32(number - 1),
        'loss/b': jnp.float32(0), 'targets/b': jnp.float32(0)}

  train(tmp_path, step_fn=step, steps=4, log_every=4)
  row, = read_metrics(tmp_path)
  assert row['loss/a'] == pytest.approx((2 * 1 + 3 * 2 + 4 * 3) / 6)
  assert 'loss/b' not in row


def test_a_resumed_run_takes_the_steps_before_it_into_its_first_line(tmp_path):
  """A checkpoint between two lines: the mean is of all the line's steps."""
  train(tmp_path / 'whole', steps=10, log_every=10, checkpoint_every=3)
  stop = lambda state: os.kill(os.getpid(), signal.SIGTERM) or {}
  with pytest.raises(loop.Stopped):
    train(
        tmp_path / 'broken', steps=10, log_every=10,
        evaluators=[loop.Evaluator(4, stop)])
  train(tmp_path / 'broken', steps=10, log_every=10)
  row = read_metrics(tmp_path / 'broken')[-1]
  assert row['loss'] == read_metrics(tmp_path / 'whole')[0]['loss'] == 5.5


def test_evaluators_are_asked_when_due_and_at_the_end(tmp_path):
  asked = []
  measure = lambda state: asked.append(int(state.step)) or {'value': 3.0}
  train(tmp_path, evaluators=[loop.Evaluator(3, measure)])
  assert asked == [3, 6, 7]
  assert [r['step'] for r in read_metrics(tmp_path) if 'value' in r] == asked


def test_the_last_step_is_saved_and_not_done_again(tmp_path, capsys):
  state = train(tmp_path)
  assert float(state.trainable['sum']) == 28 and saved(tmp_path) == [6, 7]
  again = train(tmp_path)
  assert float(again.trainable['sum']) == 28
  assert 'Training is done: step 7 of 7.' in capsys.readouterr().out


def test_a_longer_training_goes_on_from_a_shorter_one(tmp_path):
  train(tmp_path, steps=4)
  assert float(train(tmp_path, steps=9).trainable['sum']) == 45
  assert [r['step'] for r in read_metrics(tmp_path)] == [2, 4, 6, 8, 9]


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('step, log_every, checkpoint_every, kept', [
    (4, 2, 2, [2]),  # it is seen when the line is due
    (4, 9, 2, [2]),  # no line is due for long: it is seen when it is saved
    (3, 4, 3, []),
])
def test_a_loss_that_is_no_number_is_an_error_and_is_not_saved(
    tmp_path, step, log_every, checkpoint_every, kept, value
):
  message = f'At step {step} loss is {value}'
  with pytest.raises(FloatingPointError, match=message):
    train(
        tmp_path, step_fn=spoilt_at(step, value), log_every=log_every,
        checkpoint_every=checkpoint_every)
  assert saved(tmp_path) == kept
  assert all(r['step'] < step for r in read_metrics(tmp_path))


def test_sigterm_is_heeded_after_the_step_and_only_while_training(
    tmp_path, capsys
):
  def measure(state):
    if state.step == 4:
      os.kill(os.getpid(), signal.SIGTERM)
    return {}

  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(loop.Stopped) as stopped:
    train(tmp_path, evaluators=[loop.Evaluator(2, measure)])
  assert stopped.value.code == 0
  assert signal.getsignal(signal.SIGTERM) == before
  assert 'Stopped at step 4 and saved. To go on: again' in (
      capsys.readouterr().out)
  assert saved(tmp_path) == [3, 4]
  assert float(train(tmp_path).trainable['sum']) == 28


def test_sigterm_at_the_last_step_is_an_end_like_any_other(tmp_path):
  def measure(state):
    if state.step == 7:
      os.kill(os.getpid(), signal.SIGTERM)
    return {}

  state = train(tmp_path, evaluators=[loop.Evaluator(7, measure)])
  assert float(state.trainable['sum']) == 28 and saved(tmp_path) == [6, 7]


# What is written.


def write(folder, steps, *, resumed_at=0):
  writer = Writer(folder, resumed_at=resumed_at)
  for step in steps:
    writer.write(step, {'loss': step / 2})
  writer.close()


def test_lines_behind_the_step_resumed_at_are_dropped(tmp_path):
  write(tmp_path, [1, 2, 3, 4])
  write(tmp_path, [3], resumed_at=2)
  assert [r['step'] for r in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_line_cut_anywhere_is_left_out(tmp_path):
  write(tmp_path, [1, 2])
  path = tmp_path / 'metrics.jsonl'
  data = path.read_bytes()
  second = data.index(b'\n') + 1
  for cut in range(second, len(data) - 1):
    path.write_bytes(data[:cut])
    assert [r['step'] for r in read_metrics(tmp_path)] == [1]
    write(tmp_path, [2], resumed_at=1)
    assert path.read_bytes() == data


def test_a_folder_without_metrics_has_none(tmp_path):
  assert read_metrics(tmp_path) == []
