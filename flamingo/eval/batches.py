"""Trees of tokens in batches of few shapes, so that few are compiled."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from flamingo.eval.trie import Trie

# Of a batch, as `Flamingo.read` takes them: latents [B N R C], tokens,
# image_index and positions [B L], and what each token sees, bool [B L M].
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def bucket(n: int) -> int:
  """n or a little more, out of few: 4, 8, ... 64, 72, ... 128, 144, ..."""
  step = 4
  while step * 16 < n:
    step *= 2
  return -(-n // step) * step


def batches(
    lengths: Sequence[int],
    tokens_at_once: int,
    *,
    behind: int = 0,
    shards: int = 1,
) -> Iterator[tuple[list[int], int, int]]:
  """Yields (numbers of rows, rows with padding, length), in few shapes.

  To compile a shape costs as much as to read several batches, so batches are
  filled up with padding, and what fills no batch waits for longer rows.

  Args:
    lengths: tokens of each row.
    tokens_at_once: most tokens of a part of a batch: rows times
      length; one row at least.
    behind: tokens that are to be read behind each row.
    shards: parts that a batch is split into: rows are a multiple of this.
  """
  groups: dict[int, list[int]] = {}
  for i, n in enumerate(lengths):
    groups.setdefault(bucket(n), []).append(i)
  waiting: list[int] = []
  for length, members in sorted(groups.items()):
    waiting += members
    most = shards * max(1, tokens_at_once // (length + behind))
    while len(waiting) >= most:
      yield waiting[:most], most, length
      waiting = waiting[most:]
  if waiting:
    full = len(lengths) > len(waiting)  # there was a full batch before
    each = -(-len(waiting) // shards)
    few = shards * (1 << (each - 1).bit_length())
    yield waiting, most if full else min(most, few), length


def arrays(
    tries: Sequence[Trie],
    rows: int,
    length: int,
    latents: Callable[[Sequence[int]], np.ndarray],
    *,
    pad_id: int,
    stem: int = 0,
) -> Arrays:
  """A batch of trees, padded to `rows` and `length`.

  Args:
    tries: what is read.
    rows: of the batch.
    length: of each row.
    latents: from rows of the feature store to latents [n R C].
    pad_id: fills up.
    stem: tokens of a cache that branches see in front of their own.
  """
  tokens = np.full((rows, length), pad_id, np.int32)
  image_index, positions = np.zeros((2, rows, length), np.int32)
  mask = np.zeros((rows, length, stem + length), bool)
  # Powers of two: one shape for each length, mostly.
  most = max(1, *(len(trie.images) for trie in tries))
  most = 1 << (most - 1).bit_length()
  # Rows of a batch that see nothing get the latents of some image, unseen.
  flat = sorted({i for trie in tries for i in trie.images}) or [0]
  seen = dict(zip(flat, latents(flat)))
  shown = np.zeros((rows, most) + seen[flat[0]].shape, np.float32)
  for row, trie in enumerate(tries):
    n = len(trie)
    tokens[row, :n] = trie.tokens
    image_index[row, :n] = trie.image_index
    positions[row, :n] = trie.positions
    mask[row] = trie.mask(length, stem) if stem else trie.mask(length)
    for k, image in enumerate(trie.images):
      shown[row, k] = seen[image]
  return shown, tokens, image_index, positions, mask
