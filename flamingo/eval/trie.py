"""Prompts that begin alike, as one tree: their common part is read once.

The prompts of one episode at 1, 2, 4 and 8 shots begin alike, and so do the
candidates behind each. As a tree in one sequence, with a mask that shows each
token its ancestors alone, every one of them gets exactly the logits it would
get by itself.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from flamingo.data.encode import Example


@dataclasses.dataclass(frozen=True)
class Question:
  """Log-probabilities to be read off: of `targets[k]` at token `nodes[k]`."""

  nodes: tuple[int, ...]
  targets: tuple[int, ...]


class Trie:
  """A growing tree of tokens, each with the image it sees.

  Tokens are one only if they, their images and all before them are the same.

  Attributes:
    tokens: in an order in which parents come first.
    positions: depth of each token.
    image_index: number in `images` of what each token sees, from 1; or 0.
    images: rows of the feature store.
  """

  def __init__(self):
    self.tokens: list[int] = []
    self.positions: list[int] = []
    self.image_index: list[int] = []
    self.images: list[int] = []
    self._parents: list[int | None] = []
    self._children: dict[tuple, int] = {}
    self._numbers: dict[int, int] = {}

  def __len__(self) -> int:
    return len(self.tokens)

  def add(self, prompt: Example) -> int:
    """Adds a prompt, and returns its last token's number."""
    node = None
    for token, index in zip(prompt.tokens, prompt.image_index, strict=True):
      row = int(prompt.images[index - 1]) if index else None
      node = self._child(node, int(token), self._number(row))
    return node

  def ask(
      self, end: int, candidates: Sequence[Sequence[int]]
  ) -> list[Question]:
    """Adds candidates behind a prompt's last token.

    A candidate's last token is asked for, but never read.
    """
    questions = []
    for ids in candidates:
      nodes = [end]
      for token in ids[:-1]:
        nodes.append(
            self._child(nodes[-1], int(token), self.image_index[end]))
      questions.append(Question(tuple(nodes), tuple(map(int, ids))))
    return questions

  def mask(self, size: int) -> np.ndarray:
    """What each token sees: bool [size size], rows behind the end are empty.

    A prompt of two tokens, behind it two candidates of two:
      1 0 0 0 0 0
      1 1 0 0 0 0
      1 1 1 0 0 0
      1 1 1 1 0 0
      1 1 0 0 1 0
      1 1 0 0 1 1
    """
    sees = np.zeros((size, size), bool)
    for node, parent in enumerate(self._parents):
      if parent is not None:
        sees[node] = sees[parent]
      sees[node, node] = True
    return sees

  def _number(self, row: int | None) -> int:
    if row is None:
      return 0
    if row not in self._numbers:
      self.images.append(row)
      self._numbers[row] = len(self.images)
    return self._numbers[row]

  def _child(self, parent: int | None, token: int, image: int) -> int:
    key = (parent, token, image)
    if key not in self._children:
      self._children[key] = len(self.tokens)
      self.tokens.append(token)
      self.positions.append(0 if parent is None else self.positions[parent] + 1)
      self.image_index.append(image)
      self._parents.append(parent)
    return self._children[key]
