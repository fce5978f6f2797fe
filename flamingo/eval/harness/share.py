"""Several processes share a run, on one machine or on many with one disk.

Each does every so-manieth piece and writes a log of its own, `parts/N.jsonl`.
They never talk: none waits for another, and a killed one holds nobody up. The
last to finish puts the parts together, in the order and with the bytes of one
process alone. So what was done stays done whatever number of processes goes on
with it, and a coordinator, which would end all with one, is not needed.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import fcntl
import os
import pathlib
from typing import Any

from flamingo.eval.evaluate import Log, read_log
from flamingo.eval.harness import run as run_lib
from flamingo.eval.harness.run import Piece, Records

_PARTS = 'parts'


@dataclasses.dataclass(frozen=True)
class Share:
  """Which of several processes this is.

  Raises:
    ValueError: there is no such process.
  """

  process: int = 0
  processes: int = 1

  def __post_init__(self):
    if not 0 <= self.process < self.processes:
      raise ValueError(
          f'Process {self.process} of {self.processes} is none: they count '
          f'from 0. Give --processes=N, and to each of them its own --process '
          'from 0 to N - 1.')

  def of(self, work: Sequence[Piece]) -> Sequence[Piece]:
    """The pieces that fall to this process."""
    return work[self.process :: self.processes]


ALONE = Share()


class Part:
  """Lines of a log, as they were when it was read."""

  def __init__(self, records: Mapping[str, Mapping[Any, Mapping[str, Any]]]):
    self._records = records

  def of(self, cell: str) -> Mapping[Any, Mapping[str, Any]]:
    """Lines of a cell by example id."""
    return self._records.get(cell, {})


def run(
    work: Sequence[Piece],
    path: str | os.PathLike[str],
    identity: Mapping[str, str],
    share: Share = ALONE,
) -> Log | None:
  """Predicts and logs a process' share of what a log lacks.

  Args:
    work: all pieces, in order.
    path: of the log.
    identity: of the log.
    share: which of several processes this is.

  Returns:
    the log, closed, with all that is asked; None if others have still to
    finish.
  """
  if share == ALONE and not list(_parts(path)):
    log = Log(path, identity)
    run_lib.run(work, log)
    log.close()
    return log
  log = Log(part_of(path, share), identity)
  run_lib.run(share.of(work), log, known=read_parts(path, identity))
  log.close()
  with holding(path, wait=True):
    log = Log(path, identity)
    missing = merge(work, log, read_parts(path, identity))
    log.close()
  if missing:
    print(
        f'Process {share.process} of {share.processes} has done its share; '
        f'{missing} of {len(work)} pieces are still to come from others. The '
        'last to finish writes the results. If one was stopped, run it again.')
  return None if missing else log


def part_of(log: str | os.PathLike[str], share: Share) -> pathlib.Path:
  """Where this process writes what will be in the log."""
  return pathlib.Path(log).parent / _PARTS / f'{share.process}.jsonl'


def read_parts(
    log: str | os.PathLike[str], identity: Mapping[str, str]
) -> list[Part]:
  """The log, if there is one, and what all processes have for it so far.

  Raises:
    ValueError: one of them is of another model.
  """
  log, found = pathlib.Path(log), []
  for path in ([log] if log.exists() else []) + sorted(_parts(log)):
    written, records = read_log(path)
    if written != identity:
      raise ValueError(
          f'{path} holds predictions of something else:\n  {written}\nthan '
          f'what is evaluated now:\n  {dict(identity)}\nMove it away, or give '
          'another --output.')
    found.append(Part(records))
  return found


def _parts(log):
  return pathlib.Path(log).parent.glob(f'{_PARTS}/*.jsonl')


def merge(work: Sequence[Piece], log: Log, parts: Sequence[Records]) -> int:
  """Copies the parts into the log, if they have all that it lacks.

  Returns:
    how many pieces are still to be done; the log is as it was if any is.
  """
  missing = sum(bool(piece.lacking(log, *parts)) for piece in work)
  if missing:
    return missing
  for piece in work:
    lacking = piece.lacking(log)
    if lacking:
      log.add([
          record for cell in lacking for record in piece.find(
              [cell], next(p for p in parts if not dataclasses.replace(
                  piece, cells=[cell]).lacking(p)))])
  return 0


@contextlib.contextmanager
def holding(path: str | os.PathLike[str], *, wait: bool) -> Iterator[None]:
  """Holds a log for oneself, until the process ends, however it does.

  Args:
    path: of the log; the lock is a file beside it.
    wait: for whoever holds it.

  Raises:
    BlockingIOError: another process holds it, and `wait` is False.
  """
  path = pathlib.Path(path).with_suffix('.lock')
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
      raise BlockingIOError(
          f'Another process holds {path}: it evaluates into the same folder '
          'under the same number. Wait for it, or give each process a '
          '--process of its own.') from error
    yield
