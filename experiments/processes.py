"""Several processes that train as one: the same command on every host.

A cluster that JAX knows (a TPU pod, Slurm, Open MPI, Kubernetes) says by itself
who is who. Elsewhere the flags of `experiments.train` do, say on two machines:

  ... --coordinator=10.0.0.1:8476 --processes=2 --process=0   # on 10.0.0.1
  ... --coordinator=10.0.0.1:8476 --processes=2 --process=1   # on the other
"""

from collections.abc import Iterator
import contextlib
import os
import subprocess
import sys
import traceback

import jax


def join(
    coordinator: str | None = None, processes: int | None = None,
    process: int | None = None, silence: int = 60,
) -> None:
  """Joins the other processes, if there are any; before JAX is used.

  From then on the first one alone prints.

  Args:
    coordinator: host:port at which the others find process 0; None where a
      cluster says who is who, or there is one process.
    processes: how many; 1 is alone in a cluster, too.
    process: the number of this one, from 0.
    silence: seconds after which a process of which nothing is heard is taken
      for dead, and the others end.

  Raises:
    ValueError: some of the three are missing.
    RuntimeError: the others didn't come.
  """
  given = dict(
      coordinator_address=coordinator, num_processes=processes,
      process_id=process)
  if processes == 1:
    return
  missing = [name for name, value in given.items() if value is None]
  if 0 < len(missing) < 3:
    raise ValueError(
        f'coordinator={coordinator}, processes={processes}, process={process}: '
        'all three are needed, or none where a cluster says them.')
  if not missing:
    given['cluster_detection_method'] = 'deactivate'
  try:
    jax.distributed.initialize(
        **given, heartbeat_timeout_seconds=silence,
        shutdown_timeout_seconds=silence)
  except ValueError as error:
    if missing and 'coordinator_address' in str(error):
      return  # no cluster: alone
    raise
  if jax.process_index() > 0:
    sys.stdout = open(os.devnull, 'w')


@contextlib.contextmanager
def ending_together(command: str) -> Iterator[None]:
  """Within it, what ends one process ends all, in bounded time.

  On an error a process ends at once: an orderly end would wait for processes
  that wait for this one. Where one falls silent, JAX's runtime ends the others
  after `silence` seconds. Either way it is said what to do.

  Args:
    command: what continues the run.
  """
  if jax.process_count() == 1:
    yield
    return
  words = (
      f'Process {jax.process_index()} of {jax.process_count()} has ended '
      'before its time: for the error above, or because another one is gone, '
      'whose own output says why. Nothing that was saved is lost. To go on, '
      f'run on every host again: {command}')
  # JAX's runtime ends a process without asking Python, which could say nothing.
  # A shell speaks for it, if its input closes without a line.
  witness = subprocess.Popen(
      ['sh', '-c', 'read -r _ || printf "%s\\n" "$0" >&2', words],
      stdin=subprocess.PIPE, start_new_session=True)
  try:
    yield
  except Exception:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)
  finally:
    witness.communicate(b'\n')
