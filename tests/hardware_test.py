"""The table of chips is consistent, and known by what JAX calls them."""

import types

from flamingo import hardware
import pytest


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
