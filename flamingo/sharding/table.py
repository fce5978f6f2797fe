"""The sharding table of a model, for people."""

import dataclasses
import math
import re

from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from flamingo import params as params_lib
from flamingo.sharding import rules
from flamingo.types import Params


@dataclasses.dataclass(frozen=True)
class Row:
  """Parameters that differ in nothing but the number of their layer.

  Attributes:
    path: with a star for each number: `lm/layer_*/attn/query/kernel`.
    count: how many there are.
    shape: of each.
    dtype: of each.
    rule: the pattern in `RULES` that has them.
    spec: how each is split.
    bytes: of all of them together, on one device.
  """

  path: str
  count: int
  shape: tuple[int, ...]
  dtype: str
  rule: str
  spec: PartitionSpec
  bytes: int


def table(shapes: Params, mesh: Mesh | AbstractMesh) -> list[Row]:
  """Rows of a sharding table, the largest on a device first.

  Args:
    shapes: parameters or their shapes and dtypes, by path.
    mesh: where to; an `AbstractMesh` needs no devices.
  """
  groups = {}
  for path, leaf in params_lib.flatten(shapes):
    starred = re.sub(r'(?<=_)\d+(?=/|$)', '*', '/'.join(path))
    spec = rules.spec_of(path, leaf.shape, mesh)
    key = (starred, tuple(leaf.shape), leaf.dtype, rules.rule_of(path)[0], spec)
    groups[key] = groups.get(key, 0) + 1
  rows = []
  for (path, shape, dtype, rule, spec), count in groups.items():
    size = math.prod(shape) * dtype.itemsize // rules.share_of(spec, mesh)
    rows.append(Row(path, count, shape, dtype.name, rule, spec, count * size))
  return sorted(rows, key=lambda row: (-row.bytes, row.path))
