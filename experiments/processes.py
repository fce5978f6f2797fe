"""Several processes that train as one: the same command on every host.

A cluster that JAX knows (a TPU pod, Slurm, Open MPI, Kubernetes) says by itself
who is who. Elsewhere the flags do, on two machines for example:

  ... --coordinator=10.0.0.1:8476 --processes=2 --process=0   # on 10.0.0.1
  ... --coordinator=10.0.0.1:8476 --processes=2 --process=1   # on the other
"""

from collections.abc import Iterator
import contextlib
import os
import sys
import traceback

from absl import app
from absl import flags
import jax

COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'host:port at which process 0 is found by the others, '
    'where no cluster says it.')
PROCESSES = flags.DEFINE_integer(
    'processes', None, 'How many processes train together; 1 trains alone in '
    'a cluster, too.', lower_bound=1)
PROCESS = flags.DEFINE_integer(
    'process', None, 'The number of this process, from 0.', lower_bound=0)
SILENCE = flags.DEFINE_integer(
    'silence', 60, 'Seconds after which a process of which nothing is heard is '
    'taken for dead, and the others end.', lower_bound=5)


def join() -> None:
  """Joins the other processes, if there are any; before JAX is used.

  From then on the first one alone prints.

  Raises:
    UsageError: some of the flags are missing.
    RuntimeError: the others didn't come.
  """
  given = dict(
      coordinator_address=COORDINATOR.value, num_processes=PROCESSES.value,
      process_id=PROCESS.value)
  if given == dict(
      coordinator_address=None, num_processes=1, process_id=None):
    return
  if None in given.values() and set(given.values()) != {None}:
    raise app.UsageError(
        'Of --coordinator, --processes and --process all are needed, or none '
        'where a cluster knows them.')
  if None not in given.values():
    given['cluster_detection_method'] = 'deactivate'
  try:
    jax.distributed.initialize(
        **given, heartbeat_timeout_seconds=SILENCE.value,
        shutdown_timeout_seconds=SILENCE.value)
  except ValueError as error:
    if 'coordinator_address' in str(error):
      return  # no cluster, no flags: alone
    raise
  if jax.process_index() > 0:
    sys.stdout = open(os.devnull, 'w')


@contextlib.contextmanager
def ending_together(command: str) -> Iterator[None]:
  """Within it, what ends one process ends all, in bounded time.

  An error is printed with what to do, and the process ends at once: an orderly
  end would wait for processes that wait for this one. Of a process that just
  falls silent, JAX's runtime ends the others after `--silence` seconds.

  Args:
    command: what continues the run.
  """
  try:
    yield
  except Exception:
    if jax.process_count() == 1:
      raise
    traceback.print_exc()
    print(
        f'Process {jax.process_index()} of {jax.process_count()} ends: it met '
        'the error above, or one of the others is gone, whose own output says '
        f'why. Nothing that was saved is lost. To go on, run on every host '
        f'again: {command}', file=sys.stderr, flush=True)
    os._exit(1)
