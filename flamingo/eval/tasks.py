"""The evaluation's tasks: where trials come from.

Trials are a pure function of (seed, task, example id): not of batch, device,
order, or of how many are asked for.
"""

from collections.abc import Sequence
import dataclasses
import zlib

import numpy as np

from flamingo.data import episodes, sources
from flamingo.data.easy_vqa import Question
from flamingo.data.episodes import Gallery
from flamingo.data.openmoji import OBJECT_GROUPS
from flamingo.eval.fewshot import Shot, Trial


def chance_of(seed: int, task: str, example: int) -> np.random.Generator:
  """The stream of chance of one example."""
  return np.random.default_rng((seed, zlib.crc32(task.encode()), example))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeTask:
  """Concept episodes on held-out emoji: names are made up in every episode.

  Demonstrations come in rounds, one of each class in random order, and the
  first k rounds of an episode are the same for every number of shots: a curve
  over shots compares the same queries. Query and demonstrations are different
  views (size, rotation, background).

  Attributes:
    name: of the task, in results.
    gallery: emoji of a held-out split.
    names: pool of made-up names of that split, by kind of name.
    category: classes are whole subgroups of object-like emoji, every picture
      another emoji; else single emoji.
    alike: all classes come out of one subgroup.
    least: members a subgroup must have to be a category.
  """

  name: str
  gallery: Gallery
  names: dict[str, Sequence[str]]
  category: bool = False
  alike: bool = False
  least: int = 5

  def __post_init__(self):
    if not self.category and self.gallery.views < 2:
      raise ValueError(
          f'{self.name} needs a gallery of at least 2 views of each emoji, so '
          f'that a query is none of its demonstrations; {self.gallery.views} '
          'came. Raise `views` of this split.')

  def trials(
      self, *, seed: int, n: int, ways: int, shots: int, style: str,
      names: str = 'single',
  ) -> list[Trial]:
    """Draws n trials.

    Args:
      seed: of the evaluation.
      n: number of trials; the first m are those of n = m.
      ways: classes.
      shots: demonstrations of each class.
      style: 'same' (all in colour) or 'colour_to_line' (the query is line art).
      names: kind of made-up names, a key of `self.names`.
    """
    if style not in ('same', 'colour_to_line'):
      raise ValueError(
          f"style is 'same' or 'colour_to_line', but {style!r} came.")
    return [
        self._trial(i, chance_of(seed, self.name, i), ways, shots, style,
                    self.names[names])
        for i in range(n)]

  def _trial(self, number, rng, ways, shots, style, pool):
    if self.category:
      subgroups = self.gallery.subgroups(self.least, OBJECT_GROUPS)
      members = episodes.draw_category(rng, subgroups, ways)
    else:
      members = episodes.draw_binding(
          rng, self.gallery, ways, float(self.alike))
    names = tuple(pool[i] for i in rng.choice(len(pool), ways, replace=False))
    asked = int(rng.integers(ways))
    # The query is drawn first, so that it is the same for every `shots`.
    classes = [asked]
    order = np.random.default_rng(rng.integers(2**32))
    for _ in range(shots):
      classes += [int(c) for c in order.permutation(ways)]
    styles = [int(style == 'colour_to_line')] + [0] * (len(classes) - 1)
    pictures = episodes.draw_pictures(
        rng, members, classes, styles, self.gallery.views)
    drawn = [
        Shot(image=int(self.gallery.rows[p.emoji, p.style, p.view]),
             answer=names[c])
        for p, c in zip(pictures, classes)]
    return Trial(
        id=number, support=tuple(drawn[1:]), query=drawn[0], candidates=names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionTask:
  """Names of held-out emoji: how surprised is the model by the true one?"""

  name: str
  gallery: Gallery

  def trials(self, *, seed: int, n: int) -> list[Trial]:
    """Draws n pictures without replacement: 0-shot, each its own candidate."""
    trials = []
    order = np.random.default_rng(seed).permutation(len(self.gallery.emoji))
    for i, e in enumerate(order[:n]):
      rng = chance_of(seed, self.name, i)
      row = self.gallery.rows[e, rng.integers(2), 0]
      name = self.gallery.emoji[e].name
      trials.append(Trial(
          id=i, support=(), candidates=(name,),
          query=Shot(image=int(row), text=sources.CAPTION, answer=name)))
    return trials

  def with_images(
      self, trials: Sequence[Trial], images: Sequence[int]
  ) -> list[Trial]:
    """The same captions behind other pictures."""
    return [
        dataclasses.replace(t, query=dataclasses.replace(t.query, image=int(i)))
        for t, i in zip(trials, images, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionTask:
  """easy-VQA: a question about one picture, answers of one word.

  Attributes:
    name: of the task, in results.
    questions: of the test split.
    rows: row in the feature store of each question's picture.
    answers: candidates.
  """

  name: str
  questions: Sequence[Question]
  rows: Sequence[int]
  answers: tuple[str, ...]

  def trials(self, *, seed: int, n: int) -> list[Trial]:
    """Draws n questions, 0-shot."""
    order = np.random.default_rng(seed).permutation(len(self.questions))[:n]
    return [
        Trial(
            id=i, support=(), candidates=self.answers,
            query=Shot(
                image=int(self.rows[q]),
                text=sources.question(self.questions[q].question),
                answer=self.questions[q].answer))
        for i, q in enumerate(order)]
