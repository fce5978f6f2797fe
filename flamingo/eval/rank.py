"""Candidates behind prompts, laid out so that shared tokens are read once.

Few candidates lie in one tree with their prompts. Many, as a thousand classes,
are cut into branches that are read one after the other, against a cache of the
prompts alone: what is held at once does not grow with their number.
"""

from collections.abc import Sequence

import numpy as np

from flamingo.data.encode import Example
from flamingo.eval.batches import bucket
from flamingo.eval.reader import Reader
from flamingo.eval.trie import Branch, Question, Trie

# Tokens of candidates that are read at once for a prompt: enough to keep a
# device busy, and few beside the square of a whole tree of them.
BRANCH = 512
# Log-probabilities over a whole vocabulary that are held at once.
_ROWS_AT_ONCE = 256

# A prompt with the token ids of its candidates.
Asked = tuple[Example, Sequence[Sequence[int]]]


class Tree:
  """Prompts of a group, and their candidates, whose scores come part by part.

  Args:
    group: of prompts with candidates; where they begin alike is read once.
    branch: most tokens of candidates in a part.

  Attributes:
    stem: the prompts; with the candidates if those are few.
    branches: the candidates, if they are many.
    scores: summed log-probability of each candidate of each prompt.

  Raises:
    ValueError: a prompt has no candidates, or an empty one.
  """

  def __init__(self, group: Sequence[Asked], branch: int):
    self.stem, self.branches = Trie(), []
    self.scores = [np.zeros(len(candidates)) for _, candidates in group]
    self._questions: list[list[tuple[int, int, Question]]] = []
    ends = []
    for prompt, candidates in group:
      if not candidates or not all(len(ids) for ids in candidates):
        raise ValueError(
            'Every prompt needs candidates of at least one token each; '
            f'{[list(ids) for ids in candidates]} came.')
      ends.append(self.stem.add(prompt))
    most = sum(len(ids) - 1 for _, some in group for ids in some)
    if most <= branch:
      self._questions.append([
          (p, c, question) for p, (_, candidates) in enumerate(group)
          for c, question in enumerate(self.stem.ask(ends[p], candidates))])
    else:
      self._cut(group, ends, branch)

  def _cut(self, group, ends, size) -> None:
    for p, (_, candidates) in enumerate(group):
      # In alphabetical order, those that begin alike share a branch.
      order = sorted(range(len(candidates)), key=lambda c: candidates[c])
      for c in order:
        ids = candidates[c]
        if not self.branches or len(self.branches[-1]) + len(ids) > size:
          self.branches.append(Branch(self.stem))
          self._questions.append([])
        branch = self.branches[-1]
        (question,) = branch.ask(branch.begin(ends[p]), [ids])
        self._questions[-1].append((p, c, question))

  def questions(self, part: int) -> list[tuple[int, int, Question]]:
    """(prompt, candidate, what to read off) of a part; none behind the last."""
    return self._questions[part] if part < len(self._questions) else []


class Reading:
  """What is read off the final states of a batch of trees: in chunks of tokens.

  Logits are only computed of tokens that something is asked of, and a chunk of
  them at a time.

  Args:
    trees: of the batch.
    part: which of their parts was read.
    rows: of the batch.
    shards: parts that it is split into.

  Attributes:
    nodes: [rows chunks c], tokens whose log-probabilities are computed.
    slots: [rows chunks q], which of those a target is behind.
    targets: [rows chunks q].
  """

  def __init__(
      self, trees: Sequence[Tree], part: int, rows: int, shards: int = 1
  ):
    self._trees = trees
    asked = [tree.questions(part) for tree in trees]
    unique = [
        sorted({node for *_, q in some for node in q.nodes}) for some in asked]
    most = max(1, _ROWS_AT_ONCE * shards // rows)
    most = min(_few(max(map(len, unique))), most)
    chunks = _few(-(-max(map(len, unique)) // most))
    self.nodes = np.zeros((rows, chunks, most), np.int32)
    slots = [[[] for _ in range(chunks)] for _ in trees]
    targets = [[[] for _ in range(chunks)] for _ in trees]
    self._places: list[list[tuple[int, int, list[tuple[int, int]]]]] = []
    for row, some in enumerate(asked):
      self.nodes[row].reshape(-1)[: len(unique[row])] = unique[row]
      place = {node: k for k, node in enumerate(unique[row])}
      self._places.append([])
      for prompt, candidate, question in some:
        where = []
        for node, target in zip(question.nodes, question.targets):
          chunk, slot = divmod(place[node], most)
          where.append((chunk, len(slots[row][chunk])))
          slots[row][chunk].append(slot)
          targets[row][chunk].append(target)
        self._places[-1].append((prompt, candidate, where))
    self.slots, self.targets = _pad(slots, rows), _pad(targets, rows)

  def add(self, log_p: np.ndarray) -> None:
    """Adds up log-probabilities [rows chunks q] to scores of candidates."""
    log_p = np.asarray(log_p, np.float64)
    for row, places in enumerate(self._places):
      for prompt, candidate, where in places:
        chunks, slots = zip(*where)
        self._trees[row].scores[prompt][candidate] = log_p[
            row, list(chunks), list(slots)].sum()


def rank(
    reader: Reader, groups: Sequence[Sequence[Asked]]
) -> list[list[np.ndarray]]:
  """Log-likelihood of each candidate of each prompt, see `Predictor.rank`."""
  most = min(BRANCH, reader.tokens_at_once)
  trees = [Tree(group, most) for group in groups]
  reader.check([
      trie for tree in trees for trie in (tree.stem, *tree.branches)])
  whole = [tree for tree in trees if not tree.branches]
  for where, rows, length in reader.batches([tree.stem for tree in whole]):
    some = [whole[i] for i in where]
    states = reader.states(
        reader.params, *reader.arrays([t.stem for t in some], rows, length))
    _read_off(reader, states, some, 0, rows)
  _rank_many(reader, [tree for tree in trees if tree.branches])
  return [tree.scores for tree in trees]


def _rank_many(reader, trees) -> None:
  """Reads branches one after the other, against the cache of their stems."""
  branches = [branch for tree in trees for branch in tree.branches]
  size = bucket(max(map(len, branches), default=1))
  for where, rows, length in reader.batches(
      [tree.stem for tree in trees], behind=size):
    some = [trees[i] for i in where]
    cache = reader.stem(
        reader.params, *reader.arrays([t.stem for t in some], rows, length),
        room=size)
    for part in range(max(len(tree.branches) for tree in some)):
      parts = [
          tree.branches[part] if part < len(tree.branches)
          else Branch(tree.stem) for tree in some]
      states = reader.branch(
          reader.params, cache,
          *reader.arrays(parts, rows, size, stem=length))
      _read_off(reader, states, some, part, rows)


def _read_off(reader, states, trees, part, rows) -> None:
  reading = Reading(trees, part, rows, reader.shards)
  reading.add(reader.score(reader.params, states, *reader.put(
      reading.nodes, reading.slots, reading.targets)))

def _pad(lists: Sequence[Sequence[Sequence[int]]], rows: int) -> np.ndarray:
  most = _few(max(len(values) for row in lists for values in row))
  out = np.zeros((rows, len(lists[0]), most), np.int32)
  for row, chunks in enumerate(lists):
    for chunk, values in enumerate(chunks):
      out[row, chunk, : len(values)] = values
  return out


def _few(n: int) -> int:
  """n or a little more, out of few sizes."""
  return max(n, 1) if n < 2 else bucket(n) if n > 16 else n + n % 2
