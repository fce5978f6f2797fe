"""A training that is killed ends as one that is not; the script kills fifty."""

import itertools

from experiments import kill
import numpy as np
import pytest


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
  """(folder, kills, problems) after three kills, one of them in a save."""
  folder = tmp_path_factory.mktemp('kill')
  command = (*kill.TINY, '--steps=25')
  with pytest.MonkeyPatch.context() as patch:
    aims = itertools.cycle(['save', 'start'])
    patch.setattr(kill, 'choose_aim', lambda rng: next(aims))
    kills, problems = kill.run(command, folder, 3, seed=0, rehearse=False)
  return folder, kills, problems


def test_killed_runs_end_as_one_left_in_peace_bit_for_bit(killed):
  _, kills, problems = killed
  assert problems == [] and len(kills) == 3
  assert any(k.saving for k in kills)


def test_a_difference_of_one_number_is_found(killed):
  """Else the comparison would prove nothing."""
  folder, _, _ = killed
  one, other = folder / 'peace', folder / 'victim0'
  lines = (other / 'metrics.jsonl').read_text()
  (other / 'metrics.jsonl').write_text(lines.replace('"loss": ', '"loss": 1'))
  assert kill.differences(one, other) == ['victim0: its metrics differ.']
  (other / 'metrics.jsonl').write_text(lines + lines.splitlines()[-1] + '\n')
  assert kill.differences(one, other) == ['victim0: its metrics differ.']
  (other / 'metrics.jsonl').write_text(lines)
  assert kill.differences(one, other) == []
  with pytest.MonkeyPatch.context() as patch:
    read = kill.read_arrays

    def spoilt(directory):
      step, arrays = read(directory)
      if other in directory.parents:
        arrays['ema/xattn_0/attn_gate'] = np.nextafter(
            arrays['ema/xattn_0/attn_gate'], np.float32(9))
      return step, arrays

    patch.setattr(kill, 'read_arrays', spoilt)
    assert kill.differences(one, other) == [
        'victim0: ema/xattn_0/attn_gate differs.']
