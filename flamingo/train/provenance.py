"""Whether a checkpoint is of the run that wants to go on from it."""

from collections.abc import Iterator, Mapping, Sequence
import fnmatch
import json
import os
from typing import Any

import jax

from flamingo import params as params_lib
from flamingo.types import Params


def shapes(params: Params) -> dict[str, list[int]]:
  """Shapes by path, as JSON keeps them."""
  return {
      '/'.join(path): list(leaf.shape)
      for path, leaf in params_lib.flatten(params)}


def tree_of(shapes: Mapping[str, Sequence[int]]) -> Params:
  """The inverse of `shapes`: a tree of shapes, as if all were float32."""
  return params_lib.unflatten(
      (tuple(path.split('/')), jax.ShapeDtypeStruct(tuple(shape), 'float32'))
      for path, shape in shapes.items())


def check_shapes(
    params: Params, saved: Params, directory: str | os.PathLike[str]
) -> None:
  """Raises ValueError that names the first parameters of another shape."""
  params_lib.check_same(
      tree_of(shapes(params)), saved, f'checkpoint {directory}')


def check_fingerprints(
    saved: Mapping[str, str], here: Mapping[str, str]
) -> None:
  """Raises ValueError that names a frozen part that is another."""
  for name in sorted(saved.keys() | here.keys()):
    if saved.get(name) != here.get(name):
      raise ValueError(
          f'The checkpoint was trained beside {name} of fingerprint '
          f'{saved.get(name)}, but {here.get(name)} is here. Install the '
          'weights it was trained with; its numbers mean nothing beside '
          'others.')


def check_config(
    saved: Mapping[str, Any], here: Mapping[str, Any],
    may_change: Sequence[str], directory: str | os.PathLike[str],
) -> None:
  """Raises ValueError that lists keys that differ and may not; says the others.

  Args:
    saved: config of the checkpoint.
    here: config of the run.
    may_change: patterns of keys such as 'steps' or 'survival.*'.
    directory: of the checkpoint, for the message.
  """
  # As JSON has it: tuples come back as lists.
  saved, here = (
      dict(_flatten(json.loads(json.dumps(dict(config)))))
      for config in (saved, here))
  allowed, refused = [], []
  for key in sorted(saved.keys() | here.keys()):
    was, now = (config.get(key, 'nothing') for config in (saved, here))
    if was != now:
      free = any(fnmatch.fnmatch(key, pattern) for pattern in may_change)
      (allowed if free else refused).append(f'  {key}: {was} -> {now}')
  if refused:
    raise ValueError(
        f'The config is not the one that {directory} was trained with:\n'
        + '\n'.join(refused)
        + '\nA run of two configs is described by neither. Undo the change, '
        'choose another --workdir, or say --accept_changes.')
  if allowed:
    print('The config differs from the checkpoint:', *allowed, sep='\n',
          flush=True)


def _flatten(config: Mapping[str, Any], prefix: str = '') -> Iterator:
  for key, value in config.items():
    if isinstance(value, dict) and value:
      yield from _flatten(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value
