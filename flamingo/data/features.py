"""Frozen vision features on disk: every picture is encoded once.

The vision encoder never changes, so its output for a picture is a constant,
across epochs, shots, seeds and prompts. A store keeps such constants in a
folder of files:

  header.json  what the rows are: encoder's fingerprint, shape, dtype
  rows.bin     the features, row after row
  keys.bin     the 16-byte digest of what each row was made from
  claims       nothing; who encodes a picture has locked a byte of it

Rows are only ever appended, and a key is written after its row: whatever a
killed process leaves behind, the rows that have a key are whole.
"""

from collections.abc import Callable, Sequence
import fcntl
import hashlib
import json
import math
import os
import pathlib

from jaxtyping import Array, Int, Shaped, UInt8
import numpy as np

from flamingo.data import claims
from flamingo.data import filling

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

  Any number of processes may read and fill it at once. What one is encoding the
  others leave to it, and encode themselves only if it ends before that is kept.

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
    self._count, self._index = 0, {}
    self._map()
    self.refresh()

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
      self.refresh()
      first = {}
      for i, name in enumerate(keys):
        if name not in self._index:
          first.setdefault(name, i)
      print(
          f'{label}: {len(set(keys)) - len(first):,} pictures are in '
          f'{self.directory}, {len(first):,} to encode.'
      )
      with claims.Claims(self.directory / 'claims') as ours:
        filling.fill(
            self, list(first), lambda name: image(first[name]), encode, ours,
            batch_size=batch_size, label=label)
    return np.array([self._index[name] for name in keys], np.int64)

  def append(self, names: list[bytes], features: np.ndarray) -> None:
    """Keeps rows by name, but for those that another process kept meanwhile.

    Raises:
      ValueError: features of another shape, or that the dtype cannot hold.
    """
    features = self._check(features)
    with (
        open(self._rows_path, 'ab') as rows,
        open(self._keys_path, 'ab') as keys,
    ):
      fcntl.flock(keys, fcntl.LOCK_EX)
      self.refresh()
      new = [i for i, name in enumerate(names) if name not in self._index]
      # A killed writer may have left a part of a row, or rows without keys.
      rows.truncate(self._count * self._row_bytes)
      keys.truncate(self._count * _DIGEST)
      for file, data in (
          (rows, features[new].tobytes()),
          (keys, b''.join(names[i] for i in new)),
      ):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      self.refresh()

  def refresh(self) -> None:
    """Takes notice of the rows that are whole, ours and other writers'."""
    # Their size first: rows that come in between are not counted, as the keys
    # read may still be those of rows that were lost.
    size = self._rows_path.stat().st_size if self._rows_path.exists() else 0
    digests = b''
    if self._keys_path.exists():
      with open(self._keys_path, 'rb') as keys:
        keys.seek(self._count * _DIGEST)
        digests = keys.read()
    count = min(
        self._count + len(digests) // _DIGEST, size // self._row_bytes)
    for row in range(self._count, count):
      start = (row - self._count) * _DIGEST
      self._index[digests[start : start + _DIGEST]] = row
    if count > self._count:
      self._count = count
      self._map()

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

  def _map(self) -> None:
    shape = (self._count, *self.shape)
    if self._count:
      mapped = np.memmap(self._rows_path, self.dtype, 'r', shape=shape)
      self._features = np.asarray(mapped)
    else:  # an empty file cannot be mapped
      self._features = np.empty(shape, self.dtype)
