"""Claims to pieces of work, among processes that share a folder.

A claim is a lock on one byte of a file, which the system keeps: it ends with
the process that holds it, however that ends, so none is ever left behind. Such
locks hold between machines too, where the folder's file system has them.
"""

from collections.abc import Iterable
import errno
import fcntl
import os
import types
from typing import Self


class Claims:
  """What this process has claimed in one file; a context that ends its claims.

  Two of one process do not see each other's claims, and the first to end takes
  the other's along: whoever needs a thing done only once checks when it's done.

  Args:
    path: an empty file, made if absent.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self._file = open(path, 'ab')  # pylint: disable=consider-using-with

  def __enter__(self) -> Self:
    return self

  def __exit__(
      self,
      kind: type[BaseException] | None,
      error: BaseException | None,
      trace: types.TracebackType | None,
  ) -> None:
    self._file.close()

  def take(self, name: bytes) -> bool:
    """Claims what has this name; False if another process has it."""
    try:
      self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, name)
    except OSError as error:
      if error.errno in (errno.EACCES, errno.EAGAIN):
        return False
      raise
    return True

  def await_and_take(self, name: bytes) -> None:
    """Claims it as soon as no other process has it.

    Who waits should have claimed nothing: two could wait for each other.
    """
    self._lock(fcntl.LOCK_EX, name)

  def give_back(self, names: Iterable[bytes]) -> None:
    """Ends the claims to these."""
    for name in names:
      self._lock(fcntl.LOCK_UN, name)

  def _lock(self, how: int, name: bytes) -> None:
    # Bytes need not exist to be locked, if their offset fits 63 bits. Two names
    # may share theirs, as rarely as that; one then waits for the other.
    fcntl.lockf(self._file, how, 1, int.from_bytes(name[:8], 'big') >> 1)
