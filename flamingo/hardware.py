"""What chips can do: the numbers behind every MFU and every plan.

Peaks are of dense bfloat16 products with float32 sums. Bandwidths of links are
one way; makers print both ways together, or bits. No program reaches any of
them: they bound a time from below.
"""

from collections.abc import Callable
import ctypes
import dataclasses
import os
import re
import time

import jax
import jax.numpy as jnp

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One accelerator, or a processor that stands in for one.

  Attributes:
    name: what a target calls it.
    kinds: `device_kind` of it in JAX.
    platform: 'tpu', 'gpu' or 'cpu'.
    flops: bfloat16 FLOP/s.
    memory: bytes on the chip.
    bandwidth: bytes/s between chip and memory.
    link: bytes/s of one link to a neighbour, one way; 0 without links.
    links: number of these.
    joined: chips that such links join; those beyond are reached by `outside`.
    outside: bytes/s of a chip to others beyond, one way.
    source: where the numbers are from.
  """

  name: str
  kinds: tuple[str, ...]
  platform: str
  flops: float
  memory: float
  bandwidth: float
  link: float = 0.0
  links: int = 0
  joined: int = 1
  outside: float = 0.0
  source: str


def _by_name(*chips: Chip) -> dict[str, Chip]:
  return {chip.name: chip for chip in chips}


CHIPS = _by_name(
    Chip(
        name='v4', kinds=('TPU v4',), platform='tpu', flops=275e12,
        memory=32 * GIB, bandwidth=1200e9, link=50e9, links=6, joined=4096,
        outside=6.25e9,
        source='Jouppi et al., 2023 (arXiv:2304.01433), table 4: 275 TFLOPS, '
        '32 GiB, 1200 GB/s, 6 links of 50 GB/s. Network between pods: '
        'How to Scale Your Model (jax-ml.github.io/scaling-book), part 2.'),
    Chip(
        name='v5e', kinds=('TPU v5 lite', 'TPU v5e'), platform='tpu',
        flops=197e12, memory=16 * GIB, bandwidth=819e9, link=50e9, links=4,
        joined=256, outside=6.4e12 / 8 / 256,
        source='cloud.google.com/tpu/docs/v5e: 197 TFLOPs, 16 GB, 819 GBps, '
        '400 GBps both ways over 4 links, 6.4 Tbps a pod of 256.'),
    Chip(
        name='v5p', kinds=('TPU v5', 'TPU v5p'), platform='tpu', flops=459e12,
        memory=95 * GIB, bandwidth=2765e9, link=100e9, links=6, joined=8960,
        outside=50e9 / 8,
        source='cloud.google.com/tpu/docs/v5p: 459 TFLOPs, 95 GiB, 2765 GBps, '
        '1200 GBps both ways over 6 links, 50 Gbps a chip.'),
    Chip(
        name='v6e', kinds=('TPU v6 lite', 'TPU v6e'), platform='tpu',
        flops=918e12, memory=32 * GIB, bandwidth=1600e9, link=100e9, links=4,
        joined=256, outside=25.6e12 / 8 / 256,
        source='cloud.google.com/tpu/docs/v6e: 918 TFLOPs, 32 GB, 1600 GBps, '
        '800 GBps both ways over 4 links, 25.6 Tbps a pod of 256.'),
    Chip(
        name='a100', kinds=('NVIDIA A100-SXM4-80GB',), platform='gpu',
        flops=312e12, memory=80e9, bandwidth=2039e9, link=25e9, links=12,
        joined=8, outside=25e9,
        source='NVIDIA A100 80GB datasheet: 312 TFLOPS, 80 GB, 2039 GB/s, '
        'NVLink 600 GB/s both ways over 12; DGX A100: 200 Gb/s InfiniBand a '
        'GPU.'),
    Chip(
        name='h100', kinds=('NVIDIA H100 80GB HBM3',), platform='gpu',
        flops=989.4e12, memory=80e9, bandwidth=3350e9, link=25e9, links=18,
        joined=8, outside=50e9,
        source='NVIDIA H100 datasheet, SXM: 1979 TFLOPS with sparsity, half '
        'without, 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways over 18; DGX '
        'H100: 400 Gb/s InfiniBand a GPU.'),
    Chip(
        name='h200', kinds=('NVIDIA H200',), platform='gpu', flops=989.4e12,
        memory=141e9, bandwidth=4800e9, link=25e9, links=18, joined=8,
        outside=50e9,
        source='NVIDIA H200 datasheet, SXM: 1979 TFLOPS with sparsity, half '
        'without, 141 GB, 4.8 TB/s, NVLink 900 GB/s; DGX H200: 400 Gb/s '
        'InfiniBand a GPU.'),
)


def chip_of(device: jax.Device) -> Chip | None:
  """The chip that a device is; None if it is not in the table."""
  for chip in CHIPS.values():
    if device.device_kind in chip.kinds:
      return chip
  return None


def peak_of(device: jax.Device) -> float | None:
  """bfloat16 FLOP/s that its maker states; None if the table lacks it."""
  chip = chip_of(device)
  return None if chip is None else chip.flops


def measure(size: int = 2048) -> Chip:
  """This machine's processor as a `Chip`, by a second of measuring.

  Peak: the product of two square bfloat16 matrices with a float32 sum.
  Bandwidth: a sum of two long vectors. There are no links: devices that JAX
  makes of one processor share all of it.
  """
  square = jnp.ones((size, size), jnp.bfloat16)
  product = jax.jit(lambda a: jax.lax.dot_general(
      a, a, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32))
  long = jnp.ones(64 * 2**20 // 4)
  add = jax.jit(lambda a, b: a + b)
  return Chip(
      name='here', kinds=(jax.devices()[0].device_kind,),
      platform=jax.default_backend(),
      flops=2 * size**3 / _fastest(product, square),
      memory=os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'),
      bandwidth=3 * long.nbytes / _fastest(add, long, long),
      source='measured just now')


def keep_memory() -> bool:
  """Keeps freed memory for the next step, on a CPU with glibc.

  XLA asks malloc for the memory of a program's temporaries each time it runs,
  and glibc gets such large pieces from the system and gives them back: hundreds
  of megabytes of pages that the system has to fill with zeros, a fifth of the
  time of the quickstart's step. From one arena that never shrinks they are had
  for nothing; what a process needed once stays with it.

  To be called before JAX starts its threads, each of which would choose an
  arena.

  Returns:
    Whether it could be done.
  """
  try:
    set_option = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):  # another C library
    return False
  return all([
      set_option(option, value) == 1 for option, value in (
          (-8, 1),  # M_ARENA_MAX: one, since others can't grow so large
          (-4, 0),  # M_MMAP_MAX: no piece straight from the system
          (-1, -1))])  # M_TRIM_THRESHOLD: nothing goes back


def spare_threads() -> None:
  """Has XLA start two threads for each of several devices of one CPU.

  Devices run on the threads of one pool, which has one for each, and one that
  waits for others in a collective keeps its own. What another meanwhile gives
  to the pool, parts of a product or a transfer, may find none that is free:
  then all stand still, until XLA ends the process. XLA reads their number from
  PJRT_NPROC when JAX first looks for devices; a larger one is left alone.
  """
  asked = re.findall(
      r'--xla_force_host_platform_device_count=(\d+)',
      os.environ.get('XLA_FLAGS', ''))
  devices = max([jax.config.jax_num_cpu_devices, *map(int, asked)])
  if devices > 1:
    # It may be that of a program with fewer devices, which started this one.
    given = os.environ.get('PJRT_NPROC', '')
    threads = max(2 * devices, int(given) if given.isdecimal() else 0)
    os.environ['PJRT_NPROC'] = str(threads)


def _fastest(function: Callable, *args, repeats: int = 5) -> float:
  """Seconds of the fastest of some calls, after one that compiles."""
  jax.block_until_ready(function(*args))
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - began)
  return min(times)
