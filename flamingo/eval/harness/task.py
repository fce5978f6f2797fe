"""A benchmark as it is on this disk: queries, support, and their digest."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import pathlib

from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import Benchmark, Item
from flamingo.eval.benchmarks.media import evenly
from flamingo.eval.harness.metrics import Metric, METRICS

# Of the division of training splits. One for all comparisons.
_DIVISION = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """What is asked and what may demonstrate.

  Attributes:
    row: of the table.
    split: that the queries are from.
    queries: all of whose images are there.
    support: examples to choose demonstrations from; empty if there are none,
      or if each query has its own.
    missing: queries left out because an image is not there.
    hashes: what each image holds, by path.
    digest: changes if a query, an example of the support or an image does.
    queries_digest: changes if a query or an image of one does.
  """

  row: Benchmark
  split: str
  queries: tuple[Item, ...]
  support: tuple[Item, ...]
  missing: int
  hashes: Mapping[str, str]
  digest: str
  queries_digest: str

  @property
  def shows(self) -> bool:
    """Whether there is anything to demonstrate with."""
    return bool(self.support) or all(
        item.demonstrations for item in self.queries)

  @property
  def classes(self) -> tuple[str, ...]:
    """Candidates, if all queries have the same; else none."""
    lists = {item.candidates for item in self.queries}
    return lists.pop() if len(lists) == 1 else ()

  @property
  def classified(self) -> bool:
    """Whether what demonstrates shows what the candidates look like."""
    if self.classes:
      return True
    shown = self.support or [
        one for item in self.queries for one in item.demonstrations]
    answers = {one.answer for one in shown}
    return bool(answers) and all(
        item.candidates and answers.issuperset(item.candidates)
        for item in self.queries)


def load_task(
    row: Benchmark,
    root: str | pathlib.Path,
    *,
    split: str | None = None,
    development: bool = False,
    n: int | None = None,
    frames: int = 8,
    support: bool = True,
) -> Task:
  """Reads a benchmark's files, and looks at every image it may need.

  Examples with a missing image are left out: of the queries they are counted.

  Args:
    row: of the table.
    root: data root.
    split: that is asked; by default the paper's, or the public one where the
      paper's answers are on a server.
    development: ask the validation queries that the training split of a DEV
      benchmark has, instead of a split.
    n: number of queries, drawn once for all seeds; None for all.
    frames: of a clip, at most.
    support: whether demonstrations are needed.

  Raises:
    FileNotFoundError: a file of annotations is missing; says how to get it.
    ValueError: nothing is left to ask, or what is asked has no candidates.
  """
  grouped = _metric(row).grouped
  shown, name = [], split or _public(row)
  if (support or development) and row.support is not None:
    parts = benchmarks.subsets(
        row, row.items(root, row.support), seed=_DIVISION)
    shown = (
        parts.validation_support if development else parts.test_support)
  if development:
    if not row.development:
      raise ValueError(
          f'{row.name} is not one of the benchmarks that the paper chose its '
          'design on, so it has no validation queries. Set '
          'config.development=False, or name its split in config.splits.')
    queries, name = parts.validation_query, row.support
  else:
    queries = row.items(root, name)
  _check(row, name, queries)

  def cut(items):
    return [
        dataclasses.replace(
            item, image=evenly(item.image, frames),
            demonstrations=tuple(cut(item.demonstrations)) if support else ())
        for item in items]

  queries, shown = cut(_some(queries, n, row.name, grouped)), cut(shown)
  asked = len(queries)
  queries = _with_images(root, queries, grouped)
  shown = _with_images(root, shown, False)
  if not queries:
    raise ValueError(
        f'{row.name} ({name}): all {asked} queries lack an image below '
        f'{pathlib.Path(root).absolute()}. How to get them: {row.source}')
  shows = (*shown, *(one for item in queries for one in item.demonstrations))
  paths = {path for item in (*queries, *shows) for path in item.image}
  hashes = {
      path: benchmarks.content_hash(root, path) for path in sorted(paths)}
  return Task(
      row=row, split=name, queries=tuple(queries), support=tuple(shown),
      missing=asked - len(queries), hashes=hashes,
      digest=_digest((*queries, *shows), hashes),
      queries_digest=_digest(queries, hashes))


def _digest(items, hashes) -> str:
  digest = hashlib.blake2b(digest_size=8)
  for item in items:
    digest.update(repr((item, [hashes[p] for p in item.image])).encode())
  return digest.hexdigest()


def _metric(row: Benchmark) -> Metric:
  if row.metric not in METRICS:
    raise ValueError(
        f'{row.name} has the metric {row.metric!r}; there are '
        f'{sorted(METRICS)}.')
  metric = METRICS[row.metric]
  kind = 'text' if row.open_ended else 'scores'
  if kind not in metric.takes:
    raise ValueError(
        f'{row.name}: the metric {row.metric!r} is one of '
        f'{" or ".join(metric.takes)}, and open_ended={row.open_ended} gives '
        f'{kind}. Change one of the two.')
  return metric


def _public(row):
  answered = row.splits[row.query].answered
  return row.query if answered or row.public is None else row.public


def _check(row, split, queries):
  if row.open_ended:
    return
  for item in queries:
    right = not row.splits[split].answered or item.answer in item.candidates
    if not (item.candidates and right):
      raise ValueError(
          f'{row.name} ({split}), example {item.id}: expected the answer among '
          f'the candidates; came {item.answer!r} and {item.candidates[:5]}. '
          'Correct them, or make the task open-ended.')


def _unit(item, grouped):
  return item.group if grouped else item.id


def _some(items: Sequence[Item], n: int | None, name: str, grouped: bool):
  """n of the items, whole groups where groups are scored together."""
  if n is None or n >= len(items):
    return list(items)
  draw = lambda unit: hashlib.sha256(f'{name}\n{unit}'.encode()).digest()
  taken, units = 0, {}
  for item in items:
    units.setdefault(_unit(item, grouped), []).append(item)
  kept = set()
  for unit in sorted(units, key=draw):
    if taken >= n:
      break
    kept.add(unit)
    taken += len(units[unit])
  return [item for item in items if _unit(item, grouped) in kept]


def _with_images(root, items, grouped):
  absent = benchmarks.missing_images(root, items)
  without = {
      _unit(item, grouped) for item in items
      if item.id in absent
      or benchmarks.missing_images(root, item.demonstrations)}
  return [item for item in items if _unit(item, grouped) not in without]
