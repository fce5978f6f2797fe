"""Steps that went wrong: which, of what examples, and what is done about it."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import math
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flamingo.types import TrainState

POLICIES = ('stop', 'skip', 'roll_back')
# Losses that a median is of, and how many there must be before it is believed.
_WINDOW, _ENOUGH = 101, 21


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
  """What is done about a bad step: one of no finite loss or gradient.

  Attributes:
    on_bad_step: 'stop'; 'skip' leaves the state as it was before the step;
      'roll_back' goes back to the last checkpoint and passes the step over.
    most_bad_steps: more than these in a run are an error.
    spike: a loss of more than this times its running median is bad, too; 0
      lets it pass.
  """

  on_bad_step: str = 'stop'
  most_bad_steps: int = 10
  spike: float = 0.0

  def __post_init__(self):
    if self.on_bad_step not in POLICIES:
      raise ValueError(
          f'on_bad_step is {self.on_bad_step!r}, not one of {POLICIES}.')
    if self.spike and self.spike <= 1:
      raise ValueError(
          f'spike is {self.spike}, and a loss is above its median every other '
          'step. Take 3, or more; 0 is off.')


class BadStep(FloatingPointError):
  """A step whose numbers are bad, and the policy knows nothing but to stop."""


class Guard:
  """Judges steps in their order, once each.

  Args:
    policy: of the config.
    describe: (step, datasets) to a text that says which examples the step
      read of these datasets.
  """

  def __init__(
      self,
      policy: Policy = Policy(),
      describe: Callable[[int, list[str]], str] | None = None,
  ):
    self.policy = policy
    self._describe = describe
    self._losses: dict[str, list[float]] = {}
    self._limits: dict[str, float] = {}
    self.bad: list[int] = []

  def judge(self, step: int, metrics: Mapping[str, float]) -> str | None:
    """What is wrong with a step and which examples it read; None if it is fine.

    Raises:
      BadStep: there is something, and the policy is to stop or the bound of
        bad steps is passed.
    """
    reasons = self._reasons(metrics)
    if not reasons:
      for name, value in metrics.items():
        if _is_loss(name) and value:  # 0: there was nothing to learn
          self._losses.setdefault(name, []).append(value)
          del self._losses[name][:-_WINDOW]
      return None
    datasets = [
        name.removeprefix('loss/') for name in reasons if '/' in name
        and _is_loss(name)]
    text = f'At step {step} ' + ', '.join(
        f'{name} {why}' for name, why in reasons.items()) + '.'
    if self._describe is not None:
      text += '\n' + self._describe(step, datasets)
    self.bad.append(step)
    if self.policy.on_bad_step == 'stop':
      raise BadStep(
          f'{text}\nNothing of it was saved, and the last checkpoint is whole. '
          "Look at the examples, lower the learning rate, or set on_bad_step "
          "to 'skip' or 'roll_back'.")
    if len(self.bad) > self.policy.most_bad_steps:
      raise BadStep(
          f'{text}\nBad steps so far: {", ".join(map(str, self.bad))}, and '
          f'most_bad_steps is {self.policy.most_bad_steps}. The last '
          'checkpoint is whole. So many are no accident: lower the learning '
          'rate, or look at the data.')
    return text

  def limits(self, datasets: Iterable[str]) -> dict[str, np.float32]:
    """What losses may be, as of the last `renew_limits`, for `skip_bad`."""
    names = ['loss'] + [f'loss/{dataset}' for dataset in datasets]
    return {
        name: np.float32(self._limits.get(name, math.inf)) for name in names}

  def renew_limits(self) -> None:
    """Takes limits of the losses seen so far.

    Called at lines of metrics alone: those come at the same steps in a run that
    was stopped in between, and so the same steps are skipped.
    """
    self._limits = {name: self._limit(name) for name in self._losses}

  def get_state(self) -> dict[str, Any]:
    """What a resumed run must know to judge as this one would."""
    return {
        'losses': {name: list(kept) for name, kept in self._losses.items()},
        'limits': dict(self._limits), 'bad': list(self.bad)}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on from `get_state`, of which nothing is shared."""
    self._losses = {name: list(kept) for name, kept in state['losses'].items()}
    self._limits = dict(state['limits'])
    # Those of steps that a roll-back takes back stay bad.
    self.bad = sorted({*state['bad'], *self.bad})

  def _reasons(self, metrics: Mapping[str, float]) -> dict[str, str]:
    reasons = {
        name: f'is {value}' for name, value in metrics.items()
        if not math.isfinite(value)}
    if reasons or not self.policy.spike:
      return reasons
    skipped = metrics.get('skipped')
    if skipped == 0:
      return {}
    for name in filter(_is_loss, metrics):
      limit = self._limits.get(name, math.inf) if skipped else self._limit(name)
      if metrics[name] > np.float32(limit):
        reasons[name] = (
            f'is {metrics[name]:.4g}, more than {self.policy.spike:g} times '
            'its running median')
    return reasons

  def _limit(self, name: str) -> float:
    losses = self._losses.get(name, ())
    if not self.policy.spike or len(losses) < _ENOUGH:
      return math.inf
    return self.policy.spike * statistics.median(losses)


def skip_bad(step_fn):
  """A step that leaves the state as it was where its numbers are bad.

  It is decided where the numbers are, so that nothing waits for them.

  Args:
    step_fn: (state, batches) to (state, metrics), not jitted.

  Returns:
    (state, batches, limits) to (state, metrics), to be jitted. The step is
    counted all the same. Of the metrics, `skipped` is 1 or 0.
  """

  def step(state: TrainState, batches, limits: Mapping[str, jax.Array]):
    after, metrics = step_fn(state, batches)
    fine = jnp.all(jnp.stack([
        jnp.isfinite(value).all() for value in metrics.values()]))
    for name in sorted(limits.keys() & metrics.keys()):
      fine &= metrics[name] <= limits[name]
    kept = jax.tree.map(
        lambda new, old: jnp.where(fine, new, old), after, state)
    return (
        kept.replace(step=after.step, frozen=state.frozen),
        metrics | {'skipped': 1.0 - fine})

  return step


def _is_loss(name: str) -> bool:
  return name == 'loss' or name.startswith('loss/')
