"""The training loop. It can be stopped at any moment and goes on from there."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import time

import jax
import numpy as np
import tqdm

from flamingo import params as params_lib
from flamingo.model.stack import unstack
from flamingo.train.checkpoint import Checkpointer
from flamingo.train.guard import Guard
from flamingo.train.meter import Meter, shown
from flamingo.train.stopping import Stopping
from flamingo.train.writer import Writer
from flamingo.types import Batch, Params, TrainState

Step = Callable[..., tuple[TrainState, dict]]


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Something measured now and then: scalars of the state.

  Attributes:
    every: steps between two measurements.
    measure: maps the state to scalars by name.
  """

  every: int
  measure: Callable[[TrainState], Mapping[str, float]]


class Stopped(SystemExit):
  """Training was asked to stop, and saved; exits with 0."""


def train(
    *,
    state: TrainState,
    step_fn: Step,
    batches,
    put: Callable[[Mapping[str, Batch]], Mapping[str, Batch]],
    checkpointer: Checkpointer,
    directory: str,
    steps: int,
    checkpoint_every: int,
    log_every: int,
    evaluators: Sequence[Evaluator] = (),
    resume_command: str,
    guard: Guard | None = None,
    meter: Meter | None = None,
) -> TrainState:
  """Trains up to `steps`, from the newest checkpoint if there is one.

  Nothing waits for a step to end but lines of metrics, measurements and saves.

  Args:
    state: of a fresh run.
    step_fn: the jitted update; where bad steps are skipped, of `skip_bad`.
    batches: a `data.pipeline` iterator, at its beginning.
    put: places a step's batches on the devices.
    checkpointer: of this run.
    directory: where metrics are written, by the first process.
    steps: length of the training.
    checkpoint_every: steps between checkpoints.
    log_every: steps between lines of metrics.
    evaluators: what is measured on the way.
    resume_command: what to run to go on, for a run that is stopped.
    guard: judges the steps; by default a bad one is an error.
    meter: counts tokens and knows the peak; by default only of time.

  Returns:
    The state at the end, saved.

  Raises:
    Stopped: after SIGTERM, when everything is saved.
    BadStep: the policy on bad steps is to stop, or their bound is passed.
      Nothing of the last one was saved.
    OSError: metrics or a checkpoint cannot be written.
  """
  guard, meter = guard or Guard(), meter or Meter()
  run = _Run(
      batches=batches, checkpointer=checkpointer, directory=directory,
      steps=steps, guard=guard, meter=meter)
  state, step = run.restore(state)
  if step >= steps:
    print(f'Training is done: step {step} of {steps}.', flush=True)
    return state
  print(f'{"Resuming" if step else "Beginning"} at step {step} of {steps}.',
        flush=True)
  if not step and guard.policy.on_bad_step == 'roll_back':
    run.save(state, wait=True)  # there must be something to go back to

  with run.open(step), Stopping() as stopping:
    while step < steps:
      step += 1
      batch = meter.next(batches)
      if step in guard.bad and guard.policy.on_bad_step == 'roll_back':
        state = state.replace(step=state.step + 1)
      elif guard.policy.on_bad_step == 'skip':
        state, metrics = step_fn(state, put(batch), guard.limits(batch))
        run.add(step, metrics)
      else:
        state, metrics = step_fn(state, put(batch))
        run.add(step, metrics)
      run.bar.update()
      last = step == steps
      logging = last or step % log_every == 0
      saving = last or step % checkpoint_every == 0
      due = [e for e in evaluators if last or step % e.every == 0]
      # Nothing of a bad step is written, measured or saved.
      if (logging or saving or due) and not run.judge():
        state, step = run.roll_back(state)
        continue
      if logging:
        run.write_line(step, gates(state.trainable))
      if due:
        before, scalars = time.monotonic(), {}
        for evaluator in due:
          scalars |= evaluator.measure(state)
        run.write(step, scalars)
        meter.leave_out(time.monotonic() - before)  # it is not training
      # Asked once: what comes after this line is heeded a step later.
      stop = stopping.asked(step)
      if stop and not run.judge():
        state, step = run.roll_back(state)
        continue
      if saving or stop:
        run.save(state, wait=stop or last)
      if stop and not last:
        checkpointer.close()
        run.bar.close()
        print(f'Stopped at step {step} and saved. To go on: {resume_command}')
        raise Stopped(0)
  return state


