"""A plan counts what is there, and says what to change where it doesn't fit."""

import json
import subprocess
import sys

from experiments.configs import flamingo
from experiments.plan import memory as memory_lib
from experiments.plan import report, roofline, shapes, suggest, table
from experiments.plan import target as target_lib
from experiments.plan.hlo import Collective
from jax.sharding import AbstractMesh, AxisType
import jax
import numpy as np
import pytest


def tiny_config():
  """Small enough to compile in seconds; not one part is missing."""
  config = flamingo.get_config('3b').unlock()
  config.lm.update(
      vocab_size=64, width=16, layers=5, heads=4, kv_heads=4, head_dim=4,
      hidden=32)
  config.model.every = 2
  config.resampler.update(
      width=8, layers=1, latents=3, heads=2, head_dim=4, frames=2)
  config.xattn.update(heads=4, head_dim=4, ff_hidden=32)
  config.visual.update(given='features', places=5, width=7)
  for name, rows in ('m3w', 4), ('align', 8), ('ltip', 8), ('vtp', 4):
    config.mixture[name].update(batch_size=rows, length=6)
  config.mixture.vtp.frames = 2
  return config


def mesh_of(data=1, fsdp=1, tensor=1):
  return AbstractMesh(
      (data, fsdp, tensor), ('data', 'fsdp', 'tensor'),
      axis_types=(AxisType.Auto,) * 3)


@pytest.fixture(scope='module')
def small():
  return shapes.step_of(tiny_config(), 'tpu')


@pytest.fixture(scope='module')
def large():
  config = flamingo.get_config('3b')
  config.visual.given = 'features'  # the encoder takes seconds to trace
  return shapes.step_of(config, 'tpu')


# Counts.


@pytest.mark.parametrize('size, frozen, blocks', [
    ('3b', 1.27e9, 1.158e9), ('9b', 6.57e9, 1.443e9), ('80b', 64.7e9, 8.36e9)])
def test_the_papers_sizes_are_counted(size, frozen, blocks):
  """Table 5, less what configs/flamingo.py says is counted otherwise."""
  config = flamingo.get_config(size)
  config.visual.given = 'features'  # the encoder takes seconds to trace
  counted = report.counts(shapes.step_of(config, 'tpu').state)
  assert counted['language model (frozen)'] == pytest.approx(frozen, rel=5e-3)
  assert counted['gated cross-attention'] == pytest.approx(blocks, rel=5e-3)
  assert counted['resampler'] == pytest.approx(193.6e6, abs=5e4)
  assert counted['new tokens'] == 2 * config.lm.width


def test_a_step_reads_the_papers_shapes():
  """F-v1: [N=5, T=1, 320, 320, 3] and 256 tokens; T=8 for clips."""
  config = flamingo.get_config('3b')
  read = {
      name: shapes.batch_of(section, name, config)
      for name, section in config.mixture.items()}
  assert read['m3w'].images.shape == (256, 5, 1, 320, 320, 3)
  assert read['m3w'].tokens.shape == (256, 256)
  assert read['ltip'].images.shape == (512, 1, 1, 320, 320, 3)
  assert read['vtp'].images.shape == (64, 1, 8, 320, 320, 3)
  assert {s.weight for s in config.mixture.values()} == {1.0, 0.2, 0.03}


def test_nfnet_f6_is_the_encoder():
  model = shapes.model_of(flamingo.get_config('3b'), 'tpu')
  assert model.vision.depths == (7, 14, 42, 21)
  assert model.vision.width == 3072


def test_frozen_parameters_are_in_half_precision_and_trained_ones_are_not(
    small
):
  dtypes = lambda tree: {leaf.dtype.name for leaf in jax.tree.leaves(tree)}
  assert dtypes(small.state.frozen) == {'bfloat16'}
  assert dtypes(small.state.trainable) == {'float32'}


def test_layers_are_scanned_on_accelerators_alone():
  config = tiny_config()
  assert shapes.model_of(config, 'tpu').scan
  assert shapes.model_of(config, 'gpu').scan
  assert not shapes.model_of(config, 'cpu').scan


