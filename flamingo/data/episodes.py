"""Concept episodes: each binds made-up names to pictures anew.

What Frozen called fast concept binding. In a *binding* episode a class is one
emoji and its pictures are views of it; in a *category* episode a class is a
whole subgroup of Unicode ('animal-bird') and every picture is another emoji, so
that examples must be put together.
"""

from collections.abc import Sequence
import dataclasses

from jaxtyping import Float, Int, Shaped
import numpy as np

from flamingo.data.openmoji import Emoji
from flamingo.types import Chunk

STYLES = ('colour', 'line')


@dataclasses.dataclass(frozen=True)
class Picture:
  """One drawing: which emoji, in which style, in which of its views."""

  emoji: int
  style: int
  view: int


@dataclasses.dataclass(frozen=True)
class Gallery:
  """The emoji of one split, with frozen features of some views of each.

  Attributes:
    emoji: the drawings' descriptions.
    rows: int [E 2 views], where each style and view stands in the feature
      store.
    neighbours: int [E k], the emoji most alike to each, itself first; needed
      for `draw_lookalikes` alone.
  """

  emoji: Sequence[Emoji]
  rows: np.ndarray
  neighbours: np.ndarray | None = None

  @property
  def views(self) -> int:
    """Views of each emoji in each style."""
    return self.rows.shape[2]

  def find(self, pictures: Sequence[Picture]) -> Int[np.ndarray, 'n']:
    """Where the pictures' features stand in the store."""
    return np.array(
        [self.rows[p.emoji, p.style, p.view] for p in pictures], np.int64)

  def subgroups(
      self, least: int, groups: Sequence[str] = ()
  ) -> list[list[int]]:
    """Emoji of each subgroup with at least `least`; of some groups or all."""
    members = {}
    for i, emoji in enumerate(self.emoji):
      if not groups or emoji.group in groups:
        members.setdefault(emoji.subgroup, []).append(i)
    return [m for m in members.values() if len(m) >= least]


@dataclasses.dataclass(frozen=True)
class Episode:
  """Classes with names of this episode, pictures of them, in order.

  Attributes:
    names: the name of each class.
    pictures: what is shown.
    classes: the class of each picture.
  """

  names: tuple[str, ...]
  pictures: tuple[Picture, ...]
  classes: tuple[int, ...]


def draw_binding(
    rng: np.random.Generator, gallery: Gallery, ways: int, alike: float
) -> list[list[int]]:
  """`ways` classes of one emoji each.

  Args:
    rng: source of chance.
    gallery: of one split.
    ways: number of classes.
    alike: probability that all come from one subgroup.
  """
  pool = np.arange(len(gallery.emoji))
  if rng.random() < alike:
    subgroups = [
        s for s in gallery.subgroups(least=ways)
        if len({gallery.emoji[i].line for i in s}) >= ways]
    if not subgroups:
      raise ValueError(
          f'No subgroup has {ways} emoji of different line art, to be as many '
          'classes. Take fewer, or alike=0.')
    sizes = np.array([len(s) for s in subgroups])
    pool = subgroups[rng.choice(len(subgroups), p=sizes / sizes.sum())]
  chosen, lines = [], set()
  for i in rng.permutation(pool):
    # Hearts of all colours have one line art: as classes of one episode, no one
    # could tell a line drawing of one from another.
    if gallery.emoji[i].line not in lines:
      chosen.append([int(i)])
      lines.add(gallery.emoji[i].line)
    if len(chosen) == ways:
      break
  return chosen


def draw_category(
    rng: np.random.Generator, subgroups: Sequence[list[int]], ways: int
) -> list[list[int]]:
  """`ways` classes of a whole subgroup each, members in random order."""
  chosen = rng.choice(len(subgroups), ways, replace=False)
  return [[int(i) for i in rng.permutation(subgroups[c])] for c in chosen]


def draw_lookalikes(
    rng: np.random.Generator, neighbours: Int[np.ndarray, 'e k'], ways: int
) -> list[list[int]]:
  """`ways` classes that nobody named: an emoji and those most alike to it.

  There are as many of them as emoji, where Unicode has a few dozen subgroups,
  so that putting examples together can be learnt without learning what is
  usually put together. How many belong is drawn, too. What is alike to two of
  the chosen belongs to the nearer.
  """
  seeds = rng.choice(len(neighbours), ways, replace=False)
  reach = int(rng.integers(8, neighbours.shape[1] + 1))
  nearest = {}
  for c, seed in enumerate(seeds):
    for rank, i in enumerate(neighbours[seed, :reach]):
      nearest[int(i)] = min(nearest.get(int(i), (rank, c)), (rank, c))
  members = [[] for _ in seeds]
  for i in rng.permutation(sorted(nearest)):
    members[nearest[int(i)][1]].append(int(i))
  return members


def find_neighbours(
    features: Float[np.ndarray, 'e c'], k: int
) -> Int[np.ndarray, 'e k']:
  """The k emoji most alike in centred features (cosine), itself first."""
  centred = features - features.mean(axis=0)
  centred /= np.linalg.norm(centred, axis=1, keepdims=True)
  return np.argsort(-centred @ centred.T, axis=1, kind='stable')[:, :k]


def draw_pictures(
    rng: np.random.Generator,
    members: Sequence[list[int]],
    classes: Sequence[int],
    styles: Sequence[int],
    views: int,
) -> tuple[Picture, ...]:
  """A picture for each entry of `classes`, no two of one class alike.

  A class of several emoji shows another one each time; when they, or the views
  of a class of one, are used up, it starts over with the second: what was shown
  first, which may be a query, never comes again.
  """
  starts = [rng.permutation(views) for _ in members]
  used = [0] * len(members)
  pictures = []
  for c, style in zip(classes, styles, strict=True):
    k, used[c] = used[c], used[c] + 1
    if len(members[c]) == 1:
      emoji, view = members[c][0], starts[c][_again(k, views)]
    else:
      emoji, view = members[c][_again(k, len(members[c]))], rng.integers(views)
    pictures.append(Picture(emoji, int(style), int(view)))
  return tuple(pictures)


def _again(k: int, n: int) -> int:
  """0 1 2 ... n-1, then 1 2 ... n-1 over and over; of one there is only 0."""
  if n == 1:
    return 0
  return k if k < n else 1 + (k - 1) % (n - 1)


def to_document(
    episode: Episode,
    images: Shaped[np.ndarray, 'n'],
    *,
    text: str = ' {}',
    learn_end: bool = True,
) -> list[Chunk]:
  """The episode as a training document.

  A name is learnt where its class has been shown before: the first time, no
  one can know it.

  Args:
    episode: what is shown.
    images: for each picture its row of the store, or a blend in its place.
    text: what stands behind a picture, with `{}` for the name.
    learn_end: whether the `<EOC>` behind a learnt name is learnt too. It is
      soon known, and costs as much as a name.
  """
  shown, chunks = set(), []
  for image, c in zip(images, episode.classes, strict=True):
    chunks.append(Chunk(
        text=text.format(episode.names[c]), image=image,
        learn=c in shown, close=False))
    chunks.append(Chunk(text='', learn=learn_end and c in shown))
    shown.add(c)
  return chunks
