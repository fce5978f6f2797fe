"""Which demonstrations each query of a cell gets."""

from collections.abc import Callable, Sequence
import functools

from jax.typing import ArrayLike
from jaxtyping import Float
import numpy as np

from flamingo.data.tokenizer import Tokenizer
from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import Choice, Item
from flamingo.eval.harness.cell import Asked, Cell
from flamingo.eval.harness.controls import controlled
from flamingo.eval.harness.task import Task

Embed = Callable[[Sequence[Item]], Float[np.ndarray, 'n d']]

# Of what the similarities are that RICES adds up.
CHOICES: dict[str, tuple[str, ...]] = {
    'random': (), 'rices_image': ('image',), 'rices_text': ('text',),
    'rices_both': ('image', 'text')}


class Demonstrator:
  """Chooses for the queries of a task, and applies controls.

  Args:
    task: queries and support.
    embed: embeddings of items by 'image' and by 'text'. Those of the support
      are computed once, when they are first needed.
  """

  def __init__(self, task: Task, embed: dict[str, Embed]):
    self._task, self._embed = task, embed
    self._support: dict[str, np.ndarray] = {}

  def ask(self, cell: Cell, queries: Sequence[Item]) -> list[Asked]:
    """Each query with its demonstrations, under the control of the cell.

    Raises:
      ValueError: fewer examples may demonstrate than the cell has shots.
    """
    return [
        controlled(cell, Asked(choice, query), self._task.support)
        for choice, query in zip(self._choose(cell, queries), queries)]

  def orders(self, cell: Cell, asked: Asked) -> list[Asked]:
    """The same demonstrations in as many orders as the cell averages over."""
    if (cell.permutations or 1) == 1:
      return [asked]
    return [
        Asked(choice, asked.query) for choice in benchmarks.permutations(
            asked.choice, count=cell.permutations, seed=cell.seed,
            task=cell.task, example=asked.query.id)]

  def _choose(self, cell, queries) -> list[Choice]:
    count = cell.texts or cell.shots
    if not count:
      return [Choice(items=()) for _ in queries]
    common = dict(
        shots=count, text_only=cell.texts > 0, rounds=cell.rounds,
        hashes=self._task.hashes)
    support = self._task.support
    kinds = CHOICES[cell.choice]
    if not kinds:
      return benchmarks.at_random(
          queries, support, seed=cell.seed, task=cell.task, **common)
    if support:
      similarity = self._similarity(kinds, queries, support)
    else:  # each query has its own
      similarity = [
          self._similarity(kinds, [query], query.demonstrations)[0]
          for query in queries]
    return benchmarks.most_similar(
        queries, support, similarity=similarity, balanced=cell.balanced,
        **common)

  def _similarity(self, kinds, queries, shown) -> np.ndarray:
    return sum(
        benchmarks.cosine(
            self._embed[kind](queries),
            self._of_support(kind) if shown is self._task.support
            else self._embed[kind](shown))
        for kind in kinds)

  def _of_support(self, kind):
    if kind not in self._support:
      self._support[kind] = self._embed[kind](self._task.support)
    return self._support[kind]


def text_embedding(
    table: Float[ArrayLike, 'v d'], tokenizer: Tokenizer
) -> Embed:
  """Embeds what items say, answers aside, by a mean over their tokens.

  Args:
    table: the language model's word embeddings, frozen as they are; fetched
      from their device when a text is first embedded.
    tokenizer: of the language model.
  """
  @functools.cache
  def centred():
    rows = np.asarray(table, np.float32)
    return rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)

  def embed(items: Sequence[Item]) -> np.ndarray:
    rows = []
    for item in items:
      text = ' '.join(
          (*(part for turn in item.turns for part in turn),
           *(item.fields[name] for name in sorted(item.fields))))
      ids = tokenizer.encode(tokenizer.clean(text).lower(), follows='nothing')
      if not ids:
        raise ValueError(
            f'Example {item.id}: expected a text to compare with others by; '
            f'its fields are {dict(item.fields)}. Take config.choices '
            "'rices_image' or 'random' for this benchmark.")
      rows.append(centred()[np.asarray(ids)].mean(axis=0, dtype=np.float64))
    return np.stack(rows)
  return embed
