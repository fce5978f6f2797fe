"""Speeds are counts over times; a clock that is wound by hand says which."""

from flamingo.train import meter as meter_lib
from flamingo.train.meter import Meter, shown, TIMES
from flamingo.types import Batch
import numpy as np
import pytest

PAD = 9


@pytest.fixture
def clock(monkeypatch):
  """Seconds, in a list of one."""
  now = [100.0]
  monkeypatch.setattr(meter_lib.time, 'monotonic', lambda: now[0])
  return now


def batches(clock, wait):
  tokens = np.asarray([[1, 2, 3, PAD, PAD], [4, PAD, PAD, PAD, PAD]])
  index = np.asarray([[0, 1, 2, 0, 0], [1, 0, 0, 0, 0]])
  batch = Batch(
      images=None, tokens=tokens, image_index=index, targets=None,
      loss_mask=None)
  while True:
    clock[0] += wait
    yield {'a': batch, 'b': batch}


def test_speeds_leave_out_padding_and_what_is_not_training(clock):
  meter = Meter(pad_id=PAD, flops=6e9, peak=2e9)
  data = batches(clock, wait=1.0)
  for _ in range(2):
    meter.next(data)
    clock[0] += 4.0
  clock[0] += 30.0
  meter.leave_out(30.0)
  read = meter.read(steps_left=7)
  assert read == {
      'seconds_per_step': 5.0, 'data_wait_seconds': 2.0,
      'data_wait_share': 0.2, 'seconds_left': 35.0,
      # 4 tokens and 3 images in each of 4 batches, in 10 seconds.
      'tokens_per_second': 1.6, 'images_per_second': 1.2, 'mfu': 3 / 5}
  assert set(read) == set(TIMES)


def test_it_begins_anew_at_a_line(clock):
  meter = Meter()
  data = batches(clock, wait=2.0)
  meter.next(data)
  meter.restart()
  meter.next(data)
  read = meter.read(0)
  assert read['seconds_per_step'] == read['data_wait_seconds'] == 2.0
  assert read['tokens_per_second'] == 10 and 'mfu' not in read


@pytest.mark.parametrize('flops, peak', [(1.0, None), (None, 1.0)])
def test_without_a_peak_or_a_count_there_is_no_mfu(clock, flops, peak):
  meter = Meter(flops=flops, peak=peak)
  meter.next(batches(clock, wait=1.0))
  assert 'mfu' not in meter.read(0)


def test_a_bar_shows_losses_and_speeds_in_few_letters():
  assert shown({
      'loss': 3.0, 'loss/pages': 2.344, 'gate/x': 0.1, 'mfu': 0.4567,
      'tokens_per_second': 12345.0, 'images_per_second': 7.0,
      'data_wait_seconds': 0.04, 'bad_steps': 2}) == {
          'pages': '2.34', 'tok/s': '1.23e+04', 'img/s': '7', 'MFU': '45.7%',
          'waited': '0.0s', 'bad': '2'}
