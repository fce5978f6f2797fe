"""Parameters shared among devices."""

from flamingo import sharding
import jax
import numpy as np
import pytest


@pytest.fixture(scope='module')
def mesh():
  mesh = sharding.make_mesh()
  assert mesh.size == 2
  return mesh


@pytest.mark.parametrize('shape, share', [
    ((3, 10, 4), (3, 5, 4)),  # the largest axis
    ((11, 4), (11, 2)),  # the largest that can be halved
    ((6, 6), (3, 6)),  # the first of equals
    ((7, 5), (7, 5)),  # none can
    ((), ()),
    ((0, 5), (0, 5)),
])
def test_each_device_gets_its_share_of_the_largest_even_axis(
    mesh, shape, share
):
  array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  placed = jax.device_put(array, sharding.over_largest_axis(shape, mesh))
  assert {x.data.shape for x in placed.addressable_shards} == {share}
  np.testing.assert_array_equal(placed, array)


def test_all_axes_of_a_mesh_count():
  devices = np.asarray(jax.devices()).reshape(2, 1)
  mesh = jax.sharding.Mesh(devices, ('data', 'model'))
  spec = sharding.over_largest_axis((4, 6), mesh)
  assert spec.shard_shape((4, 6)) == (4, 3)
