"""Eight devices train as one: whole runs on meshes, in their own process."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope='module')
def found():
  """What `eight_devices` found."""
  done = subprocess.run(
      [sys.executable, HERE / 'eight_devices.py'], capture_output=True,
      text=True, env=os.environ | {'PYTHONPATH': str(HERE.parent)})
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('mesh', ['data', 'fsdp', 'tensor', 'mixed'])
def test_eight_devices_have_the_loss_and_gradients_of_one(found, mesh):
  assert found[mesh]['loss'] == pytest.approx(found['one']['loss'], rel=1e-5)
  assert found['largest_gradient'] > 0.1
  assert found[mesh]['gradient_difference'] < 1e-5


@pytest.mark.parametrize('mesh', ['one', 'two', 'four'])
def test_what_eight_have_saved_trains_on_with_others_with_the_same_losses(
    found, mesh
):
  losses = found['mixed']['losses']
  assert found[mesh]['losses'] == pytest.approx(losses, rel=1e-5)
  assert len(set(losses)) == len(losses) == 3


def test_frozen_leaves_are_the_same_bits_after_a_hundred_steps(found):
  assert found['frozen_count'] > 15
  assert found['frozen_changed'] == []


def test_the_optimizer_holds_nothing_for_what_is_frozen(found):
  assert len(found['one']['moments']) > 20
  for path in found['one']['moments']:
    assert path.split('/')[0] in (
        'resampler', 'xattn_0', 'induction', 'new_embedding')


@pytest.mark.parametrize('mesh, most', [
    ('data', 0.3), ('fsdp', 0.3), ('tensor', 0.3), ('mixed', 0.3)])
def test_moments_are_spread_over_all_devices(found, mesh, most):
  whole = found['one']['moment_bytes'][0]
  assert max(found[mesh]['moment_bytes']) < most * whole


@pytest.mark.parametrize('mesh, most', [
    ('data', 1.0), ('fsdp', 0.2), ('tensor', 0.3), ('mixed', 0.4)])
def test_frozen_parameters_are_split_over_fsdp_and_tensor(found, mesh, most):
  whole = found['one']['frozen_bytes'][0]
  assert max(found[mesh]['frozen_bytes']) <= most * whole
