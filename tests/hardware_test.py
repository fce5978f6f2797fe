"""The table of chips is consistent, and known by what JAX calls them."""

import os
import subprocess
import sys
import types

from flamingo import hardware
import pytest

# Pages that the system gives to a program once it has run a few times. (The
# memory of one run may be freed only when the next has got its own.)
PAGES = """
import resource, sys
from flamingo import hardware
if sys.argv[1] == 'keep' and not hardware.keep_memory():
  sys.exit('none')
import jax
program = jax.jit(lambda x: (x @ x.T) @ x)
pages = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = jax.numpy.ones((5_003, 7))
given = []
for _ in range(8):
  before = pages()
  program(x).block_until_ready()
  given.append(pages() - before)
print(min(given[4:]))
"""

# Threads that begin when JAX looks for devices.
THREADS = """
import os, sys
import jax
from flamingo import hardware
if sys.argv[1] == 'spare':
  hardware.spare_threads()
threads = lambda: len(os.listdir('/proc/self/task'))
before = threads()
assert jax.device_count() == int(sys.argv[2])
print(threads() - before)
"""


def device(kind):
  return types.SimpleNamespace(device_kind=kind)


@pytest.mark.parametrize('kind, name', [
    ('TPU v4', 'v4'), ('TPU v5 lite', 'v5e'), ('TPU v5', 'v5p'),
    ('TPU v6 lite', 'v6e'), ('NVIDIA H100 80GB HBM3', 'h100'),
    ('NVIDIA A100-SXM4-80GB', 'a100'), ('NVIDIA H200', 'h200')])
def test_a_device_is_known_by_its_kind(kind, name):
  chip = hardware.chip_of(device(kind))
  assert chip is hardware.CHIPS[name]
  assert hardware.peak_of(device(kind)) == chip.flops


@pytest.mark.parametrize('kind', ['cpu', 'NVIDIA H100 PCIe', 'TPU v99'])
def test_what_is_not_in_the_table_has_no_peak(kind):
  assert hardware.peak_of(device(kind)) is None


def test_no_kind_is_two_chips():
  kinds = [kind for chip in hardware.CHIPS.values() for kind in chip.kinds]
  assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize('chip', hardware.CHIPS.values(), ids=lambda c: c.name)
def test_each_chip_is_whole_and_says_where_its_numbers_are_from(chip):
  assert chip.source
  # A matrix unit does hundreds of operations a byte of memory, a link brings
  # less than memory does, and the network less than all links.
  assert 100 < chip.flops / chip.bandwidth < 1000
  assert chip.link * chip.links < chip.bandwidth
  assert 0 < chip.outside < chip.link * chip.links
  assert chip.joined > 1


def test_this_machine_is_measured():
  chip = hardware.measure(size=256)
  assert chip.name == 'here' and chip.source == 'measured just now'
  assert chip.flops > 1e8 and chip.bandwidth > 1e8
  assert chip.memory > 2**30


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems, others do')
def test_memory_of_temporaries_stays_with_the_process():
  pages = {}
  for how in ('keep', 'give back'):
    done = subprocess.run(
        [sys.executable, '-c', PAGES, how], capture_output=True, text=True)
    if done.stderr.strip() == 'none':
      pytest.skip('another C library')
    pages[how] = int(done.stdout)
  # 100 MB are 24,000 pages of 4 KiB.
  assert pages['keep'] < 1_000 < 10_000 < pages['give back']


@pytest.mark.skipif(
    not os.path.isdir('/proc/self/task'), reason='threads are counted in Linux')
def test_each_of_several_devices_of_a_cpu_gets_two_threads():
  environment, flag = (
      {'JAX_NUM_CPU_DEVICES': '7'},
      {'XLA_FLAGS': '--xla_force_host_platform_device_count=7'})
  # There are two pools, one for programs and one for what they share.
  assert 4 * 7 <= threads('spare', 7, **environment) < 6 * 7
  # As a program with two devices would have started it.
  assert 4 * 7 <= threads('spare', 7, **flag, PJRT_NPROC='4') < 6 * 7
  assert threads('none', 7, **environment) < 4 * 7
  assert threads('spare', 1) == threads('none', 1)


def threads(word, devices, **env):
  done = subprocess.run(
      [sys.executable, '-c', THREADS, word, str(devices)], check=True,
      capture_output=True, text=True,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''} | env)
  return int(done.stdout)
