"""A function in a process of its own, called from here.

Two libraries in one process share its memory, its threads and the settings of
both, which no user of either does.
"""

from collections.abc import Callable, Iterator
import contextlib
import multiprocessing
import signal
import traceback


@contextlib.contextmanager
def apart(make: Callable[..., Callable], *args) -> Iterator[Callable]:
  """Within it `make(*args)` is there, in another process.

  Args:
    make: a function of a module; returns what is called without arguments,
      again and again.
    *args: of it; they are sent to the process.

  Yields:
    What calls it there, and returns here what it returned.

  Raises:
    RuntimeError: making or calling it raised there; says what.
  """
  here, there = multiprocessing.Pipe()
  # Not a daemon, which could have no processes of its own.
  process = multiprocessing.get_context('spawn').Process(
      target=_serve, args=(there, make, args))
  process.start()
  there.close()

  def answer():
    try:
      came, error = here.recv()
    except EOFError:
      process.join()
      error = (
          f'The process ended with exit code {process.exitcode}'
          + ', as one does that is killed for want of memory' * (
              process.exitcode == -signal.SIGKILL) + '.')
    if error is not None:
      raise RuntimeError(f'{make.__name__} failed in its process:\n{error}')
    return came

  def call():
    here.send(None)
    return answer()

  try:
    answer()
    yield call
  finally:
    here.close()
    process.join(timeout=10)
    process.kill()


def _serve(pipe, make, args) -> None:
  try:
    function = make(*args)
    pipe.send((None, None))
    while True:
      pipe.recv()
      pipe.send((function(), None))
  except EOFError:  # no more calls are wanted
    pass
  except BaseException:
    with contextlib.suppress(BrokenPipeError):  # no one waits any more
      pipe.send((None, traceback.format_exc()))
