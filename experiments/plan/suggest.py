"""What to change so that a step fits."""

from collections.abc import Iterator, Mapping

from jax.sharding import AbstractMesh, AxisType

from experiments.plan import memory as memory_lib
from experiments.plan.shapes import Step
from flamingo.sharding.mesh import AXES


def changes(
    step: Step, sizes: Mapping[str, int], limit: float, most: int = 4
) -> list[str]:
  """Settings with which the estimate fits, the least change first.

  Args:
    step: that doesn't fit.
    sizes: of its mesh.
    limit: bytes on a device.
    most: number of settings.

  Returns:
    Each as flags for the command line; if nothing helps, one line that says so.
  """
  found = []
  for flags, other, mesh in _settings(step, sizes):
    total = memory_lib.estimate(other, mesh).total
    if flags and total <= limit:
      found.append(
          f"  {' '.join(flags)} would fit ({total / 1e9:.1f} GB estimated)")
    if len(found) == most:
      return found
  return found or [
      '  No splitting, micro-batches or recomputation would make it fit: take '
      'more chips, or chips with more memory.']


def _settings(
    step: Step, sizes: Mapping[str, int]
) -> Iterator[tuple[list[str], Step, AbstractMesh]]:
  """Settings, those that cost the least time first."""
  devices = sizes['data'] * sizes['fsdp'] * sizes['tensor']
  heads = step.model.lm.heads
  tensors = [
      n for n in (1, 2, 4, 8, 16, 32, 64)
      if devices % n == 0 and heads % n == 0 and n >= sizes['tensor']]
  remats = [step.model.remat]
  if step.model.remat != 'full':
    remats.append('full')
  fewest = min(b.tokens.shape[0] for b in step.batches.values())
  for tensor in tensors:
    for fsdp in _doubled(sizes['fsdp'], devices // tensor):
      data = devices // tensor // fsdp
      if data * fsdp * tensor != devices:
        continue
      mesh = AbstractMesh(
          (data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))
      for remat in remats:
        for parts in _doubled(step.micro_batches, 64):
          if fewest % (parts * data * fsdp) and parts > 1:
            continue
          flags = [
              f'--config.{name}={new}' for name, new, old in (
                  ('mesh.tensor', tensor, sizes['tensor']),
                  ('mesh.fsdp', fsdp, sizes['fsdp']),
                  ('model.remat', remat, step.model.remat),
                  ('step.micro_batches', parts, step.micro_batches))
              if new != old]
          yield flags, step.rematerialised(remat).in_parts(parts), mesh


def _doubled(first: int, most: int) -> Iterator[int]:
  while first <= most:
    yield first
    first *= 2
