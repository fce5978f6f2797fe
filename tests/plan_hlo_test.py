"""Collectives are counted as often as they run, in any compiler's notation."""

import json
import subprocess
import sys
import textwrap

from experiments.plan import hlo
from experiments.plan.hlo import Collective
import pytest


def module(*lines, extra=''):
  body = '\n'.join('  ' + line for line in lines)
  return (
      'HloModule jit_f, num_partitions=8\n\n' + textwrap.dedent(extra)
      + f'\nENTRY %main.1_spmd (p: f32[4]) -> f32[4] {{\n{body}\n}}\n')


def one(line, devices=8):
  found, = hlo.collectives(module(line), devices)
  return found


@pytest.mark.parametrize('groups, expected', [
    ('{{0,2},{1,3}}', (0, 2)),
    ('{}', tuple(range(8))),
    ('[2,4]<=[8]', (0, 1, 2, 3)),
    ('[2,4]<=[4,2]T(1,0)', (0, 2, 4, 6)),
    ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", (0, 1)),
    ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", (0, 2, 4, 6)),
    ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5)),
    ("mesh['a'=8] {'a':(1)2}", (0, 4)),
    ("mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3)),
])
def test_every_notation_of_groups_is_read(groups, expected):
  found = one(
      '%a = f32[6]{0} all-reduce(%x), channel_id=1, '
      f'replica_groups={groups}, use_global_device_ids=true, to_apply=%add')
  assert found.group == expected


GROUPS = 'replica_groups=[2,4]<=[8], use_global_device_ids=true'


@pytest.mark.parametrize('line, kind, size, sent', [
    ('%a = bf16[8,3]{1,0:T(8,128)(2,1)} all-gather(%x), ' + GROUPS,
     'all-gather', 48, 36),
    ('%a = (bf16[2,3]{1,0}, bf16[8,3]{1,0}) all-gather-start(%x), ' + GROUPS,
     'all-gather', 48, 36),
    ('%a = ((f32[2], s8[4]), (f32[8], s8[16])) all-gather-start(%x, %y), '
     + GROUPS, 'all-gather', 48, 36),
    ('%a = f32[12]{0} all-reduce(%x), to_apply=%add, ' + GROUPS,
     'all-reduce', 48, 72),
    ('%a = (f32[4]{0}, f32[8]{0}) all-reduce-start(%x, %y), ' + GROUPS,
     'all-reduce', 48, 72),
    ('%a = f32[3]{0} reduce-scatter(%x), dimensions={0}, ' + GROUPS,
     'reduce-scatter', 48, 36),
    ('%a = ((f32[12]), f32[3]) reduce-scatter-start(%x), ' + GROUPS,
     'reduce-scatter', 48, 36),
    ('%a = (f32[3], f32[3], f32[3], f32[3]) all-to-all(%w, %x, %y, %z), '
     + GROUPS, 'all-to-all', 48, 36),
    ('ROOT %a = f32[12]{0} collective-permute(%x), '
     'source_target_pairs={{0,1},{1,0}}', 'collective-permute', 48, 48),
])
def test_what_is_sent_is_that_of_rings(line, kind, size, sent):
  found = one(line)
  assert (found.kind, found.bytes, found.times) == (kind, size, 1)
  assert found.sent == pytest.approx(sent)


def test_the_end_of_a_collective_is_no_second_one():
  assert hlo.collectives(
      module('%b = bf16[8,3]{1,0} all-gather-done(%a)'), 8) == []


def test_a_group_of_one_sends_nothing():
  assert hlo.collectives(module(
      '%a = f32[6] all-reduce(%x), replica_groups=[8,1]<=[8]'), 8) == []


LOOPS = """
    %inner (p: f32[4]) -> f32[4] {
      %g = f32[8]{0} all-gather(%p), replica_groups=[4,2]<=[8]
    }

    %outer (p: (s32[], f32[4])) -> (s32[], f32[4]) {
      %w = (s32[], f32[4]) while(%t), condition=%c, body=%inner, metadata={}
      %q = f32[4] fusion(%w), kind=kLoop, calls=%fused
    }

    %fused (p: f32[4]) -> f32[4] {
      %r = f32[4] all-reduce(%p), replica_groups=[4,2]<=[8], to_apply=%add
    }

    %c (p: (s32[], f32[4])) -> pred[] {
      %n = s32[]{:T(128)} constant(5)
      %i = s32[] get-tuple-element(%p), index=0
      ROOT %lt = pred[] compare(%i, %n), direction=LT
    }
"""
OUTER = (
    '%w = (s32[], f32[4]) while(%t), condition=%d, body=%outer, '
    'backend_config={"known_trip_count":{"n":"3"},"other":{}}')


