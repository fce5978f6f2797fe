"""Metrics to a JSONL file and to TensorBoard; a resumed run goes on in both."""

from collections.abc import Mapping
import json
import os
import pathlib

from flamingo.train.tensorboard import EventFile


class Writer:
  """Writes scalars by step.

  Args:
    directory: gets `metrics.jsonl` and TensorBoard's event files.
    resumed_at: step that a resumed run stands at: lines of later steps were
      written by a run that was killed, and will be written again.

  Raises:
    OSError: nothing can be written; what was written before is untouched.
  """

  def __init__(
      self, directory: str | os.PathLike[str], *, resumed_at: int = 0
  ):
    directory = pathlib.Path(directory)
    self._path = directory / 'metrics.jsonl'
    try:
      directory.mkdir(parents=True, exist_ok=True)
      kept = [
          row for row in read_metrics(directory) if row['step'] <= resumed_at]
      temporary = self._path.with_suffix('.partial')
      temporary.write_text(''.join(json.dumps(row) + '\n' for row in kept))
      temporary.replace(self._path)
      self._file = self._path.open('a')
      self._board = EventFile(
          directory / 'tensorboard', first_step=resumed_at + 1)
    except OSError as error:
      raise _unwritten(self._path, error) from error

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes one line of scalars; once it returns, a kill can't take it back.

    Raises:
      OSError: there is no room, or no right to write.
    """
    row = {'step': step} | {k: float(v) for k, v in scalars.items()}
    try:
      self._file.write(json.dumps(row) + '\n')
      self._file.flush()
      self._board.write(step, {k: v for k, v in row.items() if k != 'step'})
    except OSError as error:
      raise _unwritten(self._path, error) from error

  def close(self) -> None:
    """Closes both; what could not be written has been said."""
    for file in self._file, self._board:
      try:
        file.close()
      except OSError:  # the rest of a line that was an error already
        pass


def read_metrics(directory: str | os.PathLike[str]) -> list[dict[str, float]]:
  """Lines of `metrics.jsonl`; a last line that a kill has cut is left out."""
  path = pathlib.Path(directory) / 'metrics.jsonl'
  if not path.exists():
    return []
  rows = []
  for line in path.read_text(errors='replace').splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


def _unwritten(path: pathlib.Path, error: OSError) -> OSError:
  return OSError(
      error.errno,
      f'Metrics cannot be written to {path} ({error.strerror}). The '
      'checkpoints are whole: make room, or change its owner, and run the same '
      'command again to go on')
