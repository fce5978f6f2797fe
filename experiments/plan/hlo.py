"""Collectives of a compiled program, read from its text.

XLA counts no bytes on wires. Its optimised HLO says what each device sends to
which others; what stands in a loop counts as often as the loop runs. What each
device sends is that of rings, which no algorithm undercuts:

  all-gather, reduce-scatter, all-to-all   (g - 1) / g of the whole
  all-reduce                               twice that
  collective-permute                       the whole
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import re

import numpy as np

KINDS = (
    'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
    'collective-permute', 'collective-broadcast', 'ragged-all-to-all')

_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_OPCODE = re.compile(
    rf'^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ({"|".join(KINDS)})(-start)?\(')
_CALLED = re.compile(
    r'\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'\bbranch_computations=\{([^}]*)\}')
_WHILE = re.compile(r' while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r'\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]')
_BOUND = re.compile(r' = [su]\d+\[\]\S* constant\((\d+)\)')
_CHANNEL = re.compile(r'\bchannel_id=(\d+)')
_CHAIN = re.compile(r'\bchain_id="')
_BITS = re.compile(r'\d+')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One instruction.

  Attributes:
    kind: one of `KINDS`.
    times: how often a device runs it in one call of the program.
    bytes: of its result on a device, or of what a reduce-scatter is given.
    group: positions of the devices that take part, of the first such group.
  """

  kind: str
  times: int
  bytes: int
  group: tuple[int, ...]

  @property
  def sent(self) -> float:
    """Bytes that each device sends in one call of the program."""
    g = len(self.group)
    share = {
        'all-reduce': 2 * (g - 1) / g, 'collective-permute': 1.0,
        'collective-broadcast': 1.0}.get(self.kind, (g - 1) / g)
    return self.times * self.bytes * share


def collectives(text: str, devices: int) -> list[Collective]:
  """All collectives of an optimised HLO module among several devices.

  Args:
    text: `compiled.as_text()`.
    devices: number of devices it runs on.

  Raises:
    ValueError: a loop with collectives doesn't say how often it runs.
  """
  entry, computations = _computations(text)
  found, calls = {}, {}
  for name, lines in computations.items():
    found[name] = [c for line in lines for c in _read(name, line, devices)]
    calls[name] = list(_calls(lines, computations))

  def once(name):
    """What a call runs outside of loops, by instruction, and its loops."""
    seen, loops = dict(found[name]), []
    for called, is_loop, trips in calls[name]:
      if is_loop:
        loops.append((called, trips))
      else:
        more, inner = once(called)
        seen, loops = seen | more, loops + inner
    return seen, loops

  def run(name, times):
    seen, loops = once(name)
    for one in seen.values():
      yield dataclasses.replace(one, times=times)
    for body, trips in loops:
      inside = list(run(body, times * (trips or 1)))
      if inside and trips is None:
        raise ValueError(
            f'A loop with collectives in {name} does not say how often it '
            'runs, so they cannot be counted.')
      yield from inside

  return list(run(entry, 1))


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
  """Name of the entry, and the lines of each computation."""
  computations, entry, lines = {}, None, None
  for line in text.splitlines():
    if lines is None:
      header = _HEADER.match(line)
      if header:
        lines = computations.setdefault(header[2], [])
        entry = header[2] if header[1] else entry
    elif line.startswith('}'):
      lines = None
    else:
      lines.append(line)
  if entry is None:
    raise ValueError('This is no text of an HLO module: it has no ENTRY.')
  return entry, computations


def _calls(
    lines: list[str], computations: Mapping[str, list[str]]
) -> Iterator[tuple[str, bool, int | None]]:
  """Computations that are called, whether in a loop, and how often it runs."""
  for line in lines:
    loop = _WHILE.search(line)
    if loop:
      known = _TRIPS.search(line)
      yield loop[2], True, (
          int(known[1]) if known else _bound(computations.get(loop[1], ())))
    names = _CALLED.findall(line)
    for branches in _BRANCHES.findall(line):
      names += [name.strip().lstrip('%') for name in branches.split(',')]
    for name in names:
      if name in computations:
        yield name, False, 1


