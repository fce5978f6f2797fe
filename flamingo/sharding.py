"""Where arrays live: a mesh, and what is split over it."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
  """All devices along one axis, `data`: each takes its share of every batch."""
  # The default would be Explicit axes, which need shardings in every operation.
  return jax.make_mesh(
      (jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
  """Rows split over the devices."""
  return NamedSharding(mesh, PartitionSpec('data'))


def over_largest_axis(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """A parameter's share for each device: its largest axis, split over all.

  Of axes that the number of devices divides; if there is none, a whole copy on
  each device.
  """
  even = [i for i, size in enumerate(shape) if size and size % mesh.size == 0]
  if not even:
    return replicated(mesh)
  largest = max(even, key=lambda i: shape[i])
  return NamedSharding(
      mesh, PartitionSpec(*[None] * largest, mesh.axis_names))


def put_batch(batch, mesh: Mesh):
  """Places a batch, or a tree of them, with its rows split over the devices.

  Rows that the devices cannot share evenly are copied to each of them instead:
  the result of a step is the same, and only its time is not.
  """
  def put(leaf):
    even = leaf.shape[0] % mesh.size == 0
    return jax.device_put(leaf, over_batch(mesh) if even else replicated(mesh))
  return jax.tree.map(put, batch)