# Bytes.


def test_what_is_always_held_is_split_as_the_table_says(small):
  whole = memory_lib.estimate(small, mesh_of()).always
  split = memory_lib.estimate(small, mesh_of(data=2, tensor=2)).always
  half = split['language model (frozen)'] / whole['language model (frozen)']
  assert 0.5 < half < 0.6  # norms are whole on each device
  assert split['batch'] == whole['batch'] / 2


def test_moments_are_split_over_all_devices(large):
  held = memory_lib.estimate(large, mesh_of(data=8, tensor=2)).always
  trained = sum(leaf.size for leaf in jax.tree.leaves(large.state.trainable))
  assert held['moments'] == pytest.approx(2 * 4 * trained / 16, rel=0.01)


def test_one_device_holds_what_there_is(small):
  held = memory_lib.estimate(small, mesh_of()).always
  count = lambda tree, size: size * sum(
      leaf.size for leaf in jax.tree.leaves(tree))
  assert held['language model (frozen)'] == count(small.state.frozen, 2)
  assert held['trained parameters'] == count(small.state.trainable, 4)
  moments = 2 * held['trained parameters']
  assert held['moments'] == pytest.approx(moments, abs=16)  # and a count


def test_less_is_kept_the_more_is_recomputed(small):
  kept = [
      memory_lib.estimate(small.rematerialised(remat), mesh_of()).within[
          'activations kept'] for remat in ('none', 'dots', 'full')]
  assert kept[0] > kept[1] > kept[2] > 0


def test_micro_batches_need_less_for_activations_and_more_for_gradients(small):
  once, twice = (
      memory_lib.estimate(small.in_parts(k), mesh_of()).within for k in (1, 2))
  assert twice['activations kept'] < once['activations kept'] / 2
  assert twice['gradients'] == 2 * once['gradients']


def test_a_prompts_keys_and_values_are_split_over_heads(small):
  lm = small.model.lm
  whole = memory_lib.cache_bytes(small, mesh_of(), 11)
  assert whole == 2 * 11 * lm.layers * lm.kv_heads * lm.head_dim * 2
  assert memory_lib.cache_bytes(small, mesh_of(tensor=2), 11) == whole / 2
  assert memory_lib.cache_bytes(small, mesh_of(tensor=8), 11) == whole


# What to change.


