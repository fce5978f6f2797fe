"""Numbers that change when what was saved changes: found when it is restored.

An array's digest is a sum over its elements of a hash of value and place. Such
a sum is the same whatever mesh the array lies on, so that what eight devices
have saved is verified on one; and each device sums what it holds, in the order
of its other work, so that saving waits for nothing.
"""

from collections.abc import Mapping
import json
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np


def of_arrays(tree) -> jax.Array:
  """Digests of a tree's arrays, uint32 [leaves], in the order of its leaves."""
  digests = []
  # Programs that don't wait for one another begin in any order on CPUs, and
  # processes that begin different ones wait for each other for ever.
  in_order = jax.default_backend() != 'cpu' or jax.process_count() == 1
  for leaf in jax.tree.leaves(tree):
    digest = _of_array(leaf)
    digests.append(digest if in_order else digest.block_until_ready())
  return _stack(digests)


def of_json(value: Mapping[str, Any]) -> int:
  """Digest of plain data: of what JSON makes of it, in any order of keys."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def changed(tree, digests: np.ndarray) -> list[str]:
  """Paths of the leaves whose digests are not the given ones."""
  paths = [
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
  if len(paths) != len(digests):
    return [f'{len(digests)} arrays instead of {len(paths)}']
  same = np.asarray(of_arrays(tree)) == np.asarray(digests)
  return [path for path, same in zip(paths, same) if not same]


_stack = jax.jit(lambda digests: jnp.stack(digests))


@jax.jit
def _of_array(x: jax.Array) -> jax.Array:
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
  # Flat places, by a sum over axes: to flatten a split array would gather it.
  place, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place = place + along * np.uint32(stride % 2**32)
    stride *= x.shape[axis]
  # MurmurHash3's last steps. They map values one to one, so that one changed
  # element always shows; several hide with a chance of one in 2**32.
  h = bits ^ (place * np.uint32(0x9E3779B1))
  h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
  return (h ^ (h >> 16)).sum(dtype=jnp.uint32)
