"""What each Flamingo writes beside text: tags of images, ends of their texts.

The paper's model has `<image>` and `<EOC>`; its successors write them in other
ways. Here that is data: `Tokenizer` gives the names ids, `encode` writes them.
"""

from collections.abc import Collection, Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class Tags:
  """Names of the new tokens behind a language model's, and what they are for.

  Attributes:
    new_tokens: names, in the order of their ids.
    image: stands where an image is: a new token, or text that is written with
      its ordinary tokens.
    around_image: new token on both sides of `image`; between two images that
      follow each other it stands once.
    eoc: new token that ends the text of an image; None if nothing does.
    pad: new token that fills a row up; None for the language model's own.
  """

  new_tokens: tuple[str, ...] = ('<image>', '<EOC>')
  image: str = '<image>'
  around_image: str | None = None
  eoc: str | None = '<EOC>'
  pad: str | None = None

  def __post_init__(self):
    if len(set(self.new_tokens)) != len(self.new_tokens):
      raise ValueError(
          f'Every new token has one id; came {self.new_tokens}. Name each '
          'once, in the order of the ids.')
    for role in ('around_image', 'eoc', 'pad'):
      name = getattr(self, role)
      if name is not None and name not in self.new_tokens:
        raise ValueError(
            f'Expected {role} among the new tokens {self.new_tokens}; came '
            f'{name!r}. Add it to `new_tokens`, or pass {role}=None.')

  def check(self, text: str) -> None:
    """Raises a ValueError if `text` spells a tag, which only code may write."""
    image = 'put the picture in `Chunk.image`, and its tag is written for you'
    end = 'leave it out: every closed `Chunk` ends with it'
    for name, instead in (
        (self.image, image), (self.around_image, image), (self.eoc, end)):
      if name is not None and name in text:
        raise ValueError(
            f'Expected text without the tag {name!r}; came '
            f'{around(text, name)}. Instead {instead}.')

  def first_id(
      self, vocab: Mapping[str, int], added: Collection[str],
      vocab_size: int | None = None,
  ) -> int:
    """The id of the first new token: behind all others.

    Args:
      vocab: all tokens there are. The new tokens may be the last of them, if a
        published Flamingo's tokenizer has them.
      added: those that were added after the vocabulary was made.
      vocab_size: rows of the language model's embedding, where it has more of
        them than tokens.

    Raises:
      ValueError: a new token is among the language model's, or there are more
        tokens than `vocab_size`.
    """
    size = 1 + max(vocab.values())
    there = {name: vocab[name] for name in self.new_tokens if name in vocab}
    first = size - len(there)
    in_order = [vocab.get(name) for name in self.new_tokens[: len(there)]]
    if there and not (
        in_order == list(range(first, size)) and there.keys() <= set(added)):
      raise ValueError(
          f'Expected new tokens that the vocabulary of {size} tokens does not '
          f'have, or the last that were added to it; came {self.new_tokens}, '
          f'of which it has {there}. Choose other names, or name all that were '
          'added, in their order.')
    if vocab_size is None:
      return first
    if vocab_size < first or there and vocab_size > first:
      raise ValueError(
          f'The tokenizer has {first} tokens'
          f'{" before its new ones" if there else ""}, but the embedding of '
          f'the language model has {vocab_size} rows. Load the tokenizer that '
          'belongs to the model.')
    return vocab_size


FLAMINGO = Tags()
OPENFLAMINGO = Tags(
    new_tokens=('<|endofchunk|>', '<image>', '<PAD>'), eoc='<|endofchunk|>',
    pad='<PAD>')
# OPT and others have a token for padding, so that none is added.
OPENFLAMINGO_UNPADDED = Tags(
    new_tokens=('<|endofchunk|>', '<image>'), eoc='<|endofchunk|>')
IDEFICS = Tags(
    new_tokens=('<fake_token_around_image>', '<image>'),
    around_image='<fake_token_around_image>', eoc=None)
IDEFICS_INSTRUCT = dataclasses.replace(
    IDEFICS, new_tokens=IDEFICS.new_tokens + ('<end_of_utterance>',))
FLAMINGO_MINI = Tags(new_tokens=('<EOC>',))  # its image tag is plain text


def around(text: str, part: str, margin: int = 20) -> str:
  """`part` in quotes with a little of the text before and behind it."""
  start = text.index(part)
  return repr(text[max(0, start - margin): start + len(part) + margin])