def test_loops_multiply():
  found = hlo.collectives(module(OUTER, extra=LOOPS), 8)
  assert {(c.kind, c.times) for c in found} == {
      ('all-gather', 15), ('all-reduce', 3)}


def test_a_loop_of_unknown_length_is_not_guessed_at():
  unknown = OUTER.replace('known_trip_count', 'something')
  with pytest.raises(ValueError, match='how often it runs'):
    hlo.collectives(module(unknown, extra=LOOPS), 8)


def test_a_sum_that_is_sliced_at_once_is_a_reduce_scatter():
  extra = """
      %all-reduce-scatter.clone.1 (p: f32[12]) -> f32[3] {
        %r = f32[12] all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
      }
  """
  found, = hlo.collectives(module(
      '%f = f32[3] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.clone.1',
      extra=extra), 8)
  assert (found.kind, found.sent) == ('reduce-scatter', 36)


def test_a_gather_that_is_spread_over_fusions_is_one():
  gather = (
      '%g = f32[8] all-gather(%p), channel_id=10, '
      'replica_groups=[2,4]<=[8], frontend_attributes={chain_id="0"}')
  extra = f"""
      %start (p: f32[2]) -> f32[8] {{
        {gather}
      }}

      %end (p: f32[2]) -> f32[8] {{
        {gather.replace('%g', '%h')}
      }}
  """
  found = hlo.collectives(module(
      '%a = f32[8] fusion(%x), kind=kOutput, calls=%start',
      '%b = f32[8] fusion(%a), kind=kOutput, calls=%end', extra=extra), 8)
  assert [c.sent for c in found] == [24]


def test_other_text_is_refused():
  with pytest.raises(ValueError, match='no ENTRY'):
    hlo.collectives('HloModule nothing', 8)


PROGRAM = """
    import json
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from experiments.plan import hlo

    jax.config.update('jax_num_cpu_devices', 8)
    mesh = jax.make_mesh(
        (4, 2), ('rows', 'columns'), axis_types=(AxisType.Auto,) * 2)
    shaped = lambda shape, *spec: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

    def loss(weights, x):
      body = lambda x, w: (jnp.tanh(x @ w[0]) @ w[1], None)
      return jax.lax.scan(body, x, weights)[0].sum()

    weights = (
        shaped((5, 16, 32), None, None, 'columns'),
        shaped((5, 32, 16), None, 'columns', None))
    compiled = jax.jit(jax.grad(loss)).lower(
        weights, shaped((24, 16), 'rows')).compile()
    print(json.dumps([
        (c.kind, c.times, c.bytes, c.group)
        for c in hlo.collectives(compiled.as_text(), 8)]))
"""


def test_a_compiled_loop_over_layers_sends_what_megatron_says():
  """A sum over the halves of a layer forward, and one over rows for weights."""
  out = subprocess.run(
      [sys.executable, '-c', textwrap.dedent(PROGRAM)], check=True,
      capture_output=True, text=True).stdout
  found = [Collective(*c[:3], tuple(c[3])) for c in json.loads(out)]
  columns = [c for c in found if c.group == (0, 1)]
  rows = [c for c in found if c.group == (0, 2, 4, 6)]
  assert len(columns) + len(rows) == len(found)
  assert {c.kind for c in found} == {'all-reduce'}
  # Six rows of width 16 in float32, in each of five layers; forward, and
  # backward but for the first layer's input, which none asks for.
  assert {c.bytes for c in columns} == {6 * 16 * 4}
  assert 5 <= sum(c.times for c in columns) <= 10
  # Each device holds half of both weights of a layer, and sums their gradients.
  assert sum(c.times * c.bytes for c in rows) == 5 * 2 * 16 * 16 * 4
