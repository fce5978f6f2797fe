"""A plan as plain numbers, and as text for people."""

from collections.abc import Iterator, Mapping
import dataclasses
import math
from typing import Any

from jax.sharding import AbstractMesh, AxisType
import ml_collections

from experiments.plan import compile as compile_lib
from experiments.plan import memory as memory_lib
from experiments.plan import roofline
from experiments.plan import shapes
from experiments.plan import suggest
from experiments.plan import target as target_lib
from flamingo import params as params_lib
from flamingo import sharding
from flamingo.sharding.mesh import AXES
from flamingo.train import flops as flops_lib

# Left to the runtime, to buffers of collectives and to fragments.
USABLE = 0.94
SMALL = 1e6  # bytes of a row of the sharding table that is not worth a line
PROMPT = 2048  # tokens of the longest prompt: what the LM was trained for


def make(
    config: ml_collections.ConfigDict, target_name: str, compiling: bool
) -> dict[str, Any]:
  """The plan of a config on a target, in numbers that JSON knows."""
  target = target_lib.parse(target_name)
  config = for_target(config, target_name)
  step = shapes.step_of(config, target.chip.platform)
  sizes = mesh_sizes(dict(config.mesh), target)
  mesh = AbstractMesh(
      tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))
  flops = flops_lib.by_part(
      step.model, step.state.trainable, step.state.frozen, step.batches)
  memory = memory_lib.estimate(step, mesh)
  limit = target.chip.memory * USABLE
  compiled = None
  if compiling:
    mesh = sharding.make_mesh(
        *sizes.values(), devices=target_lib.devices_of(target))
    compiled = compile_lib.compile_step(step, mesh, target.chip.platform)
  bound = roofline.bound(
      target, mesh, step, flops, memory, compiled and compiled.collectives)
  total = memory.total if compiled is None else compiled.total
  left = limit - memory_lib.evaluation_bytes(step, mesh)
  cache = memory_lib.cache_bytes(step, mesh, PROMPT)
  return {
      'target': target_name, 'devices': target.devices,
      'chip': dataclasses.asdict(target.chip), 'mesh': sizes,
      'remat': step.model.remat, 'scanned': step.model.scan,
      'micro_batches': step.micro_batches, 'given': config.visual.given,
      'batches': {
          name: dict(
              rows=b.tokens.shape[0], tokens=b.tokens.shape[1],
              images=b.images.shape[1], frames=b.images.shape[2],
              weight=step.weights[name])
          for name, b in step.batches.items()},
      'parameters': counts(step.state),
      'flops': {name: f._asdict() for name, f in flops.items()},
      'bytes': {'always': memory.always, 'within': memory.within},
      'limit': limit, 'total': total, 'fits': total <= limit and (
          compiled is None or compiled.fits),
      'cache': {
          'tokens': PROMPT, 'bytes_a_row': cache,
          'rows': max(0, int(left // cache))},
      'table': [_row(row) for row in sharding.table(
          params_lib.merge(step.state.trainable, step.state.frozen), mesh)],
      'compiled': compiled and _compiled(compiled),
      'bound': {
          'compute': bound.compute, 'memory': bound.memory,
          'network': bound.network, 'limit': bound.limit,
          'seconds': bound.seconds, 'seconds_in_turn': bound.seconds_in_turn,
          'mfu': bound.mfu(bound.seconds),
          'mfu_in_turn': bound.mfu(bound.seconds_in_turn)},
      'suggestions': suggest.changes(step, sizes, limit),
  }


def for_target(
    config: ml_collections.ConfigDict, name: str
) -> ml_collections.ConfigDict:
  """The config with what it has planned for a target.

  What is not as it comes was asked for, and stays.
  """
  config = config.copy_and_resolve_references()
  planned = dict(config.targets.get(name, {})) if 'targets' in config else {}
  if dict(config.mesh) == dict(data=-1, fsdp=1, tensor=1):
    for axis in AXES:
      config.mesh[axis] = planned.get(axis, config.mesh[axis])
  if config.step.micro_batches == 1:
    config.step.micro_batches = planned.get('micro_batches', 1)
  if config.batch_scale == 1:
    config.batch_scale = float(planned.get('batch_scale', 1))
  return config


def mesh_sizes(asked: Mapping[str, int], target) -> dict[str, int]:
  """Sizes of the mesh, with what is left over in place of a -1."""
  sizes = {axis: asked[axis] for axis in AXES}
  given = math.prod(size for size in sizes.values() if size != -1)
  for axis, size in sizes.items():
    if size == -1 and target.devices % given == 0:
      sizes[axis] = target.devices // given
  if math.prod(sizes.values()) != target.devices:
    raise ValueError(
        f'config.mesh is {dict(asked)}, and {target.name} has '
        f'{target.devices} devices. Choose sizes whose product is that, or -1 '
        'for one of them.')
  return sizes


def counts(state) -> dict[str, int]:
  """Parameters by part."""
  trainable, frozen = state.trainable, state.frozen
  blocks = {k: v for k, v in trainable.items() if k.startswith('xattn')}
  named = {
      'language model (frozen)': frozen['lm'],
      'vision encoder (frozen)': frozen.get('vision', {}),
      'resampler': trainable['resampler'],
      'gated cross-attention': blocks,
      'new tokens': {
          k: v for k, v in trainable.items() if k.startswith('new_')},
  }
  return {
      name: params_lib.count(tree) for name, tree in named.items() if tree}


def _row(row) -> dict[str, Any]:
  return {
      'path': row.path, 'count': row.count, 'shape': list(row.shape),
      'dtype': row.dtype, 'spec': str(tuple(row.spec)), 'bytes': row.bytes}


def _compiled(compiled) -> dict[str, Any]:
  numbers = {
      name: getattr(compiled, name)
      for name in ('seconds', 'arguments', 'temporaries', 'total', 'limit')}
  by_kind = None
  if compiled.fits:
    by_kind = {}
    for c in compiled.collectives:
      kind = by_kind.setdefault(c.kind, dict(times=0, sent=0.0))
      kind['times'] += c.times
      kind['sent'] += c.sent
  return numbers | {'fits': compiled.fits, 'collectives': by_kind}


def text(plan: Mapping[str, Any]) -> str:
  """The plan for people."""
  return '\n'.join(_lines(plan))


def _lines(plan) -> Iterator[str]:
  chip, mesh = plan['chip'], plan['mesh']
  yield f"{plan['target']}: {plan['devices']} x {chip['name']}, " + ', '.join(
      f'{axis} {size}' for axis, size in mesh.items())
  yield (
      f"  {chip['flops'] / 1e12:.4g} TFLOP/s, {chip['memory'] / 1e9:.0f} GB at "
      f"{chip['bandwidth'] / 1e9:.4g} GB/s a chip ({chip['source']})")
  yield (
      f"  remat {plan['remat']}, layers "
      f"{'scanned' if plan['scanned'] else 'unrolled'}, "
      f"{plan['micro_batches']} micro-batch(es), given {plan['given']}")
  yield '\nOne update reads'
  for name, b in plan['batches'].items():
    yield (
        f"  {name:<12}{b['rows']:>6} rows of {b['tokens']} tokens and "
        f"{b['images']} x {b['frames']} pictures, weight {b['weight']:g}")
  yield '\nParameters, millions'
  yield from _numbers(plan['parameters'], 1e6)
  yield '\nFLOPs of a step, 1e12: forward and backward'
  for name, part in plan['flops'].items():
    yield (
        f"  {name:<36}{part['forward'] / 1e12:>12,.1f}"
        f"{part['backward'] / 1e12:>12,.1f}")
  yield '\nHow parameters are split, largest first; MB on a device'
  small = [row for row in plan['table'] if row['bytes'] < SMALL]
  for row in plan['table'][:-len(small) or None]:
    many = f"{row['count']} x " if row['count'] > 1 else ''
    yield (
        f"  {row['bytes'] / 1e6:>9,.1f}  {row['path']:<44} "
        f"{many}{row['dtype']}{row['shape']} {row['spec']}")
  if small:
    yield (
        f"  {sum(row['bytes'] for row in small) / 1e6:>9,.1f}  "
        f"{sum(row['count'] for row in small)} smaller ones (--json has them)")
  yield '\nBytes on a device, GB'
  yield from _numbers(plan['bytes']['always'] | plan['bytes']['within'], 1e9, 2)
  estimate = sum(plan['bytes']['always'].values()) + sum(
      plan['bytes']['within'].values())
  yield f"  {'estimated':<36}{estimate / 1e9:>12,.2f}"
  if plan['compiled']:
    yield f"  {'of the compiler':<36}{plan['total'] / 1e9:>12,.2f}"
  yield (
      f"  of {plan['limit'] / 1e9:.1f} that are free: it "
      f"{'fits.' if plan['fits'] else 'does NOT fit.'}")
  if not plan['fits']:
    yield from plan['suggestions']
  cache = plan['cache']
  yield (
      f"\nEvaluation: a row of {cache['tokens']} tokens has keys and values of "
      f"{cache['bytes_a_row'] / 1e9:.2f} GB on a device; "
      f"{cache['rows']} such rows fit beside the parameters.")
  yield from _compiled_lines(plan)


def _compiled_lines(plan) -> Iterator[str]:
  compiled, bound = plan['compiled'], plan['bound']
  if compiled:
    yield f"\nCompiled in {compiled['seconds']:.0f} s."
    for kind, of in (compiled['collectives'] or {}).items():
      yield (
          f"  {kind:<24}{of['times']:>7,} times, "
          f"{of['sent'] / 1e9:>9.2f} GB sent by each device")
  yield '\nA step takes at least, in seconds (see docs/scaling.md)'
  for name in ('compute', 'memory', 'network'):
    seconds = bound[name]
    yield f'  {name:<12}' + (
        'not known without --compile' if seconds is None else f'{seconds:.3f}')
  yield (
      f"  {bound['seconds']:.3f} if all is done at once (limited by "
      f"{bound['limit']}; MFU {bound['mfu']:.0%}), "
      f"{bound['seconds_in_turn']:.3f} if one after another "
      f"(MFU {bound['mfu_in_turn']:.0%})")


def _numbers(
    numbers: Mapping[str, float], unit: float, digits: int = 1
) -> Iterator[str]:
  for name, number in numbers.items():
    yield f'  {name:<36}{number / unit:>12,.{digits}f}'
