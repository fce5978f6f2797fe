"""The table that says how parameters are split, on meshes of no devices."""

from flamingo import params as params_lib
from flamingo import sharding
from flamingo.sharding import rules
from flamingo.train.optimizer import make_optimizer
from flamingo.types import TrainState
import jax
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
import jax.numpy as jnp
import pytest


def mesh(data=1, fsdp=1, tensor=1):
  return AbstractMesh((data, fsdp, tensor), ('data', 'fsdp', 'tensor'))


def spec(path, shape, **sizes):
  return sharding.spec_of(tuple(path.split('/')), shape, mesh(**sizes))


@pytest.fixture
def nothing_is_small(monkeypatch):
  monkeypatch.setattr(rules, 'SMALL', 2)


@pytest.mark.parametrize('path, shape, expected', [
    # By column: what makes heads and hidden units. By row: what reads them.
    ('lm/layer_7/attn/query/kernel', (10, 6, 4), P('fsdp', 'tensor')),
    ('lm/layer_7/attn/value/kernel', (10, 3, 4), P('fsdp', 'tensor')),
    ('lm/layer_7/attn/out/kernel', (6, 4, 10), P('tensor', None, 'fsdp')),
    ('lm/layer_7/mlp/gate/kernel', (10, 9), P('fsdp', 'tensor')),
    ('lm/layer_7/mlp/up/kernel', (10, 9), P('fsdp', 'tensor')),
    ('lm/layer_7/mlp/down/kernel', (9, 10), P('tensor', 'fsdp')),
    ('lm/embed/embedding', (9, 10), P('tensor', 'fsdp')),
    ('lm/unembed/kernel', (10, 9), P('fsdp', 'tensor')),
    ('xattn_4/query/kernel', (10, 6, 4), P('fsdp', 'tensor')),
    ('xattn_4/key/kernel', (8, 6, 4), P('fsdp', 'tensor')),
    ('xattn_4/out/kernel', (6, 4, 10), P('tensor', None, 'fsdp')),
    ('xattn_4/ff/up/kernel', (10, 9), P('fsdp', 'tensor')),
    ('xattn_4/ff/down/kernel', (9, 10), P('tensor', 'fsdp')),
    # Whole on each device.
    ('lm/layer_7/attn/query/bias', (6, 4), P()),
    ('lm/layer_7/attn/norm_query/scale', (6,), P()),
    ('lm/final_norm/scale', (6,), P()),
    ('xattn_4/attn_gate', (), P()),
    ('xattn_4/ff_gate', (6,), P()),
    ('new_embedding', (6, 6), P()),
    ('new_unembedding', (6, 6), P()),
    ('whitening/kernel', (6, 6), P()),
    # By size.
    ('vision/layer_0/attn/query/kernel', (12, 6, 4), P('fsdp')),
    ('resampler/layer_0/ff/up/kernel', (10, 12), P(None, 'fsdp')),
    ('resampler/latent', (5, 7), P()),
    ('lm/position/embedding', (9, 10), P(None, 'fsdp')),
])
def test_each_parameter_has_its_rule(nothing_is_small, path, shape, expected):
  assert spec(path, shape, fsdp=2, tensor=3) == expected


def test_stacked_layers_are_split_as_single_ones_are(nothing_is_small):
  for single, stacked, shape in (
      ('lm/layer_7/attn/out/kernel', 'lm/groups/layer_1/attn/out/kernel',
       (6, 4, 10)),
      ('xattn_0/ff/up/kernel', 'xattn_groups/ff/up/kernel', (10, 9)),
      ('xattn_0/attn_gate', 'xattn_groups/attn_gate', ())):
    one = spec(single, shape, fsdp=2, tensor=3)
    many = spec(stacked, (6,) + shape, fsdp=2, tensor=3)
    assert many == (P(None, *one) if one else P())


@pytest.mark.parametrize('path, shape, expected', [
    # Key heads that tensor doesn't divide stay whole, and are not cut in two.
    ('lm/layer_7/attn/key/kernel', (10, 2, 6), P('fsdp')),
    ('lm/layer_7/mlp/up/kernel', (10, 11), P('fsdp')),
    # A vocabulary that it doesn't divide is split along its rows' width.
    ('lm/embed/embedding', (10, 9), P('fsdp', 'tensor')),
    ('lm/embed/embedding', (7, 9), P(None, 'tensor')),
    ('lm/unembed/kernel', (9, 10), P('tensor', 'fsdp')),
    # What fsdp doesn't divide is split along another axis, if there is one.
    ('lm/layer_7/attn/query/kernel', (11, 6, 4), P(None, 'tensor', 'fsdp')),
    ('lm/layer_7/attn/query/kernel', (11, 6, 7), P(None, ('tensor', 'fsdp'))),
    ('lm/layer_7/attn/query/kernel', (11, 9, 7), P(None, 'tensor')),
    ('lm/layer_7/mlp/up/kernel', (11, 13), P()),
])
def test_what_a_mesh_does_not_divide_falls_back(path, shape, expected):
  assert spec(path, shape, fsdp=2, tensor=3) == expected


