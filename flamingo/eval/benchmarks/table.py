"""All benchmarks by name, and what of them is on disk."""

import dataclasses
import difflib
import pathlib

from flamingo.eval.benchmarks import image_rows
from flamingo.eval.benchmarks import made_rows
from flamingo.eval.benchmarks import probe_rows
from flamingo.eval.benchmarks import video_rows
from flamingo.eval.benchmarks.item import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    row.name: row
    for row in (
        *image_rows.ROWS, *video_rows.ROWS, *probe_rows.ROWS, *made_rows.ROWS)}


def benchmark(name: str) -> Benchmark:
  """The benchmark of this name.

  Raises:
    ValueError: there is none.
  """
  if name not in BENCHMARKS:
    near = difflib.get_close_matches(name, BENCHMARKS, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
        f'There is no benchmark {name!r}.{hint} There are '
        f'{sorted(BENCHMARKS)}. Make one of your own with `benchmarks.own`.')
  return BENCHMARKS[name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Presence:
  """What of a benchmark is on disk.

  Attributes:
    found: files and folders that are there, relative to the data root.
    missing: those that are not.
    source: how to get them.
  """

  found: tuple[str, ...]
  missing: tuple[str, ...]
  source: str


def present(
    root: str | pathlib.Path, benchmarks: dict[str, Benchmark] | None = None
) -> dict[str, Presence]:
  """What is there of each benchmark, for the splits that it asks and shows.

  Folders are looked at, not into: a folder with an image missing is found.

  Args:
    root: data root.
    benchmarks: by name; all of the table by default.
  """
  root = pathlib.Path(root)
  result = {}
  for name, row in (BENCHMARKS if benchmarks is None else benchmarks).items():
    splits = [s for s in (row.query, row.public, row.support) if s is not None]
    paths = dict.fromkeys(
        path for split in splits for path in row.splits[split].paths())
    found = tuple(path for path in paths if (root / path).exists())
    result[name] = Presence(
        found=found, missing=tuple(p for p in paths if p not in found),
        source=row.source)
  return result
