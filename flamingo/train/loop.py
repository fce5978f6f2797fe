"""The training loop. It can be stopped at any moment and goes on from there."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from flamingo import params as params_lib
from flamingo.train.checkpoint import Checkpointer
from flamingo.train.writer import Writer
from flamingo.types import Batch, Params, TrainState

Step = Callable[[TrainState, Mapping[str, Batch]], tuple[TrainState, dict]]


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
) -> TrainState:
  """Trains up to `steps`, from the newest checkpoint if there is one.

  Args:
    state: of a fresh run.
    step_fn: the jitted update.
    batches: a `data.pipeline` iterator, at its beginning.
    put: places a step's batches on the devices.
    checkpointer: of this run.
    directory: where metrics are written.
    steps: length of the training.
    checkpoint_every: steps between checkpoints.
    log_every: steps between lines of metrics.
    evaluators: what is measured on the way.
    resume_command: what to run to go on, for a run that is stopped.

  Returns:
    The state at the end, saved.

  Raises:
    Stopped: after SIGTERM, when everything is saved.
    FloatingPointError: the loss is not finite; nothing of it was saved.
  """
  restored = checkpointer.restore(state)
  if restored is not None:
    state, data_state = restored
    batches.set_state(data_state)
    print(f'Resuming at step {int(state.step)} of {steps}.', flush=True)
  start = int(state.step)
  if start >= steps:
    print(f'Training is done: step {start} of {steps}.', flush=True)
    return state

  writer = Writer(directory, resumed_at=start)
  bar = tqdm.tqdm(
      total=steps, initial=start, desc='train', unit='step', mininterval=1.0)
  waited, began, last, since = 0.0, time.monotonic(), start, []
  with _SigtermFlag() as asked_to_stop:
    for step in range(start + 1, steps + 1):
      before = time.monotonic()
      batch = next(batches)
      waited += time.monotonic() - before
      state, metrics = step_fn(state, put(batch))
      since.append(metrics)
      bar.update()
      if step % log_every == 0 or step == steps:
        scalars = _means(since)
        _check_finite(scalars, step)
        seconds = time.monotonic() - began
        scalars |= gates(state.trainable)
        scalars['seconds_per_step'] = seconds / (step - last)
        scalars['data_wait_share'] = waited / seconds
        writer.write(step, scalars)
        bar.set_postfix({
            k.removeprefix('loss/'): f'{v:.2f}'
            for k, v in scalars.items() if k.startswith('loss/')})
        waited, began, last, since = 0.0, time.monotonic(), step, []
      due = [e for e in evaluators if step % e.every == 0 or step == steps]
      if due:
        before, scalars = time.monotonic(), {}
        for evaluator in due:
          scalars |= evaluator.measure(state)
        writer.write(step, scalars)
        began += time.monotonic() - before  # measuring is not training
      # Asked once: what comes after this line is heeded a step later.
      stopping = asked_to_stop()
      if step % checkpoint_every == 0 or step == steps or stopping:
        if since:
          _check_finite(_means(since), step)
        checkpointer.save(
            state, batches.get_state(), wait=stopping or step == steps)
      if stopping and step < steps:
        bar.close()
        writer.close()
        checkpointer.close()
        print(f'Stopped at step {step} and saved. To go on: {resume_command}')
        raise Stopped(0)
  bar.close()
  writer.close()
  return state


def gates(trainable: Params) -> dict[str, float]:
  """tanh of every scalar gate, by block."""
  return {
      f"gate/{'/'.join(path)}": float(jnp.tanh(leaf).mean())
      for path, leaf in params_lib.flatten(trainable)
      if path[-1].endswith('_gate')}


def _means(metrics: Sequence[Mapping[str, jax.Array]]) -> dict[str, float]:
  """Means over the steps since the last line."""
  fetched = jax.device_get(list(metrics))
  return {
      name: float(np.mean([step[name] for step in fetched]))
      for name in fetched[0]}


def _check_finite(scalars: Mapping[str, float], step: int) -> None:
  bad = [name for name, value in scalars.items() if not math.isfinite(value)]
  if bad:
    raise FloatingPointError(
        f'At step {step} {", ".join(bad)} is not finite. The last checkpoint '
        'is whole; lower the learning rate or look at the data since then.')


class _SigtermFlag:
  """Within it, SIGTERM sets a flag instead of ending the process."""

  def __enter__(self):
    self._asked = False
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      self._before = signal.signal(signal.SIGTERM, self._ask)
    return lambda: self._asked

  def __exit__(self, *_):
    if self._main:
      signal.signal(signal.SIGTERM, self._before)

  def _ask(self, *_):
    self._asked = True
