"""A tensor in a file, not yet read: the one thing all formats come to."""

from collections.abc import Callable
import dataclasses
import math
import os
from typing import Any

import numpy as np

# More numbers than any file holds; numpy counts bytes in 63 bits.
_MOST_NUMBERS = 2**58
# numpy has at most 64 axes. Tensors of models have 5.
_MOST_AXES = 32


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
      Raises ValueError if the file has been cut short since it was opened.
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

  @property
  def nbytes(self) -> int:
    """Bytes of the array that `read` returns."""
    return math.prod(self.shape) * self.dtype.itemsize


def read_array(
    path: str | os.PathLike,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> np.ndarray:
  """Reads an array that lies in a file in C order, in little-endian bytes.

  It is read and not mapped: pages of a mapped file count as memory of the
  process for as long as the system likes.

  Args:
    path: the file.
    offset: where the array begins, in bytes.
    shape: its shape.
    dtype: its type.

  Raises:
    ValueError: if the file ends before the array does.
  """
  array = np.empty(shape, dtype)
  left = memoryview(array.reshape(-1).view(np.uint8))
  with open(path, 'rb', buffering=0) as file:
    file.seek(offset)
    # One call reads at most 2 GiB.
    while left and (count := file.readinto(left)):
      left = left[count:]
  if left:
    raise ValueError(
        f'{path} is cut short: it lacks {len(left)} bytes of an array at byte '
        f'{offset}. Fetch it again.')
  return array


def is_shape(shape: Any) -> bool:
  """Whether this, from a file that nobody vouches for, can be a shape."""
  return (
      isinstance(shape, (list, tuple))
      and len(shape) <= _MOST_AXES
      and all(type(size) is int and size >= 0 for size in shape)
      and math.prod(max(size, 1) for size in shape) <= _MOST_NUMBERS)
