"""Sources: each draws documents of one kind, from a stream of chance."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools

import numpy as np

from flamingo.data import blends, episodes
from flamingo.data.easy_vqa import Question
from flamingo.data.episodes import Episode, Gallery, Picture
from flamingo.types import Chunk, Document


# What stands between a picture and its caption: the paper's prompt.
CAPTION = 'Output:'
# What a partner counts in a mixture, at least and at most.
_SHARES = 0.3, 0.7


def question(text: str) -> str:
  """A question behind a picture, up to where the answer begins."""
  return f'Question: {text} Answer:'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episodes:
  """Concept episodes for training (see `episodes`).

  Attributes:
    gallery: emoji of the training split.
    names: pools of made-up names by kind, 'single' and 'multi' (tokens).
    images: pictures of an episode.
    ways: least and most classes.
    kind: what a class is: 'emoji', a 'subgroup' of Unicode, or 'lookalikes',
      an emoji and those most alike to it.
    alike: probability that binding classes come out of one subgroup.
    multi: probability that names are of several tokens each.
    learn_end: probability that an episode's `<EOC>` are learnt.
    mix: probability that its classes are mixtures of two: each class gets a
      partner, and each picture is its own and one of the partner's in shares
      that are the class's, 0.3 to 0.7.
    jitter: how much of the difference between two views of another emoji, in
      the same style, is added to each picture.
  """

  gallery: Gallery
  names: Mapping[str, Sequence[str]]
  images: int
  ways: tuple[int, int] = (2, 5)
  kind: str = 'emoji'
  alike: float = 0.3
  multi: float = 0.25
  learn_end: float = 0.25
  mix: float = 0.0
  jitter: float = 0.0

  def __post_init__(self):
    if self.kind not in ('emoji', 'subgroup', 'lookalikes'):
      raise ValueError(
          f"kind is 'emoji', 'subgroup' or 'lookalikes', but {self.kind!r} "
          'came.')
    for name in 'alike', 'multi', 'learn_end', 'mix':
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(
            f'{name} is a probability, of 0 to 1, but {getattr(self, name)} '
            'came.')
    for kind, pool in self.names.items():
      if len(pool) < self.ways[1]:
        raise ValueError(
            f'Episodes of up to {self.ways[1]} classes need as many names, and '
            f'there are {len(pool)} of kind {kind!r}. Take fewer `ways`.')

  def __call__(self, rng: np.random.Generator) -> Document:
    ways = int(rng.integers(self.ways[0], self.ways[1] + 1))
    members = self._draw_members(rng, ways)
    pool = self.names['multi' if rng.random() < self.multi else 'single']
    names = tuple(pool[i] for i in rng.choice(len(pool), ways, replace=False))
    classes = tuple(int(c) for c in rng.integers(ways, size=self.images))
    pictures = episodes.draw_pictures(
        rng, members, classes, _styles(rng, self.images), self.gallery.views)
    learn_end = rng.random() < self.learn_end
    return episodes.to_document(
        Episode(names, pictures, classes), self._show(rng, pictures, classes),
        learn_end=learn_end)

  def _draw_members(self, rng, ways):
    if self.kind == 'emoji':
      return episodes.draw_binding(rng, self.gallery, ways, self.alike)
    if self.kind == 'subgroup':
      return episodes.draw_category(
          rng, self.gallery.subgroups(least=6), ways)
    return episodes.draw_lookalikes(rng, self.gallery.neighbours, ways)

  def _show(self, rng, pictures, classes):
    """The rows of pictures, or blends of them with others."""
    gallery, n = self.gallery, len(pictures)
    styles = [p.style for p in pictures]
    rows = gallery.find(pictures)
    parts = [(rows, 1.0)]
    if rng.random() < self.mix:
      ways = max(classes) + 1
      partners = episodes.draw_pictures(
          rng, self._draw_members(rng, ways), classes, styles, gallery.views)
      share = rng.uniform(*_SHARES, ways)[list(classes)]
      parts = [(rows, 1 - share), (gallery.find(partners), share)]
    if self.jitter:
      emoji = rng.integers(len(gallery.emoji), size=n)
      one = rng.integers(gallery.views, size=n)
      # Another view; where there is one alone, that, which adds nothing.
      step = 1 + rng.integers(max(1, gallery.views - 1), size=n)
      other = (one + step) % gallery.views
      parts += [(gallery.rows[emoji, styles, one], self.jitter),
                (gallery.rows[emoji, styles, other], -self.jitter)]
    return rows if len(parts) == 1 else blends.blend(*parts)


def _styles(rng: np.random.Generator, n: int) -> np.ndarray:
  """Styles of n pictures: all one, each its own, or one and then the other.

  A name is easily found again where its class was shown in the same style, so
  that is the smallest part.
  """
  kind = rng.integers(4)
  if kind == 0:
    return np.full(n, rng.integers(2))
  if kind < 3:
    return rng.integers(0, 2, n)
  first = rng.integers(2)
  return np.where(np.arange(n) < rng.integers(1, n), first, 1 - first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pages:
  """Pages of pictures, each followed by its real name; one picture a caption.

  Attributes:
    gallery: emoji of the training split.
    images: least and most pictures; (1, 1) draws plain captions.
    alike: probability that a page keeps to one subgroup.
  """

  gallery: Gallery
  images: tuple[int, int] = (1, 1)
  alike: float = 0.5

  def __call__(self, rng: np.random.Generator) -> Document:
    n = int(rng.integers(self.images[0], self.images[1] + 1))
    members = episodes.draw_binding(rng, self.gallery, n, self.alike)
    pictures = tuple(
        Picture(m[0], int(s), int(rng.integers(self.gallery.views)))
        for m, s in zip(members, rng.integers(0, 2, n)))
    return [
        Chunk(text=f'{CAPTION} {self.gallery.emoji[p.emoji].name}',
              image=row)
        for p, row in zip(pictures, self.gallery.find(pictures))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captions:
  """Pages of pictures that are in no gallery, each followed by its caption.

  Attributes:
    captions: to draw from.
    rows: row in the feature store of each one's picture.
    images: least and most pictures of a page.
  """

  captions: Sequence[str]
  rows: Sequence[int]
  images: tuple[int, int] = (1, 1)

  def __post_init__(self):
    if not self.captions:
      raise ValueError(
          'Expected captions to draw from; none came. Take more pictures, or '
          'leave this source out.')

  def __call__(self, rng: np.random.Generator) -> Document:
    n = int(rng.integers(self.images[0], self.images[1] + 1))
    return [
        Chunk(text=f'{CAPTION} {self.captions[i]}',
              image=np.int64(self.rows[i]))
        for i in rng.integers(len(self.captions), size=n)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneOf:
  """Each document from one of several sources, all as likely.

  Where a row more would cost too much, datasets can take turns in one.

  Attributes:
    sources: to draw from.
  """

  sources: Sequence[Callable[[np.random.Generator], Document]]

  def __call__(self, rng: np.random.Generator) -> Document:
    return self.sources[rng.integers(len(self.sources))](rng)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
  """Questions about pictures; a document has several, each with its picture.

  Attributes:
    questions: to draw from.
    rows: row in the feature store of each question's picture.
    images: questions of a document.
    balanced: probability that an answer is drawn first, all as likely, and then
      one of its questions. Where most are answered by yes or no, there is
      little to learn from pictures otherwise.
  """

  questions: Sequence[Question]
  rows: Sequence[int]
  images: int = 1
  balanced: float = 0.0

  def __call__(self, rng: np.random.Generator) -> Document:
    chunks = []
    for _ in range(self.images):
      i = self._draw(rng)
      asked = self.questions[i]
      chunks.append(Chunk(
          text=question(asked.question), image=np.int64(self.rows[i]),
          learn=False, close=False))
      chunks.append(Chunk(text=f' {asked.answer}'))
    return chunks

  def _draw(self, rng: np.random.Generator) -> int:
    if rng.random() >= self.balanced:
      return int(rng.integers(len(self.questions)))
    alike = self._by_answer[rng.integers(len(self._by_answer))]
    return alike[rng.integers(len(alike))]

  @functools.cached_property
  def _by_answer(self) -> list[list[int]]:
    groups = {}
    for i, asked in enumerate(self.questions):
      groups.setdefault(asked.answer, []).append(i)
    return list(groups.values())
