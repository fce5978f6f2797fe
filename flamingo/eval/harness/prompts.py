"""Demonstrations and a query become a prompt, and never too long a one."""

from collections.abc import Sequence
import dataclasses
import hashlib
import re

import numpy as np

from flamingo.data.encode import encode, Example
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.benchmarks import Item, Template, to_document
from flamingo.eval.fewshot import one_begins_another
from flamingo.eval.harness.cell import Asked
from flamingo.eval.harness.pictures import Pictures
from flamingo.types import Document


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What a model reads.

  Attributes:
    example: encoded; its images are rows of `Pictures`.
    demonstrations: ids of those that are shown, in order.
    dropped: demonstrations left out because the prompt would be too long.
    digest: of its tokens and of what the images show.
    text: for people: '<image>' stands for each image, whatever the model's tag.
  """

  example: Example
  demonstrations: tuple[str, ...]
  dropped: int
  digest: str
  text: str


class Writer:
  """Writes the prompts of one task.

  Args:
    template: how its examples are written.
    tokenizer: of the language model, with the model's tags.
    pictures: of the task.
    max_length: most tokens of a prompt with its answer.
  """

  def __init__(
      self,
      template: Template,
      tokenizer: Tokenizer,
      pictures: Pictures,
      *,
      max_length: int,
  ):
    self.template, self.tokenizer = template, tokenizer
    self._pictures, self._max_length = pictures, max_length
    self._trim = _ends(template)

  def write(self, asked: Asked, *, room: int, blind: bool = False) -> Prompt:
    """A prompt, without its oldest demonstrations if it would be too long.

    Args:
      asked: demonstrations and query.
      room: tokens that must fit behind it.
      blind: leave all images out, the query's too.

    Raises:
      ValueError: not even the query fits, or a text has a tag in it.
    """
    shown = asked.choice.items
    try:
      example, document = self._encode(shown, asked, blind)
      while shown and len(example.tokens) + room > self._max_length:
        shown = shown[1:]
        example, document = self._encode(shown, asked, blind)
    except ValueError as error:
      raise ValueError(
          f'Example {asked.query.id} with the demonstrations '
          f'{[item.id for item in shown]}: {error}') from error
    if len(example.tokens) + room > self._max_length:
      raise ValueError(
          f'Example {asked.query.id} alone has {len(example.tokens)} tokens, '
          f'and {room} more are needed for an answer; a prompt may have '
          f'{self._max_length}. Raise config.max_length if the model takes '
          'more.')
    digest = hashlib.blake2b(example.tokens.tobytes(), digest_size=8)
    digest.update(example.image_index.tobytes())
    for item in (*shown, asked.query):
      if not (blind or item is not asked.query and asked.choice.text_only):
        digest.update(self._pictures.key(item))
    return Prompt(
        example=example, demonstrations=tuple(item.id for item in shown),
        dropped=len(asked.choice.items) - len(shown),
        digest=digest.hexdigest(), text=self._spell(document))

  def candidates(self, query: Item) -> list[list[int]]:
    """Tokens that continue a prompt with each candidate.

    All end with the end of an answer where one begins another ('car', 'car
    wheel'): without it the shorter would always be at least as likely.
    """
    follows = 'text' if self.template.question(query) else 'tag'
    try:
      ids = [
          self.tokenizer.encode(
              self.template.completion(candidate), follows=follows)
          for candidate in query.candidates]
    except ValueError as error:
      raise ValueError(f'Example {query.id}: {error}') from error
    if one_begins_another(ids) or not all(ids):
      ids = [tokens + [self.tokenizer.stop_id] for tokens in ids]
    return ids

  def answer(self, tokens: Sequence[int]) -> str:
    """The answer in what was generated.

    Models without a tag at the end of an answer go on with the next example:
    cut at the first words that only a prompt has, as the paper does.
    """
    text = self.tokenizer.decode(tokens, skip_new=True, follows='text')
    return self._trim.split(text, maxsplit=1)[0].strip()

  def _encode(self, shown, asked, blind) -> tuple[Example, Document]:
    document = to_document(
        self.template, shown, asked.query,
        image=(lambda item: None) if blind else self._pictures.row,
        text_only=asked.choice.text_only)
    example = encode(document, self.tokenizer, max_images=len(document))
    if not len(example.tokens):
      # Nothing in front of the answer and no BOS: begin as behind a document.
      example = dataclasses.replace(
          example, tokens=np.asarray([self.tokenizer.eos_id], np.int32),
          image_index=np.zeros(1, np.int32), learn=np.zeros(1, bool))
    return example, document

  def _spell(self, document: Document) -> str:
    end = self.tokenizer.tags.eoc or ''
    return ''.join(
        ('' if chunk.image is None else '<image>') + chunk.text
        + end * chunk.close for chunk in document)


def _ends(template: Template) -> re.Pattern[str]:
  """What ends an answer: a keyword of the prompt, or what stands behind it."""
  words = ' '.join((template.before, template.query, template.turn))
  ends = set(re.findall(r'[A-Z][a-z]+(?: [a-z]+)*:', words))
  ends |= {end for end in (template.end, template.between) if end.strip(' ')}
  return re.compile('|'.join(map(re.escape, sorted(ends))) or r'(?!)')