def test_axes_of_one_device_are_not_named():
  assert spec('lm/layer_0/mlp/up/kernel', (4, 4)) == P()
  assert spec('lm/layer_0/mlp/up/kernel', (4, 4), tensor=2) == P(None, 'tensor')
  assert spec('lm/layer_0/mlp/up/kernel', (4, 4), data=2) == P()


def test_small_parameters_are_not_worth_a_collective():
  path = 'resampler/layer_0/ff/up/kernel'
  assert spec(path, (512, 511), fsdp=2) == P()
  assert spec(path, (512, 512), fsdp=2) == P('fsdp')
  assert sharding.spread(P(), (512, 511), mesh(data=2)) == P()
  assert sharding.spread(P(), (512, 512), mesh(data=2)) == P('data')


@pytest.mark.parametrize('one, shape, expected', [
    (P('fsdp', 'tensor'), (12, 9), P(('fsdp', 'data'), 'tensor')),
    (P(), (10, 9), P('data', 'tensor')),  # 5 is left, which fsdp doesn't divide
    (P(), (8, 4, 3), P(('data', 'fsdp'), None, 'tensor')),
    (P(None, 'tensor'), (7, 9), P(None, 'tensor')),
    (P(), (), P()),
])
def test_moments_are_split_over_every_axis_that_divides_them(
    nothing_is_small, one, shape, expected
):
  assert sharding.spread(one, shape, mesh(2, 2, 3)) == expected


@pytest.fixture(scope='module')
def state():
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  trainable = {
      'xattn_0': {'ff': {'up': {'kernel': shape(12, 9)}}, 'ff_gate': shape()},
      'resampler': {'latent': shape(8, 6)}}
  return TrainState(
      step=jax.ShapeDtypeStruct((), jnp.int32), trainable=trainable,
      frozen={'lm': {'layer_0': {'mlp': {'up': {'kernel': shape(12, 9)}}}}},
      opt_state=jax.eval_shape(make_optimizer(steps=9).init, trainable))


def test_a_state_is_split_leaf_by_leaf(nothing_is_small, state):
  placed = sharding.state_shardings(state, mesh(2, 2, 3))
  assert jax.tree.structure(placed) == jax.tree.structure(state)
  specs = jax.tree.map(lambda one: one.spec, placed)
  up = {'up': {'kernel': P('fsdp', 'tensor')}}
  assert specs.frozen == {'lm': {'layer_0': {'mlp': up}}}
  assert specs.trainable == {
      'xattn_0': {'ff': up, 'ff_gate': P()},
      'resampler': {'latent': P('fsdp')}}
  moments = {
      'xattn_0': {'ff': {'up': {'kernel': P(('fsdp', 'data'), 'tensor')}},
                  'ff_gate': P()},
      'resampler': {'latent': P('fsdp', ('data', 'tensor'))}}
  adam = next(
      part for part in jax.tree.leaves(
          specs.opt_state, is_leaf=lambda x: hasattr(x, 'mu'))
      if hasattr(part, 'mu'))
  assert adam.mu == adam.nu == moments and adam.count == P()


def test_a_table_adds_up_to_what_a_device_holds():
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.bfloat16)
  layer = {
      'attn': {'query': {'kernel': shape(8, 6, 4)}},
      'attn_norm': {'scale': shape(8)}}
  rows = sharding.table(
      {'lm': {'layer_3': layer, 'layer_12': layer, 'final_norm': {
          'scale': jax.ShapeDtypeStruct((8,), jnp.float32)}}},
      mesh(fsdp=2, tensor=3))
  split = P('fsdp', 'tensor')
  assert [(row.path, row.count, row.spec, row.bytes) for row in rows] == [
      ('lm/layer_*/attn/query/kernel', 2, split, 2 * 192 * 2 // 6),
      ('lm/final_norm/scale', 1, P(), 8 * 4),
      ('lm/layer_*/attn_norm/scale', 2, P(), 2 * 8 * 2)]
  assert rows[0].rule == r'.*/(query|key|value)/kernel'
  assert rows[0].shape == (8, 6, 4) and rows[0].dtype == 'bfloat16'


def test_every_parameter_of_a_model_is_in_the_table(tiny):
  shapes = jax.eval_shape(lambda: tiny.params)
  rows = sharding.table(shapes, mesh(fsdp=2))
  assert sum(row.count for row in rows) == len(
      list(params_lib.flatten(shapes)))


def test_the_last_rule_is_for_what_no_other_knows():
  assert sharding.RULES[-1] == (r'.*', rules.BY_SIZE)
  assert rules.rule_of(('lm', 'something', 'new'))[0] == r'.*'
