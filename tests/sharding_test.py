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


@pytest.mark.parametrize('sizes, shape', [
    ({}, (2, 1, 1)),
    (dict(tensor=2), (1, 1, 2)),
    (dict(data=1, fsdp=-1), (1, 2, 1)),
    (dict(data=2, fsdp=1, tensor=1), (2, 1, 1)),
])
def test_a_mesh_has_three_axes_and_every_device(sizes, shape):
  mesh = sharding.make_mesh(**sizes)
  assert dict(mesh.shape) == dict(zip(('data', 'fsdp', 'tensor'), shape))
  assert set(mesh.devices.flat) == set(jax.devices())
  assert sharding.row_shards(mesh) == shape[0] * shape[1]


@pytest.mark.parametrize('sizes, message', [
    (dict(tensor=3), 'data=-1, fsdp=1, tensor=3 needs a multiple of 3 devices'),
    (dict(data=1), 'needs 1 devices, and there are 2'),
    (dict(data=2, fsdp=2), 'needs 4 devices, and there are 2'),
    (dict(fsdp=-1), 'one of them may be -1'),
    (dict(fsdp=0), 'fsdp=0, tensor=1 is no mesh'),
])
def test_sizes_that_do_not_make_up_the_devices_are_an_error(sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(**sizes)


def test_a_mesh_may_have_some_of_the_devices():
  mesh = sharding.make_mesh(devices=jax.devices()[1:])
  assert mesh.devices.ravel().tolist() == jax.devices()[1:]


def test_rows_are_split_over_data_and_fsdp_but_not_over_tensor():
  batch = {'tokens': np.arange(4)}
  for sizes, share in ((dict(fsdp=2, data=1), 2), (dict(tensor=2), 4)):
    mesh = sharding.make_mesh(**sizes)
    placed = sharding.put_batch(batch, mesh)['tokens']
    assert {x.data.shape for x in placed.addressable_shards} == {(share,)}
    np.testing.assert_array_equal(placed, batch['tokens'])


def test_one_process_draws_every_row(mesh):
  assert list(sharding.rows_here(3, mesh)) == [0, 1, 2]
