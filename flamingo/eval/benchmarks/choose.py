"""Which examples demonstrate for a query: at random, or the most similar.

A choice is a function of the seed, the task, the query and what may
demonstrate; not of the other queries, their batch, a device, or an order.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import math

from jaxtyping import Float
import numpy as np

from flamingo.eval.benchmarks.item import Item

# Similarities that differ by less are equal, and ids decide: sums of floats
# depend on how many queries are multiplied at once.
_DIGITS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
  """What demonstrates for a query.

  Attributes:
    items: in the order shown; the most similar last.
    text_only: whether their images are left out: the paper's 0-shot, which
      results must name.
  """

  items: tuple[Item, ...]
  text_only: bool = False


def chance_of(seed: int, task: str, example: str) -> np.random.Generator:
  """The stream of chance of one example."""
  key = hashlib.sha256(f'{seed}\n{task}\n{example}'.encode()).digest()
  return np.random.default_rng(np.frombuffer(key, np.uint32))


def at_random(
    queries: Sequence[Item], support: Sequence[Item], *, shots: int, seed: int,
    task: str, text_only: bool = False, rounds: bool = False,
    hashes: Mapping[str, str] | None = None,
) -> list[Choice]:
  """Draws demonstrations without replacement, anew for each query.

  The first k are those of `shots` = k, so that a curve over shots adds
  demonstrations and takes none away.

  Args:
    queries: what is asked.
    support: what may demonstrate where a query has no demonstrations of its
      own; its order does not matter.
    shots: demonstrations of each query.
    seed: of the evaluation.
    task: name of the benchmark.
    text_only: see `Choice`. The paper's 0-shot are 2 such demonstrations.
    rounds: see `Benchmark`; a round's order is drawn, too.
    hashes: what the files of images hold, by path: see `media.content_hash`.

  Raises:
    ValueError: fewer examples may demonstrate than there are shots.
  """
  common = _Pool(support, hashes)
  choices = []
  for query in queries:
    pool = common.of(query)
    # All are drawn, so that what must not demonstrate moves none of the others.
    order = chance_of(seed, task, query.id).permutation(len(pool.items))
    order = order[pool.may_show(query)[order]]
    taken = pool.take(query, order, shots, rounds)
    choices.append(pool.choice(taken, text_only))
  return choices


def most_similar(
    queries: Sequence[Item], support: Sequence[Item], *, shots: int,
    similarity: Sequence[Float[np.ndarray, 's']], balanced: bool = False,
    text_only: bool = False, rounds: bool = False,
    hashes: Mapping[str, str] | None = None,
) -> list[Choice]:
  """RICES: the most similar examples, in increasing similarity.

  Args:
    queries: what is asked.
    support: what may demonstrate where a query has no demonstrations of its
      own.
    shots: demonstrations of each query.
    similarity: of each query and each example that may demonstrate for it: see
      `cosine`. Add those of images and of texts for both.
    balanced: take the most similar of each answer in turn, those answers first
      whose best is most similar.
    text_only: see `Choice`.
    rounds: see `Benchmark`.
    hashes: what the files of images hold, by path: see `media.content_hash`.

  Raises:
    ValueError: fewer examples may demonstrate than there are shots, or the
      similarities are of other items.

  Source: Yang et al. (arXiv:2109.05014); Flamingo (arXiv:2204.14198), 4.2.
  """
  expected = [len(query.demonstrations or support) for query in queries]
  if [len(row) for row in similarity] != expected:
    raise ValueError(
        f'Expected similarities of {len(queries)} queries and '
        f'{sorted(set(expected))} examples; came {len(similarity)} rows of '
        f'{sorted(set(map(len, similarity)))}. Compute them from these items.')
  common = _Pool(support, hashes)
  choices = []
  for query, row in zip(queries, similarity, strict=True):
    pool = common.of(query)
    row = np.round(row[pool.places], _DIGITS)
    # The pool is sorted by id, and the sort is stable: ids decide on ties.
    order = np.argsort(-row, kind='stable')
    order = order[pool.may_show(query)[order]]
    if balanced:
      order = order[pool.rounds(order)]
    taken = pool.take(query, order, shots, rounds)
    nearest_last = sorted(taken, key=lambda i: (row[i], -i))
    choices.append(pool.choice(nearest_last, text_only))
  return choices


def cosine(
    queries: Float[np.ndarray, 'q d'], support: Float[np.ndarray, 's d']
) -> Float[np.ndarray, 'q s']:
  """Cosines between rows, in double precision.

  Raises:
    ValueError: a row is zero or not finite, and has no direction.
  """
  unit = []
  for name, rows in (('queries', queries), ('support', support)):
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
      raise ValueError(
          f'Expected embeddings with a direction; row {bad[0]} of the '
          f'{name} has norm {norms[bad[0], 0]}. Encode its image again.')
    unit.append(rows / norms)
  return unit[0] @ unit[1].T


def permutations(
    choice: Choice, *, count: int = 6, seed: int, task: str, example: str
) -> list[Choice]:
  """Orders of the demonstrations, to average the likelihoods of answers over.

  All different; fewer than `count` where there are not so many. The paper
  takes 6.

  Args:
    choice: whose order is the first of them.
    count: number of orders.
    seed: of the evaluation.
    task: name of the benchmark.
    example: id of the query.
  """
  n = len(choice.items)
  orders = [tuple(range(n))]
  rng = chance_of(seed, task, example)
  while len(orders) < min(count, math.factorial(min(n, 12))):
    order = tuple(rng.permutation(n).tolist())
    if order not in orders:
      orders.append(order)
  return [
      dataclasses.replace(choice, items=tuple(choice.items[i] for i in order))
      for order in orders]


class _Pool:
  """What may demonstrate, sorted by id.

  Attributes:
    items: sorted.
    places: of each in the order it came in.
  """

  def __init__(self, support, hashes):
    self._hashes = hashes or {}
    self.places = np.array(
        sorted(range(len(support)), key=lambda i: support[i].id), np.intp)
    self.items = [support[i] for i in self.places]
    self._with = {}
    for i, item in enumerate(self.items):
      for key in self._keys(item):
        self._with.setdefault(key, []).append(i)
    names = {}
    self._answers = np.array(
        [names.setdefault(item.answer, len(names)) for item in self.items],
        np.intp)

  def of(self, query):
    """The query's own demonstrations where it has some; else all."""
    if not query.demonstrations:
      return self
    return _Pool(query.demonstrations, self._hashes)

  def _keys(self, item):
    """What is one image: a path, or the same content under two paths."""
    for path in item.image:
      yield 'path', path
      if path in self._hashes:
        yield 'content', self._hashes[path]

  def may_show(self, query):
    """bool [S]: the examples that show no image of the query."""
    allowed = np.ones(len(self.items), bool)
    for key in self._keys(query):
      allowed[self._with.get(key, [])] = False
    return allowed

  def ranks(self, order):
    """How many of its answer stand before each in `order`."""
    seen, ranks = {}, []
    for answer in self._answers[order].tolist():
      ranks.append(seen.get(answer, 0))
      seen[answer] = ranks[-1] + 1
    return np.array(ranks, np.intp)

  def rounds(self, order):
    """Positions in `order`, the best of each answer before the second best."""
    return np.argsort(self.ranks(order), kind='stable')

  def take(self, query, order, shots, rounds):
    """The first `shots` of what may be shown, or as many of each answer."""
    if not rounds:
      if len(order) < shots:
        raise ValueError(
            f'Expected {shots} demonstrations for example {query.id}; of '
            f'{len(self.items)} examples only {len(order)} do not show its own '
            'image. Ask for fewer shots, or give more examples.')
      return order[:shots]
    order = order[self.rounds(order)]
    taken = order[self.ranks(order) < shots]
    ways = len(set(self._answers.tolist()))
    if len(taken) < shots * ways:
      raise ValueError(
          f'Expected {shots} demonstrations of each of {ways} answers for '
          f'example {query.id}; there are {len(taken)} that do not show its '
          'own image. Ask for fewer shots, or give more examples.')
    return taken

  def choice(self, taken, text_only):
    return Choice(
        items=tuple(self.items[i] for i in taken), text_only=text_only)

