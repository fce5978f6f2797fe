"""Frozen vision features on disk: every picture is encoded once.

The vision encoder never changes, so its output for a picture is a constant,
across epochs, shots, seeds and prompts. A store keeps such constants in a
folder of three files:

  header.json  what the rows are: encoder's fingerprint, shape, dtype
  rows.bin     the features, row after row
  keys.bin     the 16-byte digest of what each row was made from

Rows are only ever appended, and a key is written after its row: whatever a
killed process leaves behind, the rows that have a key are whole.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import math
import os
import pathlib

from jaxtyping import Array, Int, Shaped, UInt8
import numpy as np
import tqdm

_DIGEST = 16  # bytes
_FORMAT = 1


def key(content: bytes, *transform) -> bytes:
  """Names a picture by its encoded bytes and by what is done to them.

  Args:
    content: the encoded picture.
    *transform: whatever else decides the pixels, such as a `View` and a size:
      values whose `repr` says all there is to say about them.

  Returns:
    a digest of 16 bytes.
  """
  digest = hashlib.blake2b(content, digest_size=_DIGEST)
  # The length comes last, so no content can pass for content and transform.
  digest.update(f'{transform!r}{len(content)}'.encode())
  return digest.digest()


class FeatureStore:
  """An append-only store of features [*shape], found by key.

  Any number of processes may read; one writes at a time, others wait.

  Args:
    directory: the store's folder, made if absent.
    fingerprint: names the encoder: its architecture, its weights and its
      preprocessing. Features of two encoders cannot share a store.
    shape: of one picture's features, as in (49, 1280).
    dtype: as kept on disk.

  Raises:
    ValueError: the folder holds features of another kind.
  """

  def __init__(
      self,
      directory: str | os.PathLike[str],
      fingerprint: str,
      shape: tuple[int, ...],
      dtype: np.typing.DTypeLike = np.float16,
  ):
    self.directory = pathlib.Path(directory)
    self.shape = tuple(shape)
    self.dtype = np.dtype(dtype)
    self._row_bytes = math.prod(self.shape) * self.dtype.itemsize
    self._rows_path = self.directory / 'rows.bin'
    self._keys_path = self.directory / 'keys.bin'
    self._check_header({
        'format': _FORMAT,
        'fingerprint': fingerprint,
        'shape': list(self.shape),
        'dtype': self.dtype.name,
    })
    self._refresh()

  def __len__(self) -> int:
    return self._count

  def __contains__(self, name: bytes) -> bool:
    return name in self._index

  def __getitem__(
      self, rows: Int[np.ndarray, '...'] | Sequence[int] | int
  ) -> Shaped[np.ndarray, '...']:
    """Reads features [... *shape] by row; only those rows leave the disk."""
    return self._features[np.asarray(rows)]

  def fill(
      self,
      keys: Sequence[bytes],
      image: Callable[[int], UInt8[np.ndarray, 'h w 3']],
      encode: Callable[[UInt8[np.ndarray, 'b h w 3']], Shaped[Array, 'b ...']],
      *,
      batch_size: int = 32,
      label: str = 'features',
  ) -> Int[np.ndarray, 'n']:
    """Encodes the pictures that are missing, and finds the rows of all.

    Every batch is kept as soon as it is encoded: interrupted, the work
    continues where it stopped.

    Args:
      keys: names the pictures; one that comes twice is encoded once.
      image: draws picture i, of `keys[i]`. It is called in a thread, while
        the batch before is encoded.
      encode: the frozen encoder, for exactly `batch_size` pictures at a time,
        so that it is compiled once; the last batch is filled up.
      batch_size: pictures in a call of `encode`.
      label: says on the progress bar what is being encoded.

    Returns:
      the row of each key.

    Raises:
      ValueError: `encode` gave features of another shape, or features that
        the dtype cannot hold.
    """
    if any(name not in self._index for name in keys):
      with self._writing() as append:
        first = {}
        for i, name in enumerate(keys):
          if name not in self._index:
            first.setdefault(name, i)
        print(
            f'{label}: {len(set(keys)) - len(first):,} pictures are in '
            f'{self.directory}, {len(first):,} to encode.'
        )
        names, numbers = list(first), list(first.values())
        with tqdm.tqdm(total=len(names), desc=label, unit='img') as bar:
          starts = range(0, len(names), batch_size)
          drawn = _draw_ahead(image, numbers, batch_size)
          for start, pictures in zip(starts, drawn, strict=True):
            batch = names[start : start + batch_size]
            features = np.asarray(encode(pictures))[: len(batch)]
            append(batch, self._check(features))
            bar.update(len(batch))
    return np.array([self._index[name] for name in keys], np.int64)

  def _check(self, features: np.ndarray) -> np.ndarray:
    """Casts what the encoder gave to what is kept."""
    if features.shape[1:] != self.shape:
      raise ValueError(
          f'Expected features of shape {self.shape} for a picture from '
          f'`encode`; {features.shape[1:]} came. Give the store the shape that '
          'the encoder has.'
      )
    with np.errstate(over='ignore'):
      rows = features.astype(self.dtype)
    if not np.isfinite(rows).all():
      raise ValueError(
          f'Expected finite features; as {self.dtype.name} some are not, the '
          f'largest being {np.abs(features).max()}. Scale them, or keep them '
          'as float32.'
      )
    return rows

  def _check_header(self, wanted: dict) -> None:
    path = self.directory / 'header.json'
    if not path.exists():
      self.directory.mkdir(parents=True, exist_ok=True)
      # Written beside and renamed, so that a header is whole or absent.
      draft = path.with_suffix(f'.{os.getpid()}')
      draft.write_text(json.dumps(wanted, indent=2) + '\n')
      draft.rename(path)
    found = json.loads(path.read_text())
    for field, value in wanted.items():
      if found.get(field) != value:
        raise ValueError(
            f'Expected a store with {field} {value!r} in {self.directory}; '
            f'it has {found.get(field)!r}. Take another folder, or delete '
            'this one and encode again.'
        )

  def _refresh(self) -> None:
    """Takes notice of the rows that are whole, ours and other writers'."""
    digests = self._keys_path.read_bytes() if self._keys_path.exists() else b''
    size = self._rows_path.stat().st_size if self._rows_path.exists() else 0
    self._count = min(len(digests) // _DIGEST, size // self._row_bytes)
    self._index = {
        digests[row * _DIGEST : (row + 1) * _DIGEST]: row
        for row in range(self._count)
    }
    self._map()

  def _map(self) -> None:
    shape = (self._count, *self.shape)
    if self._count:
      mapped = np.memmap(self._rows_path, self.dtype, 'r', shape=shape)
      self._features = np.asarray(mapped)
    else:  # an empty file cannot be mapped
      self._features = np.empty(shape, self.dtype)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[Callable[[list[bytes], np.ndarray], None]]:
    """Gives the one writer's function: append keys and their rows."""
    with (
        open(self._rows_path, 'ab') as rows,
        open(self._keys_path, 'ab') as keys,
    ):
      try:
        fcntl.flock(keys, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        print(f'Waiting for another process that writes to {self.directory}.')
        fcntl.flock(keys, fcntl.LOCK_EX)
      self._refresh()
      # A killed writer may have left a part of a row, or rows without keys.
      rows.truncate(self._count * self._row_bytes)
      keys.truncate(self._count * _DIGEST)

      def append(names: list[bytes], features: np.ndarray) -> None:
        for file, data in (rows, features.tobytes()), (keys, b''.join(names)):
          file.write(data)
          file.flush()
          os.fsync(file.fileno())
        for name in names:
          self._index[name] = self._count
          self._count += 1

      try:
        yield append
      finally:
        self._map()


def _draw_ahead(
    image: Callable[[int], np.ndarray], numbers: list[int], batch_size: int
) -> Iterator[np.ndarray]:
  """Yields batches of pictures, drawing the next while one is in use."""

  def draw(start: int) -> np.ndarray:
    pictures = [image(i) for i in numbers[start : start + batch_size]]
    pictures += pictures[-1:] * (batch_size - len(pictures))
    return np.stack(pictures)

  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    drawn = collections.deque()
    for start in range(0, len(numbers), batch_size):
      drawn.append(thread.submit(draw, start))
      if len(drawn) == 2:
        yield drawn.popleft().result()
    for pictures in drawn:
      yield pictures.result()