class _Run:
  """What a training holds on to between its steps."""

  def __init__(
      self, *, batches, checkpointer, directory, steps, guard, meter
  ):
    self._batches, self._checkpointer = batches, checkpointer
    self._directory, self._steps = directory, steps
    self._guard, self._meter = guard, meter
    # Of the steps since the last line: on the devices, then fetched and good.
    self._unjudged: list[tuple[int, Mapping[str, jax.Array]]] = []
    self._judged: list[dict[str, float]] = []
    self._trouble = ''
    self._writer = self.bar = None

  def restore(self, state: TrainState) -> tuple[TrainState, int]:
    """The state to begin with, and its step."""
    if self._checkpointer.latest_step is None:
      return state, int(state.step)
    restored = self._checkpointer.restore(_freed(state))
    self._batches.set_state(restored.data)
    self._unjudged.clear()
    self._judged = list(restored.progress.get('since', []))
    if 'guard' in restored.progress:
      self._guard.set_state(restored.progress['guard'])
    return restored.state, int(restored.state.step)

  @contextlib.contextmanager
  def open(self, step: int):
    """Within it, metrics are written and progress is shown."""
    self._open_writer(step)
    self.bar = tqdm.tqdm(
        total=self._steps, initial=step, desc='train', unit='step',
        mininterval=1.0, disable=jax.process_index() > 0)
    self._meter.restart()
    try:
      yield
    finally:
      self.bar.close()
      if self._writer is not None:
        self._writer.close()

  def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Keeps a step's metrics, on the devices."""
    self._unjudged.append((step, metrics))

  def judge(self) -> bool:
    """Fetches what was added; False if the run must be rolled back."""
    steps = [step for step, _ in self._unjudged]
    fetched = jax.device_get([metrics for _, metrics in self._unjudged])
    self._unjudged.clear()
    for step, metrics in zip(steps, fetched):
      # Python's numbers, as JSON will give them back to a resumed run.
      metrics = {name: float(value) for name, value in metrics.items()}
      trouble = self._guard.judge(step, metrics)
      if trouble is None:
        metrics.pop('skipped', None)
        self._judged.append(metrics)
      elif self._guard.policy.on_bad_step == 'roll_back':
        self._trouble = trouble
        return False
      else:
        tqdm.tqdm.write(f'{trouble}\nThe step is skipped.')
    return True

  def roll_back(self, state: TrainState) -> tuple[TrainState, int]:
    """The newest checkpoint's state and step; what came after is forgotten."""
    state, step = self.restore(state)
    if self._writer is not None:
      self._writer.close()
    self._open_writer(step)
    self._meter.restart()
    self.bar.reset()
    self.bar.n = self.bar.initial = self.bar.last_print_n = step
    tqdm.tqdm.write(
        f'{self._trouble}\nGoing back to step {step}; '
        f'step {self._guard.bad[-1]} will be passed over.')
    return state, step

  def write_line(self, step: int, gates: Mapping[str, float]) -> None:
    """Writes and shows means since the last line."""
    scalars = _means(self._judged) | gates
    scalars |= self._meter.read(self._steps - step)
    if self._guard.bad:
      scalars['bad_steps'] = len(self._guard.bad)
    self.write(step, scalars)
    self.bar.set_postfix(shown(scalars))
    self._judged = []
    self._guard.renew_limits()
    self._meter.restart()
    self._checkpointer.check()

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes a line, if this is the process that does."""
    if self._writer is not None:
      self._writer.write(step, scalars)

  def save(self, state: TrainState, wait: bool = False) -> None:
    """Saves everything that a run that goes on will need."""
    self._checkpointer.save(
        state, self._batches.get_state(),
        {'since': list(self._judged), 'guard': self._guard.get_state()},
        wait=wait)

  def _open_writer(self, step: int) -> None:
    if jax.process_index() == 0:
      self._writer = Writer(self._directory, resumed_at=step)


def gates(trainable: Params) -> dict[str, float]:
  """tanh of every gate, by block and in the order of layers; a vector's mean.

  Args:
    trainable: of a model whose layers are stacked, or not.
  """
  scalars, _ = params_lib.split(
      trainable, lambda path: path[-1].endswith('_gate'))
  return {
      f"gate/{'/'.join(path)}": float(np.tanh(leaf).mean())
      for path, leaf in params_lib.flatten(unstack(jax.device_get(scalars)))}


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Means over steps; a dataset's loss is the mean over its targets in them."""
  means = {}
  for name in dict.fromkeys(name for step in metrics for name in step):
    steps = [step for step in metrics if name in step]
    count = name.replace('loss/', 'targets/')
    weights = [
        step.get(count, 1.0) if name.startswith('loss/') else 1.0
        for step in steps]
    if sum(weights):  # else it wasn't the dataset's turn
      means[name] = float(np.average(
          [step[name] for step in steps], weights=weights))
  return means


def _freed(state: TrainState) -> TrainState:
  """The state with shapes for arrays, whose memory is given back.

  Two states at once may be more than a device holds.
  """
  def shape(leaf):
    freed = jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=leaf.sharding)
    leaf.delete()
    return freed
  frozen, state = state.frozen, state.replace(frozen=())
  return jax.tree.map(shape, state).replace(frozen=frozen)
