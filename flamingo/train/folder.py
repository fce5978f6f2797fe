"""A folder that one run writes to: held, and its troubles explained."""

import datetime
import errno
import fcntl
import os
import pathlib
import shutil
import socket
from typing import IO


def hold(directory: pathlib.Path) -> IO[str]:
  """Holds a folder until the file is closed, or the process ends in any way.

  The system drops the lock of a process that was killed, so none is ever
  stale: the text in the file only says who was the last to hold it.

  Args:
    directory: made if absent.

  Raises:
    RuntimeError: another run holds it; says which.
    OSError: the folder can't be written.
  """
  try:
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
      raise PermissionError(errno.EACCES, 'permission denied')
    file = (directory / 'lock').open('a+')
    _lock(file, directory)
    started = datetime.datetime.now().astimezone().isoformat(timespec='seconds')
    file.truncate(0)
    file.write(
        f'process {os.getpid()} on {socket.gethostname()}, since {started}\n')
    file.flush()
    return file
  except OSError as error:
    raise OSError(
        error.errno,
        f'{directory} cannot be written: {error.strerror}. Choose another '
        '--workdir, make room, or change its owner') from error


def _lock(file: IO[str], directory: pathlib.Path) -> None:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    holder = file.read().strip() or 'one that has said nothing of itself'
    file.close()
    raise RuntimeError(
        f'Another run is writing to {directory}: {holder}. Two would spoil '
        'each other: wait for it, stop it (SIGTERM: it saves first), or choose '
        'another --workdir.') from None
  except OSError as error:  # some network folders know no locks
    print(f'{directory} cannot be locked ({error.strerror}): see to it that no '
          'other run writes there.', flush=True)


def move_aside(directory: pathlib.Path, step: int) -> None:
  """Gives a damaged checkpoint another name: its number is free again."""
  target, number = directory / f'{step}.damaged', 1
  while target.exists():
    number += 1
    target = directory / f'{step}.damaged-{number}'
  (directory / str(step)).rename(target)


def damage(step: int, error: Exception) -> str:
  """One line on a checkpoint that can't be used."""
  return f'Checkpoint {step} is damaged: {_first_line(error)}'


def unsaved(directory: pathlib.Path, error: Exception) -> OSError:
  """What to raise when a checkpoint could not be written."""
  whole = sorted(
      int(path.name) for path in directory.iterdir() if path.name.isdigit())
  free = shutil.disk_usage(directory).free
  return OSError(
      f'A checkpoint could not be written to {directory}, where '
      f'{free / 1e6:,.1f} MB are free. '
      + (f'Checkpoint {whole[-1]} is whole. ' if whole else '')
      + 'Make room, or change the owner of the folder, and run the same '
      f'command again to go on. ({_first_line(error)})')


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:300]}'
