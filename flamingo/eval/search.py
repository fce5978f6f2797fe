"""Text behind prompts: what a search asks token by token, a model answers."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from flamingo.data.encode import Example
from flamingo.eval.beam import Generation
from flamingo.eval.reader import Reader
from flamingo.eval.trie import Trie


class Search(Protocol):
  """Continuations of one prompt: a `Beam`, or `Draws`.

  Attributes:
    size: most continuations that are open at once.
    open: those that go on; none when the search is over.
  """

  size: int
  open: Sequence[Generation]

  def advance(self, log_p: np.ndarray) -> list[int]:
    """Takes [k V] of the next token; says what each new one extends."""


def search(
    reader: Reader,
    prompts: Sequence[Example],
    searches: Sequence[Search],
    *,
    max_tokens: int,
    never: Sequence[int],
) -> None:
  """Lets each prompt's search go on until it is over.

  Args:
    reader: the model.
    prompts: left open at their end.
    searches: of the prompts, all of one size.
    max_tokens: most tokens of a continuation, the end included.
    never: tokens that have no probability.

  Raises:
    ValueError: a prompt is empty, or too long for the model.
  """
  tries = []
  for prompt in prompts:
    tries.append(Trie())
    tries[-1].add(prompt)
  reader.check(tries, more=max_tokens - 1)  # the last one is never read
  for where, rows, length in reader.batches(tries):
    last = np.zeros((rows, 1), np.int32)
    last[: len(where), 0] = [len(tries[i]) - 1 for i in where]
    log_p, cache, image = reader.prefill(
        reader.params,
        *reader.arrays([tries[i] for i in where], rows, length),
        *reader.put(last), room=max_tokens)
    _go_on(
        reader, [searches[i] for i in where], log_p, (cache, image),
        max_tokens, list(never))


def _go_on(reader, searches, log_p, before, max_tokens, never) -> None:
  rows, size = log_p.shape[0], searches[0].size
  log_p = np.array(log_p)[:, None]
  for step in range(max_tokens):
    log_p[:, :, never] = -np.inf
    parents = np.zeros((rows, size), np.int32)
    tokens = np.full((rows, size), reader.pad_id, np.int32)
    for row, each in enumerate(searches):
      if each.open:
        mine = each.advance(log_p[row, : len(each.open)])
        parents[row, : len(mine)] = mine
        tokens[row, : len(mine)] = [h.tokens[-1] for h in each.open]
    if step == max_tokens - 1 or not any(each.open for each in searches):
      return
    parents, tokens = reader.put(parents, tokens.reshape(-1, 1))
    if size > 1:
      before = reader.reorder(before, parents)
    cache, image = before
    log_p, cache = reader.step(reader.params, image, tokens, cache)
    before, log_p = (cache, image), np.array(log_p).reshape(rows, size, -1)
