"""The mesh of devices, and how batches and parameters are put on it.

A mesh has three axes. Rows of a batch are split over `data` and `fsdp`; frozen
and trained parameters over `fsdp` and `tensor`. With several processes, each
sees a part of the devices and everything here is called by all of them alike.
"""

from collections.abc import Sequence
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

AXES = ('data', 'fsdp', 'tensor')
ROWS = ('data', 'fsdp')


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """All devices, in a mesh of the axes data, fsdp and tensor.

  Args:
    data: copies of the parameters that train on rows of their own.
    fsdp: devices that share parameters, and train on rows of their own: a
      parameter is gathered when it is used.
    tensor: devices that share each matrix product, heads and hidden units
      (Megatron-LM, arXiv:1909.08053). They talk in every layer: choose those
      that are nearest, at most what the number of heads is divided by.
    devices: all there are, by default.

  One of the three may be -1, for what is left over.

  Raises:
    ValueError: the sizes don't make up the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = dict(data=data, fsdp=fsdp, tensor=tensor)
  asked = ', '.join(f'{name}={size}' for name, size in sizes.items())
  left = [name for name, size in sizes.items() if size == -1]
  if len(left) > 1 or any(s < 1 and s != -1 for s in sizes.values()):
    raise ValueError(
        f'mesh: {asked} is no mesh. Sizes are at least 1, and one of them may '
        'be -1, for the devices that are left over.')
  given = math.prod(size for size in sizes.values() if size != -1)
  if left and len(devices) % given == 0:
    sizes[left[0]] = len(devices) // given
  if math.prod(sizes.values()) != len(devices):
    what = 'a multiple of ' if left else ''
    raise ValueError(
        f'mesh: {asked} needs {what}{given} devices, and there are '
        f'{len(devices)}. Choose sizes whose product is {len(devices)}, or -1 '
        'for one of them.')
  # A pod's physical axes are split where no product of whole ones fits.
  grid = mesh_utils.create_device_mesh(
      tuple(sizes.values()), devices, allow_split_physical_axes=True)
  # The default would be Explicit axes, which need shardings in every operation.
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
  """Rows split over the devices, but for those that share a product."""
  return NamedSharding(mesh, PartitionSpec(ROWS))


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


def row_shards(mesh: Mesh) -> int:
  """Into how many parts the rows of a batch are split."""
  return math.prod(mesh.shape[axis] for axis in ROWS)


def rows_here(rows: int, mesh: Mesh) -> Sequence[int]:
  """Which of the rows of a batch this process draws: those of its devices.

  All of them where there is one process. Processes whose devices share products
  with one another draw the same rows.

  Raises:
    ValueError: several processes can't share the rows evenly.
  """
  if jax.process_count() == 1:
    return range(rows)
  _check_even(rows, mesh)
  here = over_batch(mesh).addressable_devices_indices_map((rows,)).values()
  return sorted({row for part, in here for row in range(*part.indices(rows))})


def put_batch(batch, mesh: Mesh):
  """Places a batch, or a tree of them, with its rows split over the devices.

  Args:
    batch: of this process' rows, see `rows_here`, in their order.
    mesh: where to.

  Rows that the devices of one process cannot share evenly are copied to each of
  them instead: the result of a step is the same, and only its time is not.
  """
  if jax.process_count() == 1:
    return put_whole_batch(batch, mesh)
  return jax.tree.map(
      lambda leaf: jax.make_array_from_process_local_data(
          over_batch(mesh), np.asarray(leaf)), batch)


def put_whole_batch(batch, mesh: Mesh):
  """The same for a batch of which each process holds all rows."""
  def put(leaf):
    even = leaf.shape[0] % row_shards(mesh) == 0
    return place(leaf, over_batch(mesh) if even else replicated(mesh))
  return jax.tree.map(put, batch)


def place(tree, where):
  """Places arrays that each process holds whole; only its shares are moved.

  Args:
    tree: of arrays; numpy's go from the host to their shards, never whole to
      one device.
    where: a sharding, or a tree of them.
  """
  if isinstance(where, jax.sharding.Sharding):
    where = jax.tree.map(lambda leaf: where, tree)
  if jax.process_count() == 1:
    return jax.device_put(tree, where)
  # `device_put` would first compare all values among all processes.
  return jax.tree.map(
      lambda leaf, sharding: jax.make_array_from_callback(
          leaf.shape, sharding, np.asarray(leaf).__getitem__), tree, where)


def _check_even(rows: int, mesh: Mesh) -> None:
  if rows % row_shards(mesh):
    raise ValueError(
        f'A batch of {rows} rows cannot be shared evenly by the '
        f'{row_shards(mesh)} parts of data={mesh.shape["data"]}, '
        f'fsdp={mesh.shape["fsdp"]} in {jax.process_count()} processes. Take a '
        f'multiple of {row_shards(mesh)} as batch_size of each dataset, or a '
        'larger `tensor`.')
