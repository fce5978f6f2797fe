"""Where activations are, said at the few places where a compiler guesses wrong.

From the shardings of parameters and batches XLA derives those of all that lies
between. Left alone it derives them from the optimizer's moments too, which are
split over every device: it then splits the width of the residual stream, and
gathers all rows on each device. (Two layers, data=8: 141 collectives, most of
them of activations. With what is said here 41, none of them.) And a vision
encoder that is whole on each device would see the same pictures on all devices
that share a product.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jax.numpy as jnp

from flamingo.sharding.mesh import AXES, ROWS
from flamingo.types import Params


@dataclasses.dataclass(frozen=True)
class Activations:
  """Says where activations are; nothing without a mesh.

  Attributes:
    mesh: with the axes data, fsdp and tensor; None for one device.
  """

  mesh: Mesh | None = None

  def rows(self, x: jax.Array) -> jax.Array:
    """Keeps rows [B ...] apart, and everything else of them together."""
    return self._split(x, ROWS)

  def looked_up(self, x: jax.Array) -> jax.Array:
    """Rows [B L D] of a table whose width is split over `fsdp`.

    Each device looks up its part of the width, for the rows of all that share
    the table with it; then they exchange parts for whole rows.
    """
    return self.rows(self._split(x, 'data', None, 'fsdp'))

  def pictures(self, x: jax.Array) -> jax.Array:
    """Splits pictures [B*N*T ...] over all devices, as their encoder is whole.

    They need not be shared evenly: a few are added that no one looks at.
    """
    return self._split(x, AXES)

  def encoded(
      self, encode: Callable[[Params, jax.Array], jax.Array], params: Params,
      x: jax.Array,
  ) -> jax.Array:
    """`encode(params, x)` of pictures [B*N*T ...], each device by itself.

    Asked to split a grouped convolution by pictures, XLA has every device
    compute it of all pictures, which it gathers first.
    """
    if self.mesh is None or self.mesh.size == 1:
      return encode(params, x)
    count = x.shape[0]
    added = ((0, -count % self.mesh.size),) + ((0, 0),) * (x.ndim - 1)
    # A scan in an encoder begins with what is the same on all devices.
    by_device = jax.shard_map(
        encode, mesh=self.mesh, in_specs=(PartitionSpec(), PartitionSpec(AXES)),
        out_specs=PartitionSpec(AXES), check_vma=False)
    return by_device(params, self.pictures(jnp.pad(x, added)))[:count]

  def _split(self, x, *axes):
    if self.mesh is None or self.mesh.size == 1:
      return x
    return jax.lax.with_sharding_constraint(
        x, NamedSharding(self.mesh, PartitionSpec(*axes)))


ONE_DEVICE = Activations()
