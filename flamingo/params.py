"""Parameter trees as paths: what is frozen is decided here and nowhere else."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from flamingo.types import Params

Path = tuple[str, ...]


def flatten(params: Params, prefix: Path = ()) -> Iterator[tuple[Path, object]]:
  """Yields (path, leaf) in sorted order."""
  for name in sorted(params):
    value = params[name]
    if isinstance(value, dict):
      yield from flatten(value, prefix + (name,))
    else:
      yield prefix + (name,), value


def unflatten(leaves: Iterator[tuple[Path, object]]) -> Params:
  """Builds the nested dict whose `flatten` is `leaves`."""
  params = {}
  for path, leaf in leaves:
    node = params
    for name in path[:-1]:
      node = node.setdefault(name, {})
    node[path[-1]] = leaf
  return params


def is_trainable(path: Path) -> bool:
  """Whether the paper trains this parameter (section 2.2 and 2.4).

  The vision encoder and the language model are frozen. The resampler, the gated
  cross-attention and the rows of new tokens are trained.
  """
  return path[0] not in ('vision', 'lm')


def split(
    params: Params, chosen: Callable[[Path], bool] = is_trainable
) -> tuple[Params, Params]:
  """Splits a tree into the leaves that are `chosen` and the others."""
  leaves = list(flatten(params))
  return (
      unflatten((path, leaf) for path, leaf in leaves if chosen(path)),
      unflatten((path, leaf) for path, leaf in leaves if not chosen(path)),
  )


def merge(first: Params, second: Params) -> Params:
  """Joins two trees with no leaf in common: the inverse of `split`."""
  merged = dict(first)
  for name, value in second.items():
    if name not in merged:
      merged[name] = value
    elif isinstance(value, dict) and isinstance(merged[name], dict):
      merged[name] = merge(merged[name], value)
    else:
      raise ValueError(
          f'Both trees hold {name!r}; merge expects trees without a common '
          'leaf, as `split` makes them.')
  return merged


def count(params: Params) -> int:
  """Number of numbers in a tree of arrays or of `jax.eval_shape` results."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def check_same(expected: Params, came: Params, what: str) -> None:
  """Raises ValueError that names the first leaves in which two trees differ.

  Args:
    expected: tree of arrays or shapes that the model has.
    came: tree that was read.
    what: a noun for the message, such as 'checkpoint'.
  """
  expected = {path: leaf.shape for path, leaf in flatten(expected)}
  came = {path: leaf.shape for path, leaf in flatten(came)}
  problems = []
  for path in sorted(expected.keys() | came.keys()):
    if expected.get(path) != came.get(path):
      problems.append(
          f"  {'/'.join(path)}: expected {_shape(expected.get(path))}, "
          f'came {_shape(came.get(path))}')
  if problems:
    more = f'\n  and {len(problems) - 5} more' if len(problems) > 5 else ''
    raise ValueError(
        f'The {what} is of another architecture than the model:\n'
        + '\n'.join(problems[:5]) + more
        + '\nBuild the model with the config the parameters were saved with.')


def _shape(shape: tuple[int, ...] | None) -> str:
  return 'nothing' if shape is None else str(tuple(shape))
