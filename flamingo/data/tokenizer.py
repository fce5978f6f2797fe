"""Text as token ids, and the two tokens Flamingo adds to a language model.

A byte-level BPE, as in GPT-2, without any normalisation: what is encoded comes
back letter for letter. `<image>` and `<EOC>` have no spelling. No text becomes
one of them; only code that asks for `image_id` or `eoc_id` writes them, so the
number of `<image>` tokens is always the number of images.
"""

from collections.abc import Iterable, Sequence
import itertools
import re

import tokenizers

# What to do instead of writing the tag, for each of the two new tokens.
_INSTEAD = (
    'put the picture in `Chunk.image`, and its tag is written for you',
    'leave it out: every closed `Chunk` ends with it',
)


class Tokenizer:
  """The tokenizer of a language model, with `<image>` and `<EOC>` behind it.

  Ids below `vocab_size` are the language model's. The new tokens follow, so
  that the pretrained embedding stays as it is and two new rows go beside it.
  It can be pickled, for the workers of a data pipeline.

  Attributes:
    vocab_size: number of the language model's tokens, special ones included.
    special: names of its special tokens.
    new_tokens: names of the new tokens: the image tag, the end of a chunk.
    bos_id: begins a document.
    eos_id: ends a document.
    pad_id: fills a row up; often the same as `eos_id`.
    image_id: stands where an image is.
    eoc_id: ends the text of an image.
  """

  def __init__(
      self,
      bpe: tokenizers.Tokenizer,
      special: Sequence[str],
      bos: str,
      eos: str,
      pad: str,
      new_tokens: tuple[str, str] = ('<image>', '<EOC>'),
  ):
    """Wraps `bpe`, a byte-level model without added tokens; see `from_bpe`."""
    vocab = bpe.get_vocab()
    absent = sorted({*special, bos, eos, pad} - vocab.keys())
    if absent:
      raise ValueError(
          f'The vocabulary of {len(vocab)} tokens must hold every special '
          f'token; it lacks {absent}. Name them as the vocabulary does.')
    if len(set(new_tokens)) != 2 or not vocab.keys().isdisjoint(new_tokens):
      raise ValueError(
          'Expected two new tokens that the vocabulary does not have, an image '
          f'tag and an end of chunk; came {tuple(new_tokens)}. Choose other '
          'names.')
    self._bpe = bpe
    self._special_ids = {
        name: vocab[name] for name in dict.fromkeys((*special, bos, eos, pad))}
    # Of two names with one beginning the longer one is meant.
    longest_first = sorted(self._special_ids, key=len, reverse=True)
    self._special_pattern = re.compile(
        f"({'|'.join(map(re.escape, longest_first))})")
    # A BPE drops what it cannot spell without a word. SmolLM2 lacks six control
    # characters and the lead bytes of planes 4 to 11, which are unassigned.
    self._missing_bytes = bytes(
        byte for byte, symbol in enumerate(_byte_symbols())
        if symbol not in vocab)
    self.vocab_size = len(vocab)
    self.special = tuple(self._special_ids)
    self.new_tokens = tuple(new_tokens)
    self.bos_id = vocab[bos]
    self.eos_id = vocab[eos]
    self.pad_id = vocab[pad]
    self.image_id = self.vocab_size
    self.eoc_id = self.vocab_size + 1

  @classmethod
  def from_bpe(
      cls,
      vocab: Sequence[str],
      merges: Sequence[str],
      special: Sequence[str],
      bos: str,
      eos: str,
      pad: str,
      new_tokens: tuple[str, str] = ('<image>', '<EOC>'),
      *,
      split_digits: bool = True,
  ) -> 'Tokenizer':
    """Builds a byte-level BPE from its tables, as a GGUF file holds them.

    Args:
      vocab: tokens in the order of their ids, each byte written as GPT-2's
        printable symbol ('Ġ' is the space).
      merges: pairs 'left right', the first merged first.
      special: tokens of `vocab` that ordinary text never becomes.
      bos: token that begins a document, as `eos` ends it and `pad` fills up.
      eos: see `bos`.
      pad: see `bos`.
      new_tokens: names of the image tag and of the end of a chunk.
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
    return cls(bpe, special, bos, eos, pad, new_tokens)

  @classmethod
  def bytes(cls) -> 'Tokenizer':
    """A tokenizer without a language model: a token is a byte of UTF-8.

    Ids 0 to 255 are the bytes, then come `<bos>`, `<eos>`, `<pad>`, and the new
    tokens. It lets everything behind the tokenizer be tested in no time.
    """
    special = ('<bos>', '<eos>', '<pad>')
    return cls.from_bpe([*_byte_symbols(), *special], [], special, *special)

  def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
    """Returns the ids of `text`, nothing put before or after.

    Args:
      text: any text. The name of a special token in it is text like any other.
      allow_special: read such names as the tokens they name. For templates of
        one's own (a chat), never for the text of others.

    Raises:
      ValueError: the text spells a new token, or has a character that the
        vocabulary cannot spell.
    """
    for name, instead in zip(self.new_tokens, _INSTEAD):
      if name in text:
        raise ValueError(
            f'Expected text without the tag {name!r}; came '
            f'{_around(text, name)}. Instead {instead}.')
    if self._is_unspellable(text):
      characters = sorted({c for c in text if self._is_unspellable(c)})
      raise ValueError(
          f'The vocabulary has no token for {characters}, which came in '
          f'{_around(text, characters[0])}. Pass `tokenizer.clean(text)`, the '
          'text without such characters.')
    if not allow_special:
      return self._bpe.encode(text).ids
    ids = []
    for part in self._special_pattern.split(text):
      if part in self._special_ids:
        ids.append(self._special_ids[part])
      else:
        ids.extend(self._bpe.encode(part).ids)
    return ids

  def decode(self, ids: Iterable[int], *, skip_new: bool = False) -> str:
    """Returns the text of `ids`: of ids from `encode`, the text encoded.

    Args:
      ids: token ids; bytes that are no UTF-8 become U+FFFD.
      skip_new: leave the new tokens out; else they appear by name, as the
        special tokens do.

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
    for is_new, run in itertools.groupby(ids, lambda i: i >= self.vocab_size):
      if is_new:
        text.extend(self.new_tokens[i - self.vocab_size] for i in run)
      else:
        text.append(self._bpe.decode(list(run), skip_special_tokens=False))
    return ''.join(text)

  def clean(self, text: str) -> str:
    """Returns `text` without the characters that have no token."""
    if not self._is_unspellable(text):
      return text
    return ''.join(c for c in text if not self._is_unspellable(c))

  def single_token_words(
      self, min_letters: int, max_letters: int
  ) -> list[str]:
    """Lower-case ASCII words, sorted, that are one token behind a space."""
    name = re.compile(f'Ġ([a-z]{{{min_letters},{max_letters}}})')
    words = []
    for token, i in self._bpe.get_vocab().items():
      match = name.fullmatch(token)
      # Being in the table is not enough: the merges must lead there.
      if match and self.encode(f' {match[1]}') == [i]:
        words.append(match[1])
    return sorted(words)

  def _is_unspellable(self, text: str) -> bool:
    try:
      data = text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which is no character
      return True
    return len(data.translate(None, self._missing_bytes)) != len(data)

  def __repr__(self) -> str:
    return (
        f'Tokenizer(vocab_size={self.vocab_size}, '
        f'new_tokens={self.new_tokens})')


def _byte_symbols() -> list[str]:
  """The printable character that stands for each byte in GPT-2's tables."""
  shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  others = itertools.count(0x100)
  return [chr(i if i in shown else next(others)) for i in range(256)]


def _around(text: str, part: str, margin: int = 20) -> str:
  """`part` in quotes with a little of the text before and behind it."""
  start = text.index(part)
  return repr(text[max(0, start - margin): start + len(part) + margin])