def _bound(condition: list[str]) -> int | None:
  """Trips of a loop that counts from 0 to the one number it compares with."""
  bounds = {int(n) for line in condition for n in _BOUND.findall(line)}
  return bounds.pop() if len(bounds) == 1 else None


def _read(
    name: str, line: str, devices: int
) -> Iterator[tuple[str, Collective]]:
  """The collective in a line, if there is one, by what makes it another."""
  match = _OPCODE.match(line)
  if not match:
    return
  kind, group = match[2], _group(line, devices)
  size = _bytes(_result(match[1], kind) if match[3] else match[1])
  if name.startswith('all-reduce-scatter'):
    # The TPU's compiler fuses a sum with the slice that is kept of it.
    kind = 'reduce-scatter'
  elif kind == 'reduce-scatter':
    size *= len(group)
  if len(group) > 1:
    # The TPU's compiler spreads one that runs beside products over several
    # fusions, all of which hold it.
    channel = _CHANNEL.search(line)
    key = channel[1] if channel and _CHAIN.search(line) else f'{name}:{line}'
    yield key, Collective(kind, 1, size, group)


def _result(type_: str, kind: str) -> str:
  """The result's part of what a `-start` returns: (operands, results, ...)."""
  if kind == 'all-reduce' or not type_.startswith('('):
    return type_
  parts, depth, start = [], 0, 1
  for i, char in enumerate(type_):
    depth += (char in '([{') - (char in ')]}')
    if (char == ',' and depth == 1) or depth == 0:
      parts.append(type_[start:i])
      start = i + 1
  return parts[1] if len(parts) > 1 else parts[0]


def _bytes(type_: str) -> int:
  """Of all arrays in the text of a type."""
  total = 0
  for dtype, shape in _SHAPE.findall(type_):
    bits = _BITS.search(dtype)
    numbers = math.prod(int(n) for n in shape.split(',') if n)
    total += numbers * (int(bits[0]) if bits else 8) // 8
  return total


def _group(line: str, devices: int) -> tuple[int, ...]:
  """Positions in the first group of devices, in each of HLO's notations."""
  if 'source_target_pairs=' in line:
    first = re.search(r'source_target_pairs=\{\{(\d+),(\d+)\}', line)
    return (int(first[1]), int(first[2]))
  text = line[line.index('replica_groups=') + len('replica_groups='):]
  if text.startswith('mesh['):
    return _mesh_group(text)
  if text.startswith('['):
    shape, dims, order = re.match(
        r'\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text).groups()
    ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    if order:
      ids = ids.transpose(_numbers(order))
    return tuple(ids.reshape(_numbers(shape))[0].tolist())
  listed = re.match(r'\{\{([\d,]+)\}', text)
  return tuple(_numbers(listed[1])) if listed else tuple(range(devices))


def _mesh_group(text: str) -> tuple[int, ...]:
  """Of `mesh['a'=16,'b'=4] {'b'}`; `'a':(2)4` is a part of an axis."""
  sizes, axes = re.match(r"mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text).groups()
  dims = [(m[1], int(m[2])) for m in re.finditer(r"'([^']+)'=(\d+)", sizes)]
  ids = np.arange(math.prod(size for _, size in dims)).reshape(
      [size for _, size in dims])
  names = [name for name, _ in dims]
  parts = []
  for m in re.finditer(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
    size = dict(dims)[m[1]]
    before, kept = (int(m[2]), int(m[3])) if m[2] else (1, size)
    stride = math.prod(ids.shape[names.index(m[1]) + 1:])
    parts.append(stride * (size // (before * kept)) * np.arange(kept))
  group = np.zeros((), int)
  for part in parts:
    group = group[..., None] + part
  return tuple(group.reshape(-1).tolist())


def _numbers(text: str) -> list[int]:
  return [int(n) for n in text.split(',')]
