"""Text as token ids, and the tokens Flamingo adds to a language model.

No text becomes a special or a new token; only code that asks for `image_ids`
or `eoc_id` writes them, so the number of image tags is always the number of
images. What is encoded comes back letter for letter, up to the normalisation
that the language model was trained with: GPT-2, OPT, Llama and SmolLM2 have
none, GPT-NeoX composes characters (NFC), a Unigram may fold them (NFKC).
"""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import re
from typing import Literal

import tokenizers

from flamingo.data import spelling

# What a text stands behind, which decides about a SentencePiece's first space.
Follows = Literal['nothing', 'tag', 'text']


@dataclasses.dataclass(frozen=True)
class Tags:
  """What a Flamingo writes beside text, and the names of its new tokens.

  The defaults are the paper's two, both new. Others':
    OpenFlamingo   new_tokens=('<|endofchunk|>', '<image>', '<PAD>'),
                   eoc='<|endofchunk|>', pad='<PAD>'
    IDEFICS        new_tokens=('<fake_token_around_image>', '<image>'),
                   around_image='<fake_token_around_image>', eoc=None
    flamingo-mini  new_tokens=('<EOC>',); its `<image>` is plain text

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
          f'Every new token has one id; came {self.new_tokens}. Name each once, '
          'in the order of the ids.')
    for role in ('around_image', 'eoc', 'pad'):
      name = getattr(self, role)
      if name is not None and name not in self.new_tokens:
        raise ValueError(
            f'Expected {role} among the new tokens {self.new_tokens}; came '
            f'{name!r}. Add it to `new_tokens`, or pass {role}=None.')


class Tokenizer:
  """The tokenizer of a language model, with Flamingo's new tokens behind it.

  Ids below `vocab_size` are the language model's. The new tokens follow, so
  that the pretrained embedding stays as it is and new rows go beside it. It
  can be pickled, for the workers of a data pipeline.

  Attributes:
    vocab_size: number of the language model's ids, special ones included.
    special: names of its special tokens.
    tags: names of the new tokens and what they are for.
    new_tokens: names of the new tokens.
    bos_id: begins a document; None if nothing does.
    eos_id: ends a document.
    pad_id: fills a row up; often the same as `eos_id`.
    image_ids: what is written where an image is.
    image_at: which of `image_ids` is the first that sees the image.
    image_id: the image tag; None if it is no new token.
    eoc_id: ends the text of an image; None if nothing does.
  """

  def __init__(
      self,
      model: tokenizers.Tokenizer,
      special: Sequence[str],
      bos: str | None,
      eos: str,
      pad: str,
      tags: Tags = Tags(),
      *,
      vocab_size: int | None = None,
  ):
    """Wraps a `tokenizers` model; see `from_bpe` and `load_tokenizer`.

    Args:
      model: a byte-level BPE, a BPE that falls back on bytes, or a Unigram. If
        new tokens are the last of its added tokens, those are taken.
      special: tokens that no text becomes, beside those it marks as special.
      bos: token that begins a document; None if nothing does.
      eos: token that ends a document.
      pad: token that fills a row up, unless `tags` has one.
      tags: names of the new tokens and what they are for.
      vocab_size: rows of the language model's embedding, where it has more of
        them than tokens.

    Raises:
      ValueError: a special token is absent from the vocabulary, or a new token
        is in it, or it has more tokens than `vocab_size`.
    """
    vocab = model.get_vocab(with_added_tokens=True)
    added = model.get_added_tokens_decoder()
    roles = [name for name in (bos, eos, pad) if name is not None]
    absent = sorted({*special, *roles} - vocab.keys())
    if absent:
      raise ValueError(
          f'The vocabulary of {len(vocab)} tokens must hold every special '
          f'token; it lacks {absent}. Name them as the vocabulary does.')
    self.vocab_size = _first_new(
        tags, vocab, {token.content for token in added.values()}, vocab_size)
    marked = [token.content for _, token in sorted(added.items())
              if token.special]
    self._special_ids = {
        name: vocab[name] for name in dict.fromkeys((*special, *roles, *marked))
        if name not in tags.new_tokens}
    self._new_ids = {
        name: self.vocab_size + i for i, name in enumerate(tags.new_tokens)}
    self._ids = self._special_ids | self._new_ids
    self._names = {i: name for name, i in self._ids.items()}
    self._pattern = _pattern(
        self._ids, {token.content: token for token in added.values()})
    self._model = model
    self._speller = spelling.Speller(model, self._ids)

    self.special = tuple(self._special_ids)
    self.tags = tags
    self.new_tokens = tuple(tags.new_tokens)
    self.bos_id = None if bos is None else vocab[bos]
    self.eos_id = vocab[eos]
    self.pad_id = self._ids[pad if tags.pad is None else tags.pad]
    self.eoc_id = None if tags.eoc is None else self._new_ids[tags.eoc]
    self.image_id = self._new_ids.get(tags.image)
    tag = (self.image_id,)
    if self.image_id is None:
      tag = tuple(self._speller.encode(tags.image, 'tag'))
    around = () if tags.around_image is None else (
        self._new_ids[tags.around_image],)
    self.image_ids = around + tag + around
    self.image_at = len(around)

  @classmethod
  def from_bpe(
      cls,
      vocab: Sequence[str],
      merges: Sequence[str],
      special: Sequence[str],
      bos: str,
      eos: str,
      pad: str,
      tags: Tags = Tags(),
      *,
      split_digits: bool = True,
  ) -> 'Tokenizer':
    """Builds a byte-level BPE from its tables, as a GGUF file holds them.

    Args:
      vocab: tokens in the order of their ids, each byte written as GPT-2's
        printable symbol ('Ġ' is the space).
      merges: pairs 'left right', the first merged first.
      special: tokens of `vocab` that ordinary text never becomes.
      bos: token of `vocab` that begins a document, as `eos` ends it and `pad`
        fills up.
      eos: see `bos`.
      pad: see `bos`.
      tags: names of the new tokens and what they are for.
      split_digits: whether every digit is a token, as in SmolLM2.

    Raises:
      ValueError: a token occurs twice, a special token is absent from `vocab`,
        or a new token is in it.
    """
    ids = {token: i for i, token in enumerate(vocab)}
    if len(ids) != len(vocab):
      twice = sorted(token for i, token in enumerate(vocab) if ids[token] != i)
      raise ValueError(
          f'Every token has one id, but the vocabulary repeats {twice[:5]}. '
          'Pass each token once, in the order of the ids.')
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab=ids, merges=[tuple(merge.split(' ')) for merge in merges]))
    split = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=True)
    if split_digits:
      digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
      split = tokenizers.pre_tokenizers.Sequence([digits, split])
    bpe.pre_tokenizer = split
    bpe.decoder = tokenizers.decoders.ByteLevel()
    return cls(bpe, special, bos, eos, pad, tags)

  @classmethod
  def bytes(cls, tags: Tags = Tags()) -> 'Tokenizer':
    """A tokenizer without a language model: a token is a byte of UTF-8.

    Ids 0 to 255 are the bytes, then come `<bos>`, `<eos>`, `<pad>`, and the new
    tokens. It lets everything behind the tokenizer be tested in no time.
    """
    special = ('<bos>', '<eos>', '<pad>')
    return cls.from_bpe(
        [*spelling.byte_symbols(), *special], [], special, *special, tags)

  def encode(
      self,
      text: str,
      *,
      allow_special: bool = False,
      follows: Follows = 'nothing',
  ) -> list[int]:
    """Returns the ids of `text`, nothing put before or after.

    Args:
      text: any text. The name of a special token in it is text like any other.
      allow_special: read such names as the tokens they name, and those of new
        tokens that are no tag of an image or of its end. For templates of one's
        own (a chat), never for the text of others.
      follows: what the text stands behind. A SentencePiece puts a space before
        the first word of a text, old ones behind a tag too: so do we. A text
        that continues another gets none, so that the ids of two parts are those
        of the whole.

    Raises:
      ValueError: the text spells a tag, or has a character that the vocabulary
        cannot spell.
    """
    self._check(text)
    if not allow_special:
      return self._speller.encode(text, follows)
    ids = []
    for part in self._pattern.split(text):
      name = part if part in self._ids else part.strip()
      if name in self._ids:
        ids.append(self._ids[name])
        follows = 'tag'
      else:
        ids.extend(self._speller.encode(part, follows))
    return ids

  def decode(
      self,
      ids: Iterable[int],
      *,
      skip_new: bool = False,
      follows: Follows = 'nothing',
  ) -> str:
    """Returns the text of `ids`: of ids from `encode`, the text encoded.

    Args:
      ids: token ids; bytes that are no UTF-8 become U+FFFD, and rows of the
        embedding without a token nothing.
      skip_new: leave the new tokens out; else they appear by name, as the
        special tokens do.
      follows: as it was encoded.

    Raises:
      ValueError: an id is no token.
    """
    ids = [int(i) for i in ids]
    end = self.vocab_size + len(self.new_tokens)
    wrong = sorted({i for i in ids if not 0 <= i < end})
    if wrong:
      raise ValueError(
          f'Expected token ids from 0 to {end - 1}; came {wrong[:5]}. Check '
          'that the model and the tokenizer belong together.')
    if skip_new:
      ids = [i for i in ids if i < self.vocab_size]
    text = []
    for has_name, run in itertools.groupby(ids, self._names.__contains__):
      if has_name:
        text.extend(self._names[i] for i in run)
        follows = 'tag'
      else:
        text.append(self._speller.decode(list(run), follows))
    return ''.join(text)

  def clean(self, text: str) -> str:
    """Returns `text` without the characters that have no token."""
    if self._speller.can_spell(text):
      return text
    return ''.join(c for c in text if self._speller.can_spell(c))

  def single_token_words(
      self, min_letters: int, max_letters: int
  ) -> list[str]:
    """Lower-case ASCII words, sorted, that are one token behind a space."""
    name = re.compile(
        f'{self._speller.space}([a-z]{{{min_letters},{max_letters}}})')
    words = []
    for token, i in self._model.get_vocab().items():
      match = name.fullmatch(token)
      # Being in the table is not enough: the merges must lead there.
      if match and self.encode(f' {match[1]}', follows='text') == [i]:
        words.append(match[1])
    return sorted(words)

  def tagged(self, tags: Tags) -> 'Tokenizer':
    """The same language model's tokenizer with other new tokens."""
    name = lambda i: None if i is None else self._names[i]
    pad = self.eos_id if self.pad_id >= self.vocab_size else self.pad_id
    return Tokenizer(
        self._model, self.special, name(self.bos_id), name(self.eos_id),
        name(pad), tags, vocab_size=self.vocab_size)

  def _check(self, text: str) -> None:
    image = 'put the picture in `Chunk.image`, and its tag is written for you'
    end = 'leave it out: every closed `Chunk` ends with it'
    for name, instead in (
        (self.tags.image, image), (self.tags.around_image, image),
        (self.tags.eoc, end)):
      if name is not None and name in text:
        raise ValueError(
            f'Expected text without the tag {name!r}; came '
            f'{_around(text, name)}. Instead {instead}.')
    if not self._speller.can_spell(text):
      characters = sorted({c for c in text if not self._speller.can_spell(c)})
      raise ValueError(
          f'The vocabulary has no token for {characters}, which came in '
          f'{_around(text, characters[0])}. Pass `tokenizer.clean(text)`, the '
          'text without such characters.')

  def __repr__(self) -> str:
    return (
        f'Tokenizer(vocab_size={self.vocab_size}, '
        f'new_tokens={self.new_tokens})')


