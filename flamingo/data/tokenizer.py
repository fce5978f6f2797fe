"""Text as token ids, and the tokens Flamingo adds to a language model.

No text becomes a special or a new token; only code that asks for `image_ids`
or `eoc_id` writes them, so the number of image tags is always the number of
images. What is encoded comes back letter for letter, up to the normalisation
that the language model was trained with: GPT-2, OPT, Llama and SmolLM2 have
none, GPT-NeoX composes characters (NFC), a Unigram may fold them (NFKC).
"""

from collections.abc import Iterable, Sequence
import itertools
import json
import os
import pathlib
import re
from typing import Literal

import tokenizers

from flamingo.data import spelling
from flamingo.data.tags import around, FLAMINGO, Tags

# What a text stands behind, which decides about a SentencePiece's first space.
Follows = Literal['nothing', 'tag', 'text']


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
    stop_id: ends an answer: `eoc_id`, or else `eos_id`.
    unsaid_ids: new tokens of image tags, which a model is not asked to say.
  """

  def __init__(
      self,
      model: tokenizers.Tokenizer,
      special: Sequence[str],
      bos: str | None,
      eos: str,
      pad: str,
      tags: Tags = FLAMINGO,
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
    self.vocab_size = tags.first_id(
        vocab, {token.content for token in added.values()}, vocab_size)
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
    self._roles = bos, eos, pad
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
    self.stop_id = self.eos_id if self.eoc_id is None else self.eoc_id
    self.unsaid_ids = tuple(sorted(
        {i for i in self.image_ids if i >= self.vocab_size}))

  @classmethod
  def from_bpe(
      cls,
      vocab: Sequence[str],
      merges: Sequence[str],
      special: Sequence[str],
      bos: str | None,
      eos: str,
      pad: str,
      tags: Tags = FLAMINGO,
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
        fills up; None if nothing begins it.
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
  def bytes(cls, tags: Tags = FLAMINGO) -> 'Tokenizer':
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
    return Tokenizer(
        self._model, self.special, *self._roles, tags,
        vocab_size=self.vocab_size)

  def save(self, directory: str | os.PathLike) -> None:
    """Writes the files that `load_tokenizer` and `transformers` read.

    The new tokens are among them, unless the embedding has rows of no token in
    front of theirs: the format has no such gap.

    Args:
      directory: made if it is not there.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model = tokenizers.Tokenizer.from_str(self._model.to_str())
    model.add_special_tokens(list(self.special))
    bos, eos, pad = self._roles
    vocab = self._model.get_vocab()
    there = sum(name in vocab for name in self.new_tokens)
    if self.vocab_size + there == 1 + max(vocab.values()):
      model.add_special_tokens(list(self.new_tokens))
    if model.token_to_id(self.tags.pad or pad) == self.pad_id:
      pad = self.tags.pad or pad
    if bos is not None:
      model.post_processor = tokenizers.processors.TemplateProcessing(
          single=f'{bos} $A', special_tokens=[(bos, self.bos_id)])
    else:
      model.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    model.save(str(directory / 'tokenizer.json'))
    config = dict(
        tokenizer_class='PreTrainedTokenizerFast', bos_token=bos,
        eos_token=eos, pad_token=pad, add_bos_token=bos is not None,
        clean_up_tokenization_spaces=False)
    (directory / 'tokenizer_config.json').write_text(
        json.dumps(config, indent=2, ensure_ascii=False))

  def _check(self, text: str) -> None:
    self.tags.check(text)
    if not self._speller.can_spell(text):
      characters = sorted({c for c in text if not self._speller.can_spell(c)})
      raise ValueError(
          f'The vocabulary has no token for {characters}, which came in '
          f'{around(text, characters[0])}. Pass `tokenizer.clean(text)`, the '
          'text without such characters.')

  def __repr__(self) -> str:
    return (
        f'Tokenizer(vocab_size={self.vocab_size}, '
        f'new_tokens={self.new_tokens})')


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
