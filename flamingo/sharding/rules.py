"""One table that says how each parameter is split, by its path.

Megatron-LM (arXiv:1909.08053) over `tensor`: what makes heads or hidden units
is split by column and what reads them by row, so that a layer needs one sum
over the devices in attention and one in the feed-forward. Over `fsdp` (ZeRO-3,
arXiv:1910.02054) parameters are split along the other axis, and gathered when
they are used. The paper's 80B has 16-way Megatron sharding and a whole vision
encoder on every chip (Flamingo, appendix B.1.2), which is `mesh.tensor=16`.
"""

import math
import re

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flamingo import params as params_lib
from flamingo.params import Path
from flamingo.sharding.mesh import AXES, replicated
from flamingo.types import Params, TrainState

# A parameter with fewer numbers than this is not worth a collective.
SMALL = 2**18
# Instead of a specification: `fsdp` along the largest axis, if it isn't small.
BY_SIZE = 'by size'

# The first pattern that matches a whole path has it. Where the same pattern
# comes again, it is for shapes that the row before does not divide.
RULES: tuple[tuple[str, P | str], ...] = (
    # The vision encoder reads pictures that are split over all devices, so
    # none of its products is worth splitting; nor the resampler's.
    (r'(vision|resampler)/.*', BY_SIZE),
    (r'whitening/.*|new_(un)?embedding', P()),
    (r'.*(scale|bias|_gate)', P()),
    (r'lm/embed/embedding', P('tensor', 'fsdp')),
    (r'lm/embed/embedding', P('fsdp', 'tensor')),
    (r'lm/unembed/kernel', P('fsdp', 'tensor')),
    (r'lm/unembed/kernel', P('tensor', 'fsdp')),
    (r'.*/(query|key|value)/kernel', P('fsdp', 'tensor', None)),
    (r'.*/out/kernel', P('tensor', None, 'fsdp')),
    (r'.*/(gate|up)/kernel', P('fsdp', 'tensor')),
    (r'.*/down/kernel', P('tensor', 'fsdp')),
    (r'.*', BY_SIZE),
)
# Under these, layers are stacked along a leading axis, which is never split: a
# scan takes one layer at a time.
STACKED = re.compile(r'lm/groups/.*|xattn_groups/.*')


def rule_of(path: Path) -> tuple[str, tuple[P | str, ...]]:
  """The pattern that has a path, and its specifications in order."""
  name = '/'.join(path)
  pattern = next(row for row, _ in RULES if re.fullmatch(row, name))
  return pattern, tuple(spec for row, spec in RULES if row == pattern)


def spec_of(path: Path, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
  """How a parameter is split: its rule, as far as the mesh divides its shape.

  Heads or units that `tensor` doesn't divide (as key heads may) stay whole on
  each device. What `fsdp` doesn't divide is split along the largest other axis
  that it does.

  Args:
    path: of the parameter in the tree of all.
    shape: of the parameter, with the leading axis of stacked layers.
    mesh: of which only the sizes count.
  """
  stacked = STACKED.fullmatch('/'.join(path)) is not None
  lead, shape = ((None,), shape[1:]) if stacked else ((), shape)
  specs = rule_of(path)[1]
  if specs == (BY_SIZE,):
    axes = [()] * len(shape)
    if math.prod(shape) >= SMALL:
      _put(axes, shape, 'fsdp', mesh)
    return _spec(lead, axes)
  parts = lambda spec: math.prod(
      mesh.shape[name] for size, name in zip(shape, spec)
      if name is not None and size % mesh.shape[name] == 0)
  spec = max(specs, key=parts)  # the first of equals
  axes = [
      () if name is None or mesh.shape[name] == 1 or size % mesh.shape[name]
      else (name,) for name, size in zip(spec, shape)]
  axes += [()] * (len(shape) - len(axes))
  if 'fsdp' in spec and not any('fsdp' in names for names in axes):
    _put(axes, shape, 'fsdp', mesh)
  return _spec(lead, axes)


def shardings(shapes: Params, mesh: Mesh | AbstractMesh) -> Params:
  """The sharding of each parameter of a tree of arrays or of shapes."""
  return params_lib.unflatten(
      (path, NamedSharding(mesh, spec_of(path, leaf.shape, mesh)))
      for path, leaf in params_lib.flatten(shapes))


def spread(spec: P, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
  """Splits further, over every axis of the mesh that `spec` leaves unused.

  For what only the optimizer reads: moments, and averages of parameters (ZeRO,
  arXiv:1910.02054). Each unused axis goes to the largest axis it divides, if
  there is enough to split.
  """
  axes = [_names(entry) for entry in spec] + [()] * (len(shape) - len(spec))
  for name in AXES:
    used = any(name in names for names in axes)
    if not used and math.prod(shape) >= SMALL:
      _put(axes, shape, name, mesh)
  return _spec((), axes)


def state_shardings(
    shapes: TrainState, mesh: Mesh | AbstractMesh
) -> TrainState:
  """The sharding of everything in a training state.

  Args:
    shapes: the state, or its shapes (`jax.eval_shape`). Of the optimizer's
      state, a leaf that stands at a parameter's path and has its shape is a
      moment; any other is a number such as a count.
    mesh: where to.
  """
  trainable = dict(params_lib.flatten(shapes.trainable))

  def spread_out(path, leaf):
    spec = spec_of(path, leaf.shape, mesh)
    return NamedSharding(mesh, spread(spec, leaf.shape, mesh))

  def of_optimizer(keys, leaf):
    names = tuple(
        key.key for key in keys if isinstance(key, jax.tree_util.DictKey))
    # A transformation may keep its parts in a dict of its own.
    for start in range(len(names)):
      path = names[start:]
      if path in trainable and trainable[path].shape == leaf.shape:
        return spread_out(path, leaf)
    return replicated(mesh)

  changes = {}
  if getattr(shapes, 'ema', None) is not None:
    changes['ema'] = params_lib.unflatten(
        (path, spread_out(path, leaf))
        for path, leaf in params_lib.flatten(shapes.ema))
  return shapes.replace(
      step=replicated(mesh),
      trainable=shardings(shapes.trainable, mesh),
      frozen=shardings(shapes.frozen, mesh),
      opt_state=jax.tree_util.tree_map_with_path(
          of_optimizer, shapes.opt_state),
      **changes)


def share_of(spec: P, mesh: Mesh | AbstractMesh) -> int:
  """Into how many parts a specification splits an array."""
  return math.prod(mesh.shape[name] for entry in spec for name in _names(entry))


def _put(
    axes: list[tuple[str, ...]], shape: tuple[int, ...], name: str,
    mesh: Mesh | AbstractMesh,
) -> None:
  """Gives a mesh axis to the largest share of an array's that it divides."""
  size = mesh.shape[name]
  left = [
      n // math.prod(mesh.shape[used] for used in names)
      for n, names in zip(shape, axes)]
  even = [i for i, n in enumerate(left) if n and n % size == 0]
  if size > 1 and even:
    axes[max(even, key=lambda i: left[i])] += (name,)


def _names(entry) -> tuple[str, ...]:
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)


def _spec(lead: tuple[None, ...], axes: list[tuple[str, ...]]) -> P:
  entries = list(lead) + [
      (names[0] if len(names) == 1 else names) if names else None
      for names in axes]
  while entries and entries[-1] is None:
    entries.pop()
  return P(*entries)
