"""Stacked trees: what stands in full groups, and back again bit for bit."""

from flamingo import params as params_lib
from flamingo.model import stack as stack_lib
from flamingo.model.stack import Groups
from flamingo.types import TrainState
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jax.numpy as jnp
import numpy as np
import optax
import pytest

# Six layers, gated blocks before 1, 3 and 5: two full groups and one cut short.
GROUPS = Groups(first=1, every=2, count=2)


@pytest.fixture
def tree():
  rng = np.random.default_rng(0)
  block = lambda: {
      'attn_gate': rng.normal(size=()).astype('f'),
      'query': {'kernel': rng.normal(size=(3, 5)).astype('f')}}
  layer = lambda: {'attn': {'key': {'kernel': rng.normal(size=(5, 2))}}}
  return {
      **{f'xattn_{i}': block() for i in range(3)},
      'lm': {
          'embed': {'embedding': rng.normal(size=(7, 3))},
          **{f'layer_{i}': layer() for i in range(6)}},
      'vision': {'layer_1': {'scale': rng.normal(size=2)}},
      'new_embedding': rng.normal(size=(2, 3)),
  }


def _same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize('layers, every, offset, expected', [
    (24, 1, 0, (0, 1, 24)),  # Flamingo-3B
    (80, 7, 0, (0, 7, 11)),  # Flamingo-80B: three layers are left over
    (32, 4, 3, (3, 4, 7)),  # OpenFlamingo-9B: three before, one behind
    (6, 2, 1, (1, 2, 2)),
    (5, 7, 0, None),
    (5, 7, 6, None),
])
def test_groups_are_those_that_are_full(layers, every, offset, expected):
  groups = Groups.of(layers, every, offset)
  assert groups == (expected and Groups(*expected))


def test_full_groups_are_stacked_and_what_is_left_over_keeps_its_name(tree):
  stacked = stack_lib.stack(tree, GROUPS)
  assert stacked.keys() == {
      'xattn_groups', 'xattn_2', 'lm', 'vision', 'new_embedding'}
  assert stacked['lm'].keys() == {'embed', 'groups', 'layer_0', 'layer_5'}
  assert stacked['lm']['groups'].keys() == {'layer_0', 'layer_1'}
  came = stacked['lm']['groups']['layer_1']['attn']['key']['kernel']
  for g, i in enumerate((2, 4)):
    np.testing.assert_array_equal(
        came[g], tree['lm'][f'layer_{i}']['attn']['key']['kernel'])
  _same(stacked['vision'], tree['vision'])
  assert params_lib.count(stacked) == params_lib.count(tree)


def test_what_is_trained_is_so_under_either_name(tree):
  trainable, frozen = params_lib.split(tree)
  _same(
      params_lib.split(stack_lib.stack(tree, GROUPS)),
      (stack_lib.stack(trainable, GROUPS), stack_lib.stack(frozen, GROUPS)))


@pytest.mark.parametrize('array', [np.asarray, jnp.asarray])
def test_unstack_is_the_inverse_of_stack_bit_for_bit(tree, array):
  tree = jax.tree.map(array, tree)
  stacked = stack_lib.stack(tree, GROUPS)
  _same(stack_lib.unstack(stacked), tree)
  for part in params_lib.split(tree):
    _same(stack_lib.unstack(stack_lib.stack(part, GROUPS)), part)
  # What has been done is not done again.
  _same(stack_lib.stack(stacked, GROUPS), stacked)
  _same(stack_lib.unstack(tree), tree)
  _same(stack_lib.stack(tree, None), tree)


def test_shapes_are_stacked_as_arrays_are(tree):
  shapes = jax.eval_shape(lambda: tree)
  stacked = stack_lib.stack(shapes, GROUPS)
  _same_shapes = lambda one, other: params_lib.check_same(one, other, 'tree')
  _same_shapes(stacked, jax.eval_shape(lambda: stack_lib.stack(tree, GROUPS)))
  _same_shapes(stack_lib.unstack(stacked), shapes)


def test_a_whole_state_is_stacked_with_its_optimizer(tree):
  trainable, frozen = params_lib.split(jax.tree.map(jnp.asarray, tree))
  optimizer = optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b1=0.5))

  def state(trainable, frozen):
    moments = optimizer.init(trainable)
    _, moments = optimizer.update(trainable, moments, trainable)
    return TrainState(
        step=jnp.int32(3), trainable=trainable, frozen=frozen,
        opt_state=moments)

  unrolled = state(trainable, frozen)
  stacked = stack_lib.stack(unrolled, GROUPS)
  assert stacked.opt_state[1][0].mu['xattn_groups']['attn_gate'].shape == (2,)
  # As if it had been stacked from the beginning.
  began = state(*(stack_lib.stack(x, GROUPS) for x in (trainable, frozen)))
  assert jax.tree.structure(stacked) == jax.tree.structure(began)
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), stacked, began)
  _same(stack_lib.unstack(stacked), unrolled)


def test_groups_are_found_by_their_names(tree):
  trainable, frozen = params_lib.split(tree)
  assert stack_lib.groups_in(tree) is None
  assert stack_lib.groups_in(stack_lib.stack(tree, GROUPS)) == GROUPS
  assert stack_lib.groups_in(stack_lib.stack(frozen, GROUPS)) == GROUPS
  assert stack_lib.groups_in(stack_lib.stack(trainable, GROUPS)).count == 2


def test_a_tree_is_laid_out_like_another(tree):
  for part in (tree, *params_lib.split(tree)):
    stacked = stack_lib.stack(part, GROUPS)
    _same(stack_lib.like(part, stacked), stacked)
    _same(stack_lib.like(stacked, part), part)
    _same(stack_lib.like(stack_lib.stack(part, Groups(1, 2, 1)), stacked),
          stacked)
    assert stack_lib.like(stacked, jax.eval_shape(dict, stacked)) is stacked


def test_each_device_stacks_its_own_shares(tree):
  mesh = Mesh(np.asarray(jax.devices()[:2]), ('fsdp',))
  over = lambda *spec: NamedSharding(mesh, PartitionSpec(*spec))
  block = {'kernel': jax.device_put(np.arange(24.0).reshape(4, 6), over(
      None, 'fsdp'))}
  tree = {'xattn_0': block, 'xattn_1': block}
  shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      tree)
  stacked = stack_lib.stack(tree, GROUPS)
  assert stacked['xattn_groups']['kernel'].sharding.spec == over(
      None, None, 'fsdp').spec
  abstract = stack_lib.stack(shapes, GROUPS)['xattn_groups']['kernel']
  assert abstract.sharding == stacked['xattn_groups']['kernel'].sharding
  back = stack_lib.unstack(stacked)
  _same(back, tree)
  for leaf in back['xattn_1']['kernel'], stack_lib.unstack(
      {'xattn_groups': {'kernel': abstract}})['xattn_1']['kernel']:
    assert leaf.sharding == block['kernel'].sharding


def test_a_missing_group_is_named(tree):
  del tree['lm']['layer_3']
  with pytest.raises(ValueError, match='2 groups .* no layer_3. .* layer_1 to'):
    stack_lib.stack(tree, GROUPS)
