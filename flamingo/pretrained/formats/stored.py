"""A tensor in a file, not yet read: the one thing all formats come to."""

from collections.abc import Callable
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tensor in a file, not yet read.

  A model is read one tensor at a time, so that memory never holds more than
  what has been placed and the tensor in hand.

  Attributes:
    shape: its shape, as the file has it.
    dtype: type of the array that `read` returns. Types that numpy lacks are
      those of `ml_dtypes`, `bfloat16` for one.
    read: reads the tensor: an array of its own, writeable, in C order.
      Raises ValueError if the file has been cut short since.
    file: where it lies, for messages.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]
  file: str

  @classmethod
  def of(cls, array: np.ndarray, file: str = 'memory') -> 'Stored':
    """Wraps an array that is in memory already; `read` copies it."""
    return cls(
        tuple(array.shape), array.dtype, lambda: np.array(array, order='C'),
        file)
