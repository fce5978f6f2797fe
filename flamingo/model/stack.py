"""Groups of layers on each other: the parameters of one, with an axis in front.

A group is a gated block and the `every` LM layers behind it. Where groups are
scanned over, the parameters of the G that are full are stacked,

  xattn_0 .. xattn_{G-1}             xattn_groups       [G ...]
  lm/layer_{first + g * every + j}   lm/groups/layer_j  [G ...]

and what fills no group keeps its name: layers before the first gated block, and
a last group that is cut short.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import itertools
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding
import jax.numpy as jnp
import numpy as np

BLOCKS, LAYERS = 'xattn_groups', 'groups'


@dataclasses.dataclass(frozen=True)
class Groups:
  """The full groups of a model.

  Attributes:
    first: first LM layer of the first group.
    every: LM layers of a group.
    count: number G of groups, at least 1.
  """

  first: int
  every: int
  count: int

  @classmethod
  def of(cls, layers: int, every: int, offset: int) -> 'Groups | None':
    """Of a model with so many LM layers; None if no group is full."""
    count = (layers - offset) // every
    return cls(offset, every, count) if count > 0 else None

  @property
  def layers(self) -> range:
    """LM layers that stand in a full group."""
    return range(self.first, self.first + self.every * self.count)

  def at(self, j: int) -> range:
    """LM layers at place `j` of a group, one for each group."""
    return self.layers[j::self.every]


def stack(tree: Any, groups: Groups | None) -> Any:
  """Stacks what stands in full groups.

  Args:
    tree: parameters by their unrolled names, or anything that holds such trees:
      gradients, an optimizer's state, a `TrainState`, shapes of any of these.
    groups: of the model that is to read them, `Flamingo.groups`. With None, and
      where everything is stacked already, the tree stays as it is.

  Raises:
    ValueError: a block or a layer of some group is missing.
  """
  if groups is None:
    return tree

  def change(node, name):
    node = dict(node)
    if 'xattn_0' in node and BLOCKS not in node:
      names = [f'xattn_{g}' for g in range(groups.count)]
      node[BLOCKS] = _on_each_other(node, names)
    if name == 'lm' and groups.every and f'layer_{groups.first}' in node:
      node[LAYERS] = {
          f'layer_{j}': _on_each_other(
              node, [f'layer_{i}' for i in groups.at(j)])
          for j in range(groups.every)}
    return node

  return _each_dict(tree, change)


def unstack(tree: Any) -> Any:
  """The inverse of `stack`, of a tree that holds all its layers or none.

  A tree in which nothing is stacked stays as it is. Slices of numpy arrays
  share the memory of the whole.
  """
  def change(node, name):
    node = dict(node)
    if BLOCKS in node:
      for g, block in enumerate(slices(node.pop(BLOCKS))):
        node[f'xattn_{g}'] = block
    if name == 'lm' and LAYERS in node:
      first, group = _first_absent(node), node.pop(LAYERS)
      for j in range(len(group)):
        for g, layer in enumerate(slices(group[f'layer_{j}'])):
          node[f'layer_{first + g * len(group) + j}'] = layer
    return node

  return _each_dict(tree, change)


def groups_in(tree: Any) -> Groups | None:
  """How a tree is stacked, by its names; None if nothing is.

  Of a tree without the LM, `first` and `every` are not to be known: 0.
  """
  found = None

  def look(node, name):
    nonlocal found
    if name == 'lm' and LAYERS in node:
      found = Groups(
          _first_absent(node), len(node[LAYERS]), _count(node[LAYERS]))
    elif BLOCKS in node and found is None:
      found = Groups(0, 0, _count(node[BLOCKS]))
    return node

  _each_dict(tree, look)
  return found


def like(tree: Any, template: Any) -> Any:
  """A tree as another one that holds the same is laid out: stacked or not.

  So a run of scanned layers goes on with unrolled ones, and the other way
  round. Where both are laid out alike, nothing is copied.
  """
  groups = groups_in(template)
  if groups == groups_in(tree):
    return tree
  return stack(unstack(tree), groups)


def slices(tree: Any) -> Iterator[Any]:
  """Yields each of what `tree` has stacked along its leaves' first axis."""
  for g in range(_count(tree)):
    yield jax.tree.map(lambda leaf, g=g: _slice(leaf, g), tree)


def _each_dict(
    tree: Any, change: Callable[[dict, str], dict], name: str = ''
) -> Any:
  """Changes all dicts in a tree, inner ones first, by the name they are under.

  An optimizer's state is made of tuples with trees of parameters in them.
  """
  def visit(node):
    if not isinstance(node, dict):
      return node
    return change(
        {key: _each_dict(value, change, key) for key, value in node.items()},
        name)

  return jax.tree.map(
      visit, tree, is_leaf=lambda node: isinstance(node, dict))


def _on_each_other(node: dict, names: Sequence[str]) -> Any:
  """Takes `names` out of `node` and stacks them."""
  missing = [name for name in names if name not in node]
  if missing:
    raise ValueError(
        f'{len(names)} groups are to be stacked, and the tree has no '
        f'{", ".join(missing[:3])}. Expected the unrolled parameters of all '
        f'{len(names)} groups, {names[0]} to {names[-1]}.')
  return jax.tree.map(_stacked, *(node.pop(name) for name in names))


def _stacked(*leaves):
  leaf, sharding = leaves[0], getattr(leaves[0], 'sharding', None)
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(
        (len(leaves),) + leaf.shape, leaf.dtype,
        sharding=_lead(sharding, lambda spec: (None, *spec)))
  if isinstance(leaf, np.ndarray):
    return np.stack(leaves)
  if isinstance(leaf, jax.core.Tracer) or not _is_named(sharding):
    return jnp.stack(leaves)
  # Each device stacks its own shares; XLA would be free to gather them.
  return _stack_to(_lead(sharding, lambda spec: (None, *spec)))(*leaves)


@functools.cache
def _stack_to(sharding):
  return jax.jit(lambda *leaves: jnp.stack(leaves), out_shardings=sharding)


def _slice(leaf, g):
  sharding = getattr(leaf, 'sharding', None)
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(
        leaf.shape[1:], leaf.dtype,
        sharding=_lead(sharding, lambda spec: spec[1:]))
  if isinstance(leaf, np.ndarray | jax.core.Tracer) or not _is_named(sharding):
    return leaf[g]
  return _slice_to(_lead(sharding, lambda spec: spec[1:]))(leaf, g)


@functools.cache
def _slice_to(sharding):
  # `g` is an argument, so that one program takes all slices of a leaf.
  return jax.jit(lambda leaf, g: leaf[g], out_shardings=sharding)


def _is_named(sharding: Sharding | None) -> bool:
  return isinstance(sharding, NamedSharding)


def _lead(sharding: Sharding | None, change: Callable) -> Sharding | None:
  """A sharding with the axis of groups put in front, or taken away."""
  if not _is_named(sharding):
    return sharding
  return NamedSharding(
      sharding.mesh, PartitionSpec(*change(tuple(sharding.spec))))


def _count(tree: Any) -> int:
  """Length of the first axis of a tree's leaves; 0 if it has none."""
  return next((leaf.shape[0] for leaf in jax.tree.leaves(tree)), 0)


def _first_absent(node: dict) -> int:
  """First layer that isn't under its own name: it stands in a group."""
  return next(i for i in itertools.count() if f'layer_{i}' not in node)
