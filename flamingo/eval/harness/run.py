"""A run is a list of pieces; what a log lacks of them is predicted and logged.

A piece is predicted as a whole, with the same batches whoever does it, and is
logged as a whole. So a killed run, which repeats the piece it was in, leaves
the same log bit for bit, and so do several processes that share the pieces.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any, Protocol

import tqdm

from flamingo.eval.benchmarks import Item
from flamingo.eval.evaluate import Log
from flamingo.eval.harness.ask import Asker
from flamingo.eval.harness.cell import Cell

# Prompts of several shot counts are read as one tree unless the candidates
# behind each are more tokens than are saved.
_FEW_TOKENS = 200


class Records(Protocol):
  """Lines of one log or of several."""

  def of(self, cell: str) -> Mapping[Any, Mapping[str, Any]]:
    """Those of a cell by example."""


@dataclasses.dataclass(frozen=True)
class Piece:
  """Queries that are asked together, in cells whose prompts begin alike."""

  asker: Asker
  cells: Sequence[Cell]
  queries: Sequence[Item]

  def lacking(self, *logs: Records) -> list[Cell]:
    """Cells of which none of the logs has all these queries."""
    return [
        cell for cell in self.cells
        if not any(self._all_in(log, cell) for log in logs)]

  def find(self, cells: Sequence[Cell], log: Records) -> list[dict]:
    """Lines of these cells in a log, in the order of `Asker.ask`."""
    return [dict(log.of(c.key)[q.id]) for c in cells for q in self.queries]

  def __len__(self) -> int:
    return len(self.cells) * len(self.queries)

  def _all_in(self, log, cell) -> bool:
    found = log.of(cell.key)
    return all(query.id in found for query in self.queries)


def pieces(asker: Asker, cells: Sequence[Cell], *, chunk: int) -> list[Piece]:
  """All that is asked of a task, `chunk` queries at a time."""
  queries, few = asker.task.queries, 0
  if not asker.task.row.open_ended:
    few = max(
        sum(map(len, asker.writer.candidates(query)))
        for query in queries[:chunk])
  families: dict[tuple, list[Cell]] = {}
  for cell in cells:
    families.setdefault(
        _family(cell, share_shots=few <= _FEW_TOKENS), []).append(cell)
  return [
      Piece(asker, family, queries[start : start + chunk])
      for family in families.values()
      for start in range(0, len(queries), chunk)]


def run(work: Iterable[Piece], log: Log, known: Sequence[Records] = ()) -> None:
  """Predicts and logs what a log lacks.

  Args:
    work: in order.
    log: is added to.
    known: other logs, whose lines need not be predicted again; they are not
      copied.
  """
  work = list(work)
  with tqdm.tqdm(total=sum(map(len, work)), unit='prompt') as bar:
    for piece in work:
      bar.set_description(piece.asker.task.row.name, refresh=False)
      lacking = piece.lacking(log, *known)
      if lacking:
        log.add(piece.asker.ask(lacking, piece.queries))
      bar.update(len(piece))


def _family(cell: Cell, *, share_shots: bool) -> tuple:
  """Cells of one family are predicted together: their prompts begin alike.

  Prompts of random demonstrations at 4 shots begin those at 8; a blank query
  stands behind the demonstrations of the true one.
  """
  if cell.open_ended or cell.baseline in ('majority', 'nearest_centroid'):
    return (cell.key,)
  begins_alike = (
      share_shots and cell.choice == 'random' and not cell.texts
      and cell.permutations == 1)
  return (
      cell.choice, cell.balanced, cell.seed, cell.baseline,
      cell.control if cell.control != 'blank_query' else None,
      None if begins_alike else (cell.shots, cell.texts))
