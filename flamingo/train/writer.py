"""Metrics to a JSONL file and to TensorBoard; a resumed run goes on in both."""

from collections.abc import Mapping
import json
import os
import pathlib

import tensorboardX


class Writer:
  """Writes scalars by step.

  Args:
    directory: gets `metrics.jsonl` and TensorBoard's event files.
    resumed_at: step that a resumed run stands at: lines of later steps were
      written by a run that was killed, and will be written again.
  """

  def __init__(
      self, directory: str | os.PathLike[str], *, resumed_at: int = 0
  ):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / 'metrics.jsonl'
    kept = [
        row for row in read_metrics(directory) if row['step'] <= resumed_at]
    temporary = path.with_suffix('.partial')
    temporary.write_text(''.join(json.dumps(row) + '\n' for row in kept))
    temporary.replace(path)
    self._file = path.open('a')
    self._board = tensorboardX.SummaryWriter(
        str(directory / 'tensorboard'), purge_step=resumed_at + 1)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes one line of scalars."""
    row = {'step': step} | {k: float(v) for k, v in scalars.items()}
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    for name, value in row.items():
      if name != 'step':
        self._board.add_scalar(name, value, step)

  def close(self) -> None:
    self._file.close()
    self._board.close()


def read_metrics(directory: str | os.PathLike[str]) -> list[dict[str, float]]:
  """Lines of `metrics.jsonl`; a last line that a kill has cut is left out."""
  path = pathlib.Path(directory) / 'metrics.jsonl'
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
