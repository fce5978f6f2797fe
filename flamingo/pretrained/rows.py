"""Rows of an embedding: those of the language model, then of the new tokens.

Many files have both in one tensor, and some have rows of no token between.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import pathlib

from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained import layouts
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.rules import Rule
from flamingo.pretrained.tokenizer import check_fits


def with_new_rows(rules: Iterable[Rule]) -> list[Rule]:
  """Rules of an LM whose embedding also holds the rows of the new tokens."""
  result = []
  for rule in rules:
    if rule.ours == ('lm/embed/embedding',):
      rule = Rule.of(rule.theirs, (*rule.ours, 'new_embedding'), rule.layout)
    elif rule.ours == ('lm/unembed/kernel',):
      rule = Rule.of(
          rule.theirs, (*rule.ours, 'new_unembedding'),
          f'{rule.layout}, r m -> r m')
    result.append(rule)
  return result


def new_rows(
    tensors: Mapping[str, Stored],
    embedding: str,
    tokenizer: Tokenizer,
    path: pathlib.Path,
) -> int:
  """Number of rows that an embedding has behind the language model's tokens.

  Args:
    tensors: of a whole model.
    embedding: name of its embedding.
    tokenizer: of the language model, with the model's tags.
    path: of the model, for messages.

  Raises:
    ValueError: there is no embedding, or it has fewer rows than there are
      tokens.
  """
  if embedding not in tensors:
    raise ValueError(
        f'{path} has no {embedding}, the embedding of the language model that '
        'its config.json tells of; it has '
        f'{layouts.some(tensors)}. Fetch config.json again.')
  new = tensors[embedding].shape[0] - tokenizer.vocab_size
  if new < len(tokenizer.new_tokens):
    check_fits(
        tokenizer, tokenizer.vocab_size, new, what=f'{embedding} in {path}')
  return new


def cut_rows(
    tensors: Mapping[str, Stored], rules: Iterable[Rule], rows: int
) -> dict[str, Stored]:
  """Tensors of an LM without the rows that pad its vocabulary.

  Some embeddings have more rows than the tokenizer has tokens, for the sake of
  speed. OpenFlamingo cuts them to the tokenizer's length before it adds its own
  tokens, so that these have the next ids.

  Args:
    tensors: of the language model alone.
    rules: how they become ours.
    rows: number of tokens.
  """
  tensors = dict(tensors)
  for rule in rules:
    if rule.ours[0] in ('lm/embed/embedding', 'lm/unembed/kernel'):
      whole = tensors.get(rule.theirs)
      if whole is not None and whole.shape[0] > rows:
        tensors[rule.theirs] = dataclasses.replace(
            whole, shape=(rows, *whole.shape[1:]),
            read=lambda read=whole.read: read()[:rows])
  return tensors
