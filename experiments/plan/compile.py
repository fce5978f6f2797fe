"""The real training step, compiled for machines that need not be here."""

import contextlib
import dataclasses
import re
import time
from unittest import mock

import jax
from jax.sharding import Mesh, NamedSharding

from experiments.plan import hlo
from experiments.plan.shapes import Step
from flamingo import sharding
from flamingo.train import step as step_lib

_OVERFLOW = re.compile(
    r'Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm', re.IGNORECASE)
# Without a GPU, Triton's kernels can't be tried out, and untried ones may not
# exist for a shape: cuBLAS has one for each.
UNTUNED = {
    'gpu': {'xla_gpu_enable_triton_gemm': False, 'xla_gpu_autotune_level': 0}}
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of a step on one device.

  Attributes:
    seconds: that tracing and compiling took.
    arguments: bytes of state and batch.
    temporaries: bytes of everything that lives within a step.
    limit: bytes there are; None if the compiler doesn't know.
    collectives: in one update; None where it did not fit.
  """

  seconds: float
  arguments: int | None
  temporaries: int | None
  total: int
  limit: int | None
  collectives: list[hlo.Collective] | None

  @property
  def fits(self) -> bool:
    return self.collectives is not None


def compile_step(step: Step, mesh: Mesh, platform: str) -> Compiled:
  """Compiles an update on a mesh.

  Args:
    step: shapes.
    mesh: of devices that exist or not.
    platform: of these devices.
  """
  model = step.model.clone(activations=sharding.Activations(mesh))
  train_step = step_lib.make_train_step(
      model, step.optimizer, step.weights, shares=sharding.row_shards(mesh),
      **step.update)
  where = sharding.state_shardings(step.state, mesh)
  placed = lambda shapes, shardings: jax.tree.map(
      lambda leaf, at: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=at), shapes, shardings)
  state = placed(step.state, where)
  batches = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=_rows(leaf, mesh)),
      dict(step.batches))
  jitted = jax.jit(
      train_step, donate_argnums=0,
      out_shardings=(where, sharding.replicated(mesh)))
  began = time.monotonic()
  with _as_if_on(platform):
    lowered = jitted.trace(state, batches).lower(
        lowering_platforms=('cuda' if platform == 'gpu' else platform,))
  try:
    compiled = lowered.compile(compiler_options=UNTUNED.get(platform))
  except jax.errors.JaxRuntimeError as error:
    used = _OVERFLOW.search(str(error))
    if not used:
      raise
    return Compiled(
        seconds=time.monotonic() - began, arguments=None, temporaries=None,
        total=_bytes(used[1], used[2]), limit=_bytes(used[3], used[4]),
        collectives=None)
  seconds = time.monotonic() - began
  memory = compiled.memory_analysis()
  return Compiled(
      seconds=seconds, arguments=memory.argument_size_in_bytes,
      temporaries=memory.temp_size_in_bytes,
      total=(
          memory.argument_size_in_bytes + memory.temp_size_in_bytes
          + memory.output_size_in_bytes - memory.alias_size_in_bytes
          + memory.generated_code_size_in_bytes),
      limit=None,
      collectives=hlo.collectives(compiled.as_text(), mesh.size))


def _rows(leaf, mesh: Mesh) -> NamedSharding:
  """As `sharding.put_batch` places it."""
  even = leaf.shape[0] % sharding.row_shards(mesh) == 0
  return sharding.over_batch(mesh) if even else sharding.replicated(mesh)


@contextlib.contextmanager
def _as_if_on(platform: str):
  """What is chosen by platform is chosen for that of the target.

  `jax.default_backend` tells of the machine that compiles.
  """
  with mock.patch.object(jax, 'default_backend', lambda: platform):
    yield


def _bytes(number: str, unit: str) -> int:
  return int(float(number) * _UNITS[unit.upper()])
