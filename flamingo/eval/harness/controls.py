"""Controls: one thing that a prompt says is changed.

If a score stays although what it should depend on is gone, the model did
something else than it is said to do. Every control is a function of the seed,
the task and the query.
"""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from flamingo.eval.benchmarks import Item
from flamingo.eval.benchmarks.choose import chance_of
from flamingo.eval.harness.cell import Asked, Cell

# An item without paths is shown as the blank picture.
BLANK = ()

Control = Callable[[Asked, np.random.Generator, Sequence[Item]], Asked]


def _with(asked: Asked, items: Sequence[Item]) -> Asked:
  return dataclasses.replace(
      asked, choice=dataclasses.replace(asked.choice, items=tuple(items)))


def _without_image(item: Item) -> Item:
  return dataclasses.replace(item, image=BLANK, box=None)


def _blank_images(asked, rng, support):
  del rng, support
  return _with(asked, [_without_image(item) for item in asked.choice.items])


def _blank_query(asked, rng, support):
  del rng, support
  return dataclasses.replace(asked, query=_without_image(asked.query))


def _no_images(asked, rng, support):
  del rng, support
  return dataclasses.replace(
      asked, choice=dataclasses.replace(asked.choice, text_only=True))


def _shuffled(*names: str) -> Control:
  """Gives each demonstration another one's fields, by a random permutation.

  Of all permutations, so that the right one is as likely as any.
  """
  def change(asked, rng, support):
    del support
    items = asked.choice.items
    return _with(asked, [
        dataclasses.replace(
            item, **{name: getattr(items[i], name) for name in names})
        for item, i in zip(items, rng.permutation(len(items)))])
  return change


def _random_labels(asked, rng, support):
  """Draws among the candidates; of open answers, some example's."""
  items = []
  for item in asked.choice.items:
    names = item.candidates or [
        support[rng.integers(len(support))].answer]
    items.append(
        dataclasses.replace(item, answer=names[rng.integers(len(names))]))
  return _with(asked, items)


CONTROLS: dict[str, Control] = {
    'blank_images': _blank_images,
    'shuffled_images': _shuffled('image', 'box'),
    'no_images': _no_images,
    'shuffled_labels': _shuffled('answer'),
    'random_labels': _random_labels,
    'blank_query': _blank_query,
}
# These change the query; all others need demonstrations with images.
OF_QUERY = ('blank_query',)
# These draw.
BY_CHANCE = ('shuffled_images', 'shuffled_labels', 'random_labels')


def controlled(cell: Cell, asked: Asked, support: Sequence[Item]) -> Asked:
  """What is asked, under the control of its cell.

  Args:
    cell: names the control, or none.
    asked: as it was chosen.
    support: where random labels of open answers are from, sorted by nothing in
      particular.
  """
  if cell.control is None:
    return asked
  rng = chance_of(cell.seed, cell.chance, asked.query.id)
  return CONTROLS[cell.control](asked, rng, support)
