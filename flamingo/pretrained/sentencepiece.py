"""SentencePiece's byte-pair encodings, without its library.

Llama, Mistral and Gemma are trained with it. The file `tokenizer.model` is a
protocol buffer of pieces with scores; the merges follow from them: two pieces
merge if both together are one, those of the best score first.
"""

from collections.abc import Iterator, Sequence
import os
import pathlib
import struct

import tokenizers

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # types of pieces
_BPE = 2  # type of model
_HOW_ELSE = (
    'Save it as tokenizer.json with `transformers.AutoTokenizer'
    '.from_pretrained(directory).save_pretrained(directory)`.')


def load(
    path: str | os.PathLike, *, legacy: bool = True
) -> tokenizers.Tokenizer:
  """Loads a `tokenizer.model`, as `transformers` converts Llama's.

  Args:
    path: the file.
    legacy: whether text behind a special token gets a space in front too, as
      at the beginning (`legacy` in tokenizer_config.json).

  Raises:
    ValueError: it is no such file, or no BPE, or normalises text.
  """
  data = pathlib.Path(path).read_bytes()
  pieces, scores, types = [], [], []
  trainer, normalizer = {}, {}
  try:
    # Numbers of the fields, as in sentencepiece_model.proto.
    for number, value in _fields(data):
      if number == 1:
        piece = dict(_fields(value))
        pieces.append(piece[1].decode())
        scores.append(struct.unpack('<f', piece.get(2, bytes(4)))[0])
        types.append(piece.get(3, 1))
      elif number == 2:
        trainer = dict(_fields(value))
      elif number == 3:
        normalizer = dict(_fields(value))
  except (ValueError, KeyError, IndexError, TypeError, AttributeError,
          struct.error):
    pieces = []
  if not pieces:
    raise ValueError(
        f'{path} is no SentencePiece model: it may be cut off, or a table of '
        f'tiktoken, as the first Llama 3 files have. {_HOW_ELSE}')
  kind = trainer.get(3, 1)
  if kind != _BPE:
    names = {1: 'Unigram', 3: 'word', 4: 'character'}
    raise ValueError(
        f'{path} holds a model of the kind {names.get(kind, kind)}; expected a '
        f'BPE. {_HOW_ELSE}')
  if normalizer.get(2) or normalizer.get(4, 1):
    raise ValueError(
        f'{path} normalises text before it splits it; expected a model that '
        f'leaves it as it is, as those of Llama and Gemma do. {_HOW_ELSE}')
  unk = trainer.get(45, b'<unk>').decode()
  return build(
      pieces, scores, types, unk=unk if unk in pieces else None,
      prefix_space=bool(normalizer.get(3, 1)), legacy=legacy)


def build(
    pieces: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    unk: str | None,
    prefix_space: bool = True,
    legacy: bool = True,
) -> tokenizers.Tokenizer:
  """Builds the tokenizer of pieces; see `pretrained.tokenizer.from_pieces`.

  Raises:
    ValueError: the tables differ in length, or a piece occurs twice.
  """
  if not len(pieces) == len(scores) == len(types):
    raise ValueError(
        f'Every piece has a score and a type; came {len(pieces)} pieces, '
        f'{len(scores)} scores and {len(types)} types. Pass tables of one '
        'length.')
  ids = {piece: i for i, piece in enumerate(pieces)}
  if len(ids) != len(pieces):
    twice = sorted(p for i, p in enumerate(pieces) if ids[p] != i)
    raise ValueError(
        f'Every piece has one id, but the table repeats {twice[:5]}. Pass each '
        'piece once, in the order of the ids.')
  # Gemma has pieces of several tabs but a tab by itself is a byte: under its
  # own name it can be merged.
  letters = {c for p, kind in zip(pieces, types) if kind != _BYTE for c in p}
  for letter in letters - ids.keys():
    byte = f'<0x{ord(letter):02X}>'
    if letter.isascii() and byte in ids:
      ids[letter] = ids.pop(byte)
  model = tokenizers.Tokenizer(tokenizers.models.BPE(
      vocab=ids, merges=_merges(ids, scores, types), unk_token=unk,
      fuse_unk=True, byte_fallback=True))
  space = tokenizers.normalizers.Replace(' ', '▁')
  if prefix_space and legacy:
    space = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend('▁'), space])
  if legacy or not prefix_space:
    model.normalizer = space
  else:
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
        replacement='▁', prepend_scheme='first', split=False)
  parts = [
      tokenizers.decoders.Replace('▁', ' '),
      tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
  if prefix_space:
    parts.append(tokenizers.decoders.Strip(' ', 1, 0))
  model.decoder = tokenizers.decoders.Sequence(parts)
  model.add_tokens([
      tokenizers.AddedToken(piece, normalized=False, special=kind == _CONTROL)
      for piece, kind in zip(pieces, types)
      if kind in (_CONTROL, _USER_DEFINED)])
  return model


def _merges(
    ids: dict[str, int], scores: Sequence[float], types: Sequence[int]
) -> list[tuple[str, str]]:
  """Every pair that makes a piece, the first merged first."""
  pairs = []
  for piece, i in ids.items():
    if types[i] in (_UNKNOWN, _CONTROL, _BYTE):  # no text becomes these
      continue
    ways = [
        (piece[:at], piece[at:]) for at in range(1, len(piece))
        if piece[:at] in ids and piece[at:] in ids]
    ways.sort(key=lambda way: (ids[way[0]], ids[way[1]]))
    pairs += [(-scores[i], -len(left), -len(right), left, right)
              for left, right in ways]
  pairs.sort(key=lambda pair: pair[:3])
  return [(left, right) for *_, left, right in pairs]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
  """(number, value) of each field of a protocol buffer's message."""
  at = 0
  while at < len(data):
    key, at = _varint(data, at)
    wire = key & 7
    if wire == 0:
      value, at = _varint(data, at)
    else:
      size = {1: 8, 5: 4}.get(wire)
      if wire == 2:
        size, at = _varint(data, at)
      if size is None or at + size > len(data):
        raise ValueError('no message')
      value, at = data[at : at + size], at + size
    yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """An integer of seven bits a byte, and where the next thing begins."""
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at