def _first_new(
    tags: Tags, vocab: dict[str, int], added: set[str], vocab_size: int | None
) -> int:
  """Id of the first new token: behind all of `vocab`, or the last in it."""
  size = 1 + max(vocab.values())
  there = [name for name in tags.new_tokens if name in vocab]
  if there:
    first = size - len(there)
    ids = [vocab[name] for name in tags.new_tokens[: len(there)]
           if name in added and name in vocab]
    if ids != list(range(first, size)):
      raise ValueError(
          f'Expected new tokens that the vocabulary of {size} tokens does not '
          f'have, or that are the last it was given; came {tags.new_tokens}, '
          f'of which it has {({name: vocab[name] for name in there})}. Choose '
          'other names, or name all that it was given, in their order.')
    size = first
  if vocab_size is not None and (
      vocab_size < size or there and vocab_size > size):
    raise ValueError(
        f'The tokenizer has {size} tokens'
        f'{" before its new ones" if there else ""}, but the embedding of the '
        f'language model has {vocab_size} rows. Load the tokenizer that belongs '
        'to the model.')
  return size if vocab_size is None else vocab_size


def _pattern(
    ids: dict[str, int], added: dict[str, tokenizers.AddedToken]
) -> re.Pattern:
  """Matches the names of tokens, with the spaces that some of them take in."""
  parts = []
  # Of two names with one beginning the longer one is meant.
  for name in sorted(ids, key=len, reverse=True):
    token = added.get(name)
    left = r'\s*' if token is not None and token.lstrip else ''
    right = r'\s*' if token is not None and token.rstrip else ''
    parts.append(left + re.escape(name) + right)
  return re.compile(f"({'|'.join(parts)})")


def _around(text: str, part: str, margin: int = 20) -> str:
  """`part` in quotes with a little of the text before and behind it."""
  start = text.index(part)
  return repr(text[max(0, start - margin): start + len(part) + margin])
