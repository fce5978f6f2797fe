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
    position = 0 if parent is None else self.positions[parent] + 1
    return self._node((parent, token, image), parent, token, image, position)

  def _node(self, key, parent, token, image, position) -> int:
    """The number of the token that is known by this key, made if need be."""
    if key not in self._children:
      self._children[key] = len(self.tokens)
      self.tokens.append(token)
      self.positions.append(position)
      self.image_index.append(image)
      self._parents.append(parent)
    return self._children[key]


class Branch(Trie):
  """Candidates behind some prompts of another tree, their stem.

  The last token of each prompt is read once more, at the head of its
  candidates; what is before it the branch sees in the stem's cache.

  Args:
    stem: the prompts.
  """

  def __init__(self, stem: Trie):
    super().__init__()
    self._stem = stem
    self._ends: dict[int, int] = {}

  def begin(self, end: int) -> int:
    """The place in this tree of the stem's token `end`."""
    stem = self._stem
    index = stem.image_index[end]
    image = self._number(stem.images[index - 1] if index else None)
    node = self._node(
        ('stem', end), None, stem.tokens[end], image, stem.positions[end])
    self._ends[node] = end
    return node

  def mask(self, size: int, stem: int = 0) -> np.ndarray:
    """What each token sees: bool [size, stem + size], the stem's first."""
    sees = np.concatenate(
        [np.zeros((size, stem), bool), super().mask(size)], axis=1)
    if not stem:
      return sees
    before = self._stem.mask(stem)
    for node, parent in enumerate(self._parents):
      if parent is None:
        end = self._ends[node]
        sees[node, :stem] = before[end]
        sees[node, end] = False  # it is read anew
      else:
        sees[node, :stem] = sees[parent, :stem]
    return sees