def test_suggestions_fit_and_are_flags(small):
  sizes = dict(data=8, fsdp=1, tensor=1)
  needed = memory_lib.estimate(small, mesh_of(data=8)).total
  lines = suggest.changes(small, sizes, 0.9 * needed)
  assert lines and all('--config.' in line for line in lines)
  flags = dict(
      flag.removeprefix('--config.').split('=')
      for flag in lines[0].split() if flag.startswith('--'))
  assert set(flags) <= {
      'mesh.tensor', 'mesh.fsdp', 'model.remat', 'step.micro_batches'}
  tensor = int(flags.get('mesh.tensor', 1))
  fsdp = int(flags.get('mesh.fsdp', 1))
  other = small.in_parts(int(flags.get('step.micro_batches', 1)))
  changed = memory_lib.estimate(
      other, mesh_of(8 // tensor // fsdp, fsdp, tensor))
  assert changed.total <= 0.9 * needed


def test_where_nothing_helps_more_chips_are_asked_for(small):
  line, = suggest.changes(small, dict(data=1, fsdp=1, tensor=1), 1000)
  assert 'more chips' in line


# Targets.


@pytest.mark.parametrize('name, devices, shape', [
    ('v5p:8x8x16', 1024, (8, 8, 16)), ('v5e:16x16', 256, (16, 16)),
    ('h100:64', 64, (8, 8)), ('h100:4', 4, (1, 4)), ('v4:8x12x16', 1536, None)])
def test_targets_are_read(name, devices, shape):
  target = target_lib.parse(name)
  assert target.devices == devices
  assert shape is None or target.shape == shape


@pytest.mark.parametrize('name, message', [
    ('v5q:8x8x16', "no chip 'v5q'. Did you mean 'v5p'"),
    ('b200:8', r'v5p:8x8x16, v5e:16x16 or h100:64'),
    ('v5p:16x16', 'torus of 3 dimensions, as in v5p:4x4x4'),
    ('v5e', 'torus of 2 dimensions, as in v5e:4x4'),
    ('v5e:16x32', 'a pod of v5e has 256 chips'),
    ('h100:12', 'nodes of 8'),
    ('h100:0', 'how many GPUs'),
    ('h100:8x8', 'how many GPUs')])
def test_an_unknown_target_is_refused_with_what_there_is(name, message):
  with pytest.raises(ValueError, match=message):
    target_lib.parse(name)


def test_a_mesh_that_is_not_the_targets_is_refused():
  target = target_lib.parse('h100:16')
  sizes = dict(data=-1, fsdp=1, tensor=4)
  assert report.mesh_sizes(sizes, target)['data'] == 4
  with pytest.raises(ValueError, match='h100:16 has 16 devices'):
    report.mesh_sizes(dict(sizes, tensor=3), target)


def test_what_is_planned_for_a_target_gives_way_to_what_is_asked_for():
  config = tiny_config()
  config.targets = {'h100:8': {'tensor': 4, 'micro_batches': 2}}
  planned = report.for_target(config, 'h100:8')
  assert (planned.mesh.tensor, planned.step.micro_batches) == (4, 2)
  assert report.for_target(config, 'h100:16').mesh.tensor == 1
  config.mesh.tensor = 2
  assert report.for_target(config, 'h100:8').mesh.tensor == 2


@pytest.mark.parametrize('size', flamingo.SIZES)
def test_every_planned_target_exists_and_shares_all_rows_evenly(size):
  config = flamingo.get_config(size)
  for name in config.targets:
    planned = report.for_target(config, name)
    sizes = report.mesh_sizes(dict(planned.mesh), target_lib.parse(name))
    assert config.lm.heads % sizes['tensor'] == 0
    for dataset in planned.mixture.values():
      rows = dataset.batch_size * planned.batch_scale
      parts = sizes['data'] * sizes['fsdp'] * planned.step.micro_batches
      assert rows % parts == 0, (name, dataset)


def test_a_missing_compiler_is_named_with_how_to_install_it():
  with pytest.raises(RuntimeError, match=r"pip install -e '\.\[plan\]'"):
    target_lib._need('no_such_compiler', 'of TPUs')


# The bound.


def gpu_mesh(nodes):
  return mesh_of(data=8 * nodes)


def test_links_are_as_fast_as_what_a_group_spans():
  target = target_lib.parse('h100:16')
  chip, mesh = target.chip, gpu_mesh(2)
  inside = roofline.speed(target, mesh, range(8))
  assert inside == chip.link * chip.links
  # Two of each node: each ring has a network card of its own.
  assert roofline.speed(target, mesh, (0, 1, 8, 9)) == 2 * chip.outside
  assert roofline.speed(target, mesh, (0, 8)) == chip.outside
  assert roofline.speed(target, mesh, range(16)) <= inside


class Torus:
  """A mesh of chips that stand in order."""

  def __init__(self, *shape):
    self.devices = np.asarray([
        type('Chip', (), {'coords': coords})()
        for coords in np.ndindex(*shape)], object)


def test_a_whole_axis_of_a_torus_is_closed():
  target = target_lib.parse('v5p:4x4x8')
  torus, link = Torus(4, 4, 8), target.chip.link
  assert roofline.speed(target, torus, range(8)) == 2 * link
  assert roofline.speed(target, torus, range(4)) == link  # half an axis
  assert roofline.speed(target, torus, range(32)) == 4 * link  # two of them


def test_the_largest_of_three_is_the_bound(small):
  target = target_lib.parse('h100:4')
  flops = {'language model': roofline.Flops(8e15, 16e15)}
  memory = memory_lib.estimate(small, mesh_of(data=4))
  sent = Collective('collective-permute', 3, int(4.5e9), (0, 1))
  bound = roofline.bound(
      target, mesh_of(data=4), small, flops, memory, [sent])
  assert bound.network == pytest.approx(3 * 4.5e9 / 450e9)
  # The forward pass runs twice, but is not counted twice in an MFU.
  assert bound.compute == pytest.approx(32e15 / 4 / 989.4e12)
  assert bound.seconds == bound.compute and bound.limit == 'compute'
  assert bound.mfu(bound.compute) == pytest.approx(24 / 32)
  assert bound.seconds_in_turn == (
      bound.compute + bound.memory + bound.network)
  unknown = roofline.bound(
      target, mesh_of(data=4), small, flops, memory, None)
  assert unknown.network is None


def test_rows_that_all_devices_read_cost_each_of_them(small):
  assert roofline._uneven(small, mesh_of(data=4)) == 1
  assert roofline._uneven(small, mesh_of(data=8)) > 1


# The program.


def plan(tmp_path, config, *flags):
  path = tmp_path / 'tiny.py'
  path.write_text(
      'import sys\n'
      f'sys.path.insert(0, {str(tmp_path)!r})\n'
      'from ml_collections import ConfigDict\n'
      f'def get_config():\n  return ConfigDict({config.to_dict()!r})\n')
  return subprocess.run(
      [sys.executable, '-m', 'experiments.plan', f'--config={path}',
       f'--json={tmp_path}/plan.json', *flags],
      capture_output=True, text=True)


def test_the_step_is_compiled_here(tmp_path):
  done = plan(tmp_path, tiny_config(), '--target=here', '--compile')
  assert done.returncode == 0, done.stderr
  result = json.loads((tmp_path / 'plan.json').read_text())
  assert result['fits'] and result['compiled']['temporaries'] > 0
  always = sum(result['bytes']['always'].values())
  assert result['compiled']['arguments'] == pytest.approx(always, rel=0.05)
  assert 'It fits' in done.stdout or 'it fits' in done.stdout
  assert sum(result['parameters'].values()) == sum(
      int(np.prod(row['shape'])) * row['count'] for row in result['table'])


def test_plans_stand_side_by_side(tmp_path):
  paths = []
  for name, flag in ('once', '1'), ('in_parts', '2'):
    folder = tmp_path / name
    folder.mkdir()
    done = plan(
        folder, tiny_config(), '--target=h100:4',
        f'--config.step.micro_batches={flag}')
    assert done.returncode == 0, done.stderr
    paths.append(folder / 'plan.json')
  out = table.table([json.loads(path.read_text()) for path in paths])
  header, rule, once, in_parts = out.splitlines()
  assert {line.count('|') for line in out.splitlines()} == {
      len(table.COLUMNS) + 1}
  assert 'h100:4' in once and 'not compiled' in once
  assert '4 x 1 x 1, 2 parts' in in_parts


def test_what_does_not_fit_is_said_with_what_to_change(tmp_path):
  config = flamingo.get_config('80b').unlock()
  config.visual.given = 'features'
  config.targets = {}
  done = plan(tmp_path, config, '--target=v5p:8x8x16')
  assert done.returncode == 0, done.stderr
  assert 'does NOT fit' in done.stdout
  assert '--config.mesh.' in done.stdout


def test_an_unknown_target_is_an_error_of_usage(tmp_path):
  done = plan(tmp_path, tiny_config(), '--target=v5q:8x8')
  assert done.returncode != 0 and "Did you mean 'v5p'?" in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.skipif(
    not target_lib.installed('libtpu'), reason='needs the extra `plan`')
def test_a_tpu_step_is_compiled_without_a_tpu(tmp_path):
  done = plan(
      tmp_path, tiny_config(), '--target=v5e:2x2', '--config.mesh.tensor=2',
      '--compile')
  assert done.returncode == 0, done.stderr
  result = json.loads((tmp_path / 'plan.json').read_text())
  assert result['fits'] and result['compiled']['collectives']
