"""Machines to plan for, by name: `v5p:8x8x16`, `h100:64`, `here`.

A compiler for chips that are not here comes from their makers' packages, and
needs to be told of none of them but its properties.
"""

import dataclasses
import difflib
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from flamingo import hardware
from flamingo.hardware import Chip

INSTALL = "pip install -e '.[plan]'"

# Numbers of CUDA's device properties that XLA:GPU compiles by: multiprocessors,
# shared memory of each and of a block that asks for more, level 2 cache,
# floating-point units of a multiprocessor, clock in GHz, memory, bandwidth.
_GPUS = {
    'a100': ('NVIDIA A100-SXM4-80GB', 8, 108, 167936, 166912, 41943040, 64,
             1.41, 85100068864, 2039040000000),
    'h100': ('NVIDIA H100 80GB HBM3', 9, 132, 233472, 232448, 52428800, 128,
             1.98, 84942979072, 3352320000000),
    'h200': ('NVIDIA H200', 9, 132, 233472, 232448, 52428800, 128, 1.98,
             150754820096, 4800000000000),
}
_GPU_TEXT = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {shared_optin}
  cuda_compute_capability {{ major: {major} minor: 0 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 13 minor: 0 }}
device_description_str: "{name}"
"""

# What libtpu asks the machine for, which here is none of its kind.
_NO_TPU_HERE = {
    'TPU_SKIP_MDS_QUERY': '1', 'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0',
    # Two of them may compile at once: neither has a chip to fight for.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}


@dataclasses.dataclass(frozen=True)
class Target:
  """Some chips of one kind, joined.

  Attributes:
    name: as it was asked for.
    chip: of which kind they are.
    shape: of the torus they form; of GPUs (nodes, GPUs of a node).
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def devices(self) -> int:
    return math.prod(self.shape)

  @property
  def is_here(self) -> bool:
    return self.chip.name == 'here'


def parse(name: str) -> Target:
  """The target of a name.

  Raises:
    ValueError: there is no such chip, or not in this number or shape.
  """
  if name == 'here':
    return Target(name, hardware.measure(), (jax.device_count(),))
  kind, _, size = name.partition(':')
  if kind not in hardware.CHIPS:
    near = difflib.get_close_matches(kind, [*hardware.CHIPS, 'here'], n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
        f'--target={name}: there is no chip {kind!r}.{hint} Known are '
        f"{', '.join(hardware.CHIPS)}, as in v5p:8x8x16, v5e:16x16 or h100:64, "
        "and 'here', for this machine.")
  chip = hardware.CHIPS[kind]
  if chip.platform == 'gpu':
    return Target(name, chip, _nodes(name, chip, size))
  dimensions = chip.links // 2
  if not re.fullmatch(r'\d+(x\d+)*', size) or size.count('x') != dimensions - 1:
    example = 'x'.join(['4'] * dimensions)
    raise ValueError(
        f'--target={name}: {kind} chips form a torus of {dimensions} '
        f'dimensions, as in {kind}:{example}.')
  shape = tuple(map(int, size.split('x')))
  if not 0 < math.prod(shape) <= chip.joined:
    raise ValueError(
        f'--target={name}: a pod of {kind} has {chip.joined} chips.')
  return Target(name, chip, shape)


def _nodes(name: str, chip: Chip, size: str) -> tuple[int, int]:
  count = int(size) if size.isdigit() else 0
  if count < 1 or count > chip.joined and count % chip.joined:
    raise ValueError(
        f'--target={name}: say how many GPUs, as in {chip.name}:64; more than '
        f'{chip.joined} come in nodes of {chip.joined}.')
  nodes = -(-count // chip.joined)
  return nodes, count // nodes


def prepare(target_name: str) -> None:
  """Has JAX use the processor here, and look for no accelerator.

  Call it before anything of JAX is.
  """
  if target_name == 'here':
    return
  os.environ.update(_NO_TPU_HERE)
  jax.config.update('jax_platforms', 'cpu')


def devices_of(target: Target) -> list[jax.Device]:
  """The target's devices, which can be compiled for but not run on.

  Raises:
    RuntimeError: the compiler is not installed.
  """
  chip = target.chip
  if target.is_here:
    return jax.devices()
  if chip.platform == 'gpu':
    _need('jax_plugins.xla_cuda13', 'of CUDA')
    return topologies.get_topology_desc(
        '', 'cuda', target_config=gpu_text(chip.name),
        topology='1x' + 'x'.join(map(str, target.shape))).devices
  _need('libtpu', 'of TPUs')
  extra = {}
  if chip.name == 'v4':
    extra['chip_config_name'] = 'megacore'  # its two cores as one device
  if target.devices == 1:
    extra['chips_per_host_bounds'] = (1,) * len(target.shape)
  return topologies.get_topology_desc(target.name, 'tpu', **extra).devices


def gpu_text(name: str) -> str:
  """XLA's description of a GPU, a `GpuTargetConfigProto` as text."""
  keys = ('name', 'major', 'cores', 'shared', 'shared_optin', 'cache', 'units',
          'clock', 'memory', 'bandwidth')
  return _GPU_TEXT.format(**dict(zip(keys, _GPUS[name])))


def installed(package: str) -> bool:
  """Whether a package, or one within another, can be imported."""
  try:
    return importlib.util.find_spec(package) is not None
  except ModuleNotFoundError:
    return False


def _need(package: str, what: str) -> None:
  if not installed(package):
    raise RuntimeError(
        f'--compile needs the compiler {what}, the package {package!r}, which '
        f'is not installed. In an environment of its own: {INSTALL}')
