"""Published tensors as our parameters, and back: one table for both ways.

A `Rule` says which of our leaves a tensor becomes and how its axes move. Sizes
are never written down: they come from the shapes of our leaves, so a file of
another size is found out, and named, at its first tensor.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import math
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from flamingo import params as params_lib
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.rules import Rule
from flamingo.types import Params

Place = Callable[[params_lib.Path, np.ndarray], Any]


@dataclasses.dataclass
class Report:
  """What became of the tensors of a file, and of our parameters.

  Attributes:
    loaded: numbers read, by tensor.
    unused: tensors that have no use, and why.
    absent: our leaves that the file lacks by design, and why.
  """

  loaded: dict[str, int] = dataclasses.field(default_factory=dict)
  unused: dict[str, str] = dataclasses.field(default_factory=dict)
  absent: dict[str, str] = dataclasses.field(default_factory=dict)

  def __add__(self, other: 'Report') -> 'Report':
    return Report(
        self.loaded | other.loaded, self.unused | other.unused,
        self.absent | other.absent)


def as_they_are(path: params_lib.Path, array: np.ndarray) -> np.ndarray:
  """Keeps an array in its type, in the memory of the host."""
  del path
  return np.asarray(array, order='C')  # ascontiguousarray makes scalars 1-D


def cast(dtype: Any, place: Place | None = None) -> Place:
  """Casts leaves to `dtype`; then `place` puts them where they belong."""
  def cast_and_place(path: params_lib.Path, array: np.ndarray) -> Any:
    array = np.asarray(array, dtype, order='C')
    return array if place is None else place(path, array)
  return cast_and_place


def read_params(
    tensors: Mapping[str, Stored],
    rules: Sequence[Rule],
    expected: Params,
    *,
    what: str,
    place: Place = as_they_are,
    ignored: Mapping[str, str] | None = None,
    absent: Mapping[str, str] | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Params, Report]:
  """Reads our parameters from the tensors of a file, one after another.

  Args:
    tensors: by their published names.
    rules: how they become ours. Rules whose leaves are all absent by design are
      left out.
    expected: shapes of our leaves, such as `jax.eval_shape(model.init, ...)`.
    what: a noun for messages: 'OpenFlamingo checkpoint'.
    place: casts a leaf and puts it where it belongs, as soon as it is read.
    ignored: patterns of their names, and why those tensors have no use.
    absent: patterns of our paths, and why the file lacks those leaves.
    progress: wraps the iteration over rules, as `tqdm` does.

  Returns:
    The parameters, and what was read, left and lacking.

  Raises:
    ValueError: a tensor is missing, left over without a reason, or of another
      shape. Nothing has been read yet, save where a file is damaged.
  """
  shapes = {path: tuple(x.shape) for path, x in params_lib.flatten(expected)}
  report = Report()
  for path in shapes:
    why = _reason('/'.join(path), absent)
    if why is not None:
      report.absent['/'.join(path)] = why
  rules = [
      rule for rule in rules
      if not all('/'.join(path) in report.absent for path in rule.paths)]
  read = {rule.theirs for rule in rules}
  for name in tensors:
    why = _reason(name, ignored)
    if why is not None and name not in read:
      report.unused[name] = why
  check(tensors, rules, shapes, report, what)
  leaves = {}
  for rule in progress(rules):
    stored = tensors[rule.theirs]
    for path, leaf in zip(
        rule.paths,
        rule.read(stored.read(), [shapes[path] for path in rule.paths])):
      leaves[path] = place(path, leaf)
    del leaf  # as a view it would hold this tensor while the next one is read
    report.loaded[rule.theirs] = math.prod(stored.shape)
  return params_lib.unflatten(leaves.items()), report


def check(
    tensors: Mapping[str, Stored],
    rules: Sequence[Rule],
    shapes: Mapping[params_lib.Path, tuple[int, ...]],
    report: Report,
    what: str,
) -> None:
  """Raises ValueError that names the first tensors that do not fit."""
  theirs = {rule.theirs for rule in rules}
  missing = [rule.theirs for rule in rules if rule.theirs not in tensors]
  left = [
      name for name in tensors if name not in theirs | report.unused.keys()]
  covered = collections.Counter(path for rule in rules for path in rule.paths)
  homeless = [
      '/'.join(path) for path in shapes
      if path not in covered and '/'.join(path) not in report.absent]
  unknown = ['/'.join(path) for path in covered if path not in shapes]
  twice = ['/'.join(path) for path, count in covered.items() if count > 1]
  # Integers of a quantised file mean nothing without their scales.
  integers = [
      f'{rule.theirs} ({tensors[rule.theirs].dtype})' for rule in rules
      if rule.theirs in tensors
      and not jnp.issubdtype(tensors[rule.theirs].dtype, jnp.floating)]
  problems = [
      f'  {len(names)} {kind}: {some(names)}' for kind, names in (
          ('tensors are missing', missing),
          ('tensors have no use', left),
          ('tensors are not of floating point', integers),
          ('of our parameters come from no tensor', homeless),
          ('of our parameters come from several tensors', twice),
          ('of the parameters read are not in the model', unknown)) if names]
  for rule in rules:
    if rule.theirs in tensors and all(path in shapes for path in rule.paths):
      expected = rule.their_shape([shapes[path] for path in rule.paths])
      came = tuple(tensors[rule.theirs].shape)
      if came != expected:
        problems.append(
            f'  {rule.theirs}: expected {expected}, came {came}')
        break
  if problems:
    raise ValueError(
        f'The {what} does not fit the model it is read into:\n'
        + '\n'.join(problems)
        + '\nCheck that it is of this architecture and size.')


def write_params(
    params: Params, rules: Sequence[Rule]
) -> Iterator[tuple[str, Stored]]:
  """Yields published tensors, by name: what `read_params` read them from.

  Each is put together when it is read, so that writing them all holds one at a
  time.

  Raises:
    ValueError: a parameter is in no rule, so it would be lost.
  """
  leaves = dict(params_lib.flatten(params))
  rules = [
      rule for rule in rules if all(path in leaves for path in rule.paths)]
  lost = leaves.keys() - {path for rule in rules for path in rule.paths}
  if lost:
    names = ['/'.join(path) for path in lost]
    raise ValueError(
        f'{len(lost)} parameters have no place in the layout to write: '
        f'{some(names)}. Choose a layout of this architecture.')

  def read(rule, ours):
    return np.array(rule.write([np.asarray(leaf) for leaf in ours]), order='C')

  for rule in rules:
    ours = [leaves[path] for path in rule.paths]
    yield rule.theirs, Stored(
        rule.their_shape([leaf.shape for leaf in ours]),
        np.result_type(*(leaf.dtype for leaf in ours)),
        functools.partial(read, rule, ours), 'memory')


def some(names: Iterable[str], most: int = 6) -> str:
  """The first of many names, for a message."""
  names = sorted(names)
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return (', '.join(names[:most]) or 'none') + more


def _reason(name: str, patterns: Mapping[str, str] | None) -> str | None:
  for pattern, why in (patterns or {}).items():
    if re.fullmatch(pattern, name):
      return why
  return None
