"""How fast training is: steps, tokens and images a second, waits, and MFU."""

from collections.abc import Mapping
import time

import jax
import numpy as np

from flamingo.types import Batch

# Metrics that measure time: all else is the same in a run that was interrupted.
TIMES = (
    'seconds_per_step', 'data_wait_share', 'data_wait_seconds',
    'tokens_per_second', 'images_per_second', 'mfu', 'seconds_left')


class Meter:
  """Counts what happens between two lines of metrics.

  Args:
    pad_id: token that fills rows up, and is not counted. None counts all.
    flops: floating-point operations of a step, on all devices together.
    peak: what all devices together could do in a second, as their makers
      state. None leaves MFU out.
  """

  def __init__(
      self, *, pad_id: int | None = None, flops: float | None = None,
      peak: float | None = None,
  ):
    self._pad_id = pad_id
    self._full = flops / peak if flops and peak else None
    self.restart()

  def restart(self) -> None:
    """Begins anew, after a line or after time that is not training's."""
    self._began = time.monotonic()
    self._steps = self._tokens = self._images = 0
    self._waited = self._elsewhere = 0.0

  def next(self, batches) -> Mapping[str, Batch]:
    """The next batch; to wait for it is to wait for data."""
    before = time.monotonic()
    batch = next(batches)
    self._waited += time.monotonic() - before
    self._steps += 1
    for rows in batch.values():
      if isinstance(rows, Batch):
        tokens = np.asarray(rows.tokens)
        self._tokens += (
            tokens.size if self._pad_id is None
            else int((tokens != self._pad_id).sum()))
        # Of the images that a row has room for, those its text comes to see.
        self._images += int(np.asarray(rows.image_index).max(axis=1).sum())
    return batch

  def leave_out(self, seconds: float) -> None:
    """Takes out what was not training: measuring, or saving."""
    self._elsewhere += seconds

  def read(self, steps_left: int) -> dict[str, float]:
    """Metrics since the last line, under names that `TIMES` lists.

    Tokens and images are of all processes, if each reads as many as this one.

    Args:
      steps_left: of the training.
    """
    seconds = time.monotonic() - self._began - self._elsewhere
    each = seconds / self._steps
    scalars = {
        'seconds_per_step': each,
        'data_wait_seconds': self._waited,
        'data_wait_share': self._waited / seconds,
        'seconds_left': each * steps_left}
    if self._tokens:
      processes = jax.process_count()
      scalars['tokens_per_second'] = self._tokens * processes / seconds
      scalars['images_per_second'] = self._images * processes / seconds
    if self._full is not None:
      scalars['mfu'] = self._full / each
    return scalars


def shown(scalars: Mapping[str, float]) -> dict[str, str]:
  """What a progress bar says of a line of metrics."""
  said = {
      name.removeprefix('loss/'): f'{value:.2f}'
      for name, value in scalars.items() if name.startswith('loss/')}
  for name, word in (
      ('tokens_per_second', 'tok/s'), ('images_per_second', 'img/s')):
    if name in scalars:
      said[word] = f'{scalars[name]:.3g}'
  if 'mfu' in scalars:
    said['MFU'] = f"{scalars['mfu']:.1%}"
  said['waited'] = f"{scalars['data_wait_seconds']:.1f}s"
  if 'bad_steps' in scalars:
    said['bad'] = f"{scalars['bad_steps']:.0f}"
  return said
