"""A bound on the time of a step: what each part of a chip has to do at least.

Three bounds, of which the largest is the time if all else is hidden behind it,
and the sum if nothing is:

  compute  products at the chip's peak, what is recomputed included
  memory   weights once for each pass over them, the optimizer's state, and
           what the backward pass keeps, once out and once in
  network  what each device sends, at the speed of the links that its group has

Left out: that no product reaches the peak (small and narrow ones least); norms,
activations, softmax and all that XLA writes between them; start-up and latency
of each collective, and others on the same links; the input pipeline; and
stragglers.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

from jax.sharding import AbstractMesh, Mesh
import numpy as np

from experiments.plan.hlo import Collective
from experiments.plan.memory import Memory
from experiments.plan.shapes import Step
from experiments.plan.target import Target
from flamingo import sharding
from flamingo.train.flops import Flops
from flamingo.train.objective import same_shape


@dataclasses.dataclass(frozen=True)
class Bound:
  """Seconds of a step, bounded from below.

  Attributes:
    compute: seconds of products.
    memory: seconds of memory.
    network: seconds of collectives; None where they are not known.
    model_flops: of all devices, without what is done twice.
    peak: FLOP/s of all devices.
  """

  compute: float
  memory: float
  network: float | None
  model_flops: float
  peak: float

  @property
  def seconds(self) -> float:
    return max(self.compute, self.memory, self.network or 0)

  @property
  def seconds_in_turn(self) -> float:
    return self.compute + self.memory + (self.network or 0)

  @property
  def limit(self) -> str:
    parts = {
        'compute': self.compute, 'memory': self.memory,
        'network': self.network or 0}
    return max(parts, key=parts.get)

  def mfu(self, seconds: float) -> float:
    """Share of the peak that the step's own FLOPs are, at some time a step."""
    return self.model_flops / seconds / self.peak


def bound(
    target: Target,
    mesh: Mesh | AbstractMesh,
    step: Step,
    flops: Mapping[str, Flops],
    memory: Memory,
    collectives: Sequence[Collective] | None,
) -> Bound:
  """The bound of a step on a target."""
  chip = target.chip
  network = None
  if target.devices == 1:
    network = 0.0
  elif collectives is not None:
    network = sum(
        c.sent / speed(target, mesh, c.group) for c in collectives)
  return Bound(
      compute=_compute(step, mesh, flops) / chip.flops,
      memory=_traffic(step, mesh, memory) / chip.bandwidth,
      network=network, model_flops=sum(f.sum for f in flops.values()),
      peak=chip.flops * target.devices)


def _compute(step: Step, mesh, flops: Mapping[str, Flops]) -> float:
  """FLOPs of the busiest device."""
  total = 0.0
  uneven = _uneven(step, mesh)
  for name, part in flops.items():
    work = part.sum
    # The first pass over a group is done again before its backward pass.
    if step.model.remat == 'full' and name in (
        'language model', 'gated blocks'):
      work += part.forward
    # Pictures are spread over all devices, rows over those that `tensor` joins.
    if name in ('vision encoder', 'resampler'):
      total += work / mesh.size
    else:
      total += work / mesh.size * uneven
  return total


def _uneven(step: Step, mesh) -> float:
  """How much more a device reads where some batch has rows for all alike."""
  shards = sharding.row_shards(mesh)
  tokens = lambda batch: math.prod(batch.tokens.shape)
  mine = sum(
      tokens(b) / (1 if b.tokens.shape[0] % shards else shards)
      for b in step.batches.values())
  return mine * shards / sum(map(tokens, step.batches.values()))


def _traffic(step: Step, mesh, memory: Memory) -> float:
  """Bytes that a device moves between chip and memory."""
  passes = 3 if step.model.remat == 'full' else 2
  # Each shape of batch, and each of its parts, goes through all layers.
  passes *= len(same_shape(step.batches)) * step.micro_batches
  # What is gathered over `fsdp` is written and read as a whole.
  gathered = mesh.shape['fsdp']
  weights = (
      memory.always['language model (frozen)']
      + memory.within['trained parameters in bfloat16']) * gathered
  moments = memory.always['moments']
  # Gradient and parameter as large as one moment each, read and written.
  update = 2 * moments + 4 * memory.always['trained parameters']
  return weights * passes + update + 2 * memory.within['activations kept']


def speed(
    target: Target, mesh: Mesh | AbstractMesh, group: Sequence[int]
) -> float:
  """Bytes/s that a device of a group can send to the others.

  Args:
    target: its links.
    mesh: whose devices a group's positions are of.
    group: positions.
  """
  chip = target.chip
  if chip.platform == 'cpu':
    return chip.bandwidth  # they share one memory
  if chip.platform == 'gpu':
    nodes = np.asarray(group) // target.shape[1]
    inside = chip.link * chip.links
    if len(set(nodes)) == 1:
      return inside
    # As many ring as a node has members, each over the network of its own.
    members = np.bincount(nodes - nodes.min()).max()
    return min(inside, members * chip.outside)
  devices = mesh.devices.flat
  coords = np.asarray([devices[i].coords[:len(target.shape)] for i in group])
  total = 0.0
  for axis, size in enumerate(target.shape):
    extent = len(set(coords[:, axis]))
    if extent == 1:
      continue
    # A whole axis of a torus is closed, and data goes both ways round.
    closed = extent == size and (
        size % 4 == 0 if len(target.shape) == 3 else size == 16)
    total += chip.link * (2 if closed else 1)
  return total
