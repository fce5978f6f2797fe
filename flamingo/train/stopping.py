"""Asked to stop: a signal is heeded between two steps, by all at the same."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Stopping:
  """Within it, SIGTERM asks for an end instead of being one.

  Where there are several processes, JAX's own runtime takes the signal and has
  all of them agree on a step that none has passed: a signal to any is one to
  all.
  """

  def __enter__(self):
    self._asked = False
    self._alone = jax.process_count() == 1
    # Only a process' main thread may say what a signal does.
    self._handles = (
        self._alone
        and threading.current_thread() is threading.main_thread())
    if self._handles:
      self._before = signal.signal(signal.SIGTERM, self._ask)
    return self

  def __exit__(self, *_):
    if self._handles:
      signal.signal(signal.SIGTERM, self._before)

  def asked(self, step: int) -> bool:
    """Whether to stop after this step; to be asked at every step, in order."""
    if self._alone:
      return self._asked
    return multihost_utils.reached_preemption_sync_point(step)

  def _ask(self, *_):
    self._asked = True
