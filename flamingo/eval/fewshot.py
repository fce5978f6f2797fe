"""Few-shot prompts: demonstrations, then a query, and controls on both.

A control changes one thing that a model must depend on if it does what it is
said to do. If its score stays, it did something else.
"""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from flamingo.data import encode
from flamingo.data.encode import Example
from flamingo.data.tokenizer import Tokenizer
from flamingo.types import Chunk, Document


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shot:
  """A picture, what stands behind it, and the answer.

  Attributes:
    image: row in the feature store.
    text: between picture and answer, such as a question; it may be empty and
      never ends in a space.
    answer: as it is written in a prompt.
  """

  image: int
  text: str = ''
  answer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
  """A prompt with an answer: one example of an evaluation.

  Attributes:
    id: within its cell.
    support: demonstrations, in the order shown.
    query: what is asked; its answer is the truth.
    candidates: answers to choose from; none if answers are open.
  """

  id: int
  support: tuple[Shot, ...]
  query: Shot
  candidates: tuple[str, ...] = ()


Control = Callable[[Trial, np.random.Generator, int], Trial]


def _shuffled(field: str) -> Control:
  """Gives each demonstration another one's `field`, by a random permutation."""
  def change(trial, rng, blank):
    del blank
    given = [getattr(shot, field) for shot in trial.support]
    return _support(trial, [
        dataclasses.replace(shot, **{field: given[i]})
        for shot, i in zip(trial.support, rng.permutation(len(given)))])
  return change


def _blank_images(trial, rng, blank):
  del rng
  return _support(
      trial, [dataclasses.replace(s, image=blank) for s in trial.support])


def _blank_query(trial, rng, blank):
  del rng
  return dataclasses.replace(
      trial, query=dataclasses.replace(trial.query, image=blank))


def _support(trial, support):
  return dataclasses.replace(trial, support=tuple(support))


# Each is a permutation of all demonstrations or nothing less, so that its
# expected score is chance: the true answer is as likely as any other.
CONTROLS: dict[str, Control] = {
    'shuffled_labels': _shuffled('answer'),
    'shuffled_images': _shuffled('image'),
    'blank_images': _blank_images,
    'blank_query': _blank_query,
}


def controlled(
    trials: Sequence[Trial], control: str | None, *, seed: int, blank: int
) -> list[Trial]:
  """The trials under a control.

  Args:
    trials: as they are.
    control: a name in `CONTROLS`, or None.
    seed: with a trial's id decides what its shuffle is.
    blank: row of the grey picture in the feature store.

  Raises:
    ValueError: unknown control.
  """
  if control is None:
    return list(trials)
  if control not in CONTROLS:
    raise ValueError(
        f'Unknown control {control!r}; there are {sorted(CONTROLS)}.')
  change = CONTROLS[control]
  return [
      change(trial, np.random.default_rng((seed, trial.id)), blank)
      for trial in trials]


def to_document(trial: Trial) -> Document:
  """The prompt, open at its end. `image` of each chunk is a row number."""
  chunks = [
      Chunk(text=f'{shot.text} {shot.answer}', image=np.int64(shot.image))
      for shot in trial.support]
  chunks.append(Chunk(
      text=trial.query.text, image=np.int64(trial.query.image), close=False))
  return chunks


def to_prompt(trial: Trial, tokenizer: Tokenizer) -> Example:
  """The encoded prompt; its images are rows of the feature store."""
  document = to_document(trial)
  return encode.encode(document, tokenizer, max_images=len(document))


def candidate_tokens(
    candidates: Sequence[str], tokenizer: Tokenizer, *, close: bool = False
) -> list[list[int]]:
  """Tokens that continue a prompt with each candidate.

  Args:
    candidates: answers.
    tokenizer: of the language model.
    close: whether `<EOC>` is a part of each. It always is where one candidate
      begins another ('car', 'car park'): without it the shorter would always be
      at least as likely.
  """
  ids = [
      tokenizer.encode(f' {candidate}', follows='text')
      for candidate in candidates]
  if close or one_begins_another(ids):
    ids = [tokens + [tokenizer.stop_id] for tokens in ids]
  return ids


def one_begins_another(ids: Sequence[Sequence[int]]) -> bool:
  """Whether some token ids are the beginning of others, or the same."""
  ordered = sorted(map(tuple, ids))
  return any(b[: len(a)] == a for a, b in zip(ordered, ordered[1:]))
