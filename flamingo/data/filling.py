"""Encoding what a feature store lacks, beside other processes that do too.

A batch is claimed, drawn, encoded and kept; the next is drawn meanwhile. What
other processes have claimed is left to them, and looked after at the end.
"""

import collections
from collections.abc import Callable, Iterator
import concurrent.futures
from typing import Protocol

from jaxtyping import Array, Shaped, UInt8
import numpy as np
import tqdm

from flamingo.data.claims import Claims


class Store(Protocol):
  """What is filled: names are in it once they are appended by any process."""

  def __contains__(self, name: bytes) -> bool: ...

  def refresh(self) -> None: ...

  def append(self, names: list[bytes], features: np.ndarray) -> None: ...


def fill(
    store: Store,
    missing: list[bytes],
    image: Callable[[bytes], UInt8[np.ndarray, 'h w 3']],
    encode: Callable[[UInt8[np.ndarray, 'b h w 3']], Shaped[Array, 'b ...']],
    claims: Claims,
    *,
    batch_size: int,
    label: str,
) -> None:
  """Returns when all that is missing is kept, by whichever process.

  Args:
    store: is filled.
    missing: names, each once.
    image: draws the picture of that name, in a thread.
    encode: for exactly `batch_size` pictures at a time.
    claims: to names, shared with whoever fills the store.
    batch_size: pictures in a call of `encode`; the last repeats where they end.
    label: of the progress bar.
  """
  def draw(names):
    pictures = [image(name) for name in names]
    return np.stack(pictures + pictures[-1:] * (batch_size - len(pictures)))

  with tqdm.tqdm(total=len(missing), desc=label, unit='img') as bar:
    while missing:
      others = []
      batches = _claimed(store, missing, claims, batch_size, others)
      for names, pictures in _ahead(batches, draw):
        features = np.asarray(encode(pictures))[: len(names)]
        store.append(names, features)
        claims.give_back(names)
        bar.update(len(names))
      missing = _await(store, others, claims)
      bar.update(bar.total - len(missing) - bar.n)  # what others encoded


def _claimed(
    store: Store,
    names: list[bytes],
    claims: Claims,
    batch_size: int,
    others: list[bytes],
) -> Iterator[list[bytes]]:
  """Yields what is missing, claimed; what others have is added to `others`."""
  wanted = collections.deque(names)
  while wanted:
    store.refresh()
    batch = []
    while wanted and len(batch) < batch_size:
      name = wanted.popleft()
      if name not in store:
        (batch if claims.take(name) else others).append(name)
    # Another may have kept one, and let go of it, just before it was claimed.
    store.refresh()
    claims.give_back(name for name in batch if name in store)
    batch = [name for name in batch if name not in store]
    if batch:
      yield batch


def _await(store: Store, names: list[bytes], claims: Claims) -> list[bytes]:
  """Waits until one that another claimed is kept or given up, if any is."""
  store.refresh()
  missing = [name for name in names if name not in store]
  if missing:
    # Nothing is claimed by now, so no two wait for each other.
    if not claims.take(missing[0]):
      print(f'{len(missing):,} pictures are left to other processes: waiting.')
      claims.await_and_take(missing[0])
    claims.give_back(missing[:1])
  return missing


def _ahead(
    batches: Iterator[list[bytes]],
    draw: Callable[[list[bytes]], np.ndarray],
) -> Iterator[tuple[list[bytes], np.ndarray]]:
  """Yields names and their pictures, drawing the next while some are in use."""
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    drawn = collections.deque()
    for batch in batches:
      drawn.append((batch, thread.submit(draw, batch)))
      if len(drawn) == 2:
        names, pictures = drawn.popleft()
        yield names, pictures.result()
    for names, pictures in drawn:
      yield names, pictures.result()
