"""Which examples demonstrate and which are asked, before any is chosen.

The paper divides the training split of its DEV benchmarks in three: queries to
validate on, examples to demonstrate for them, and others to demonstrate in the
test, whose queries are another split. Source: Flamingo (arXiv:2204.14198),
appendix on evaluation.
"""

from collections.abc import Sequence
import hashlib
from typing import NamedTuple

from flamingo.eval.benchmarks.item import Benchmark, Item


class Subsets(NamedTuple):
  """Disjoint parts of a training split, each sorted by id.

  Attributes:
    validation_query: asked while a design is chosen; none unless DEV.
    validation_support: demonstrations for these; none unless DEV.
    test_support: demonstrations for the benchmark's query split.
  """

  validation_query: list[Item]
  validation_support: list[Item]
  test_support: list[Item]


def subsets(
    benchmark: Benchmark, items: Sequence[Item], *, seed: int
) -> Subsets:
  """Divides the items of a benchmark's support split.

  Where an item goes is decided by the seed, the benchmark and the ids: it is
  the same whatever the order of the items.

  Args:
    benchmark: its row says how many; of each class if it counts by class.
    items: of its support split.
    seed: of the division, which should stay one for all comparisons.

  Raises:
    ValueError: too few items, of a class if it counts by class.
  """
  sizes = (
      benchmark.validation * benchmark.development,
      benchmark.pool * benchmark.development, benchmark.pool)
  classes = {}
  for item in sorted(
      items, key=lambda item: (_chance(seed, benchmark.name, item), item.id)):
    classes.setdefault(item.answer if benchmark.by_class else '', []).append(
        item)
  parts = ([], [], [])
  for name, members in classes.items():
    if benchmark.development and sum(sizes) > len(members):
      of = f' of class {name!r}' if benchmark.by_class else ''
      raise ValueError(
          f'{benchmark.name}: expected {sum(sizes)} examples{of} in the split '
          f'{benchmark.support!r}, to divide in {sizes}; there are '
          f'{len(members)}. Lower `validation` or `pool` of its row.')
    start = 0
    for part, size in zip(parts, sizes):
      part += members[start : start + size]
      start += size
  return Subsets(*(sorted(part, key=lambda item: item.id) for part in parts))


def _chance(seed: int, name: str, item: Item) -> bytes:
  return hashlib.sha256(
      f'{seed}\n{name}\n{item.id}'.encode()).digest()
