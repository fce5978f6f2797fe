"""How a vocabulary spells plain text: by bytes, by characters, with spaces.

Behind `Tokenizer`, around the library `tokenizers`: text is text here, and a
special token is not spelled by it, whatever its name.
"""

from collections.abc import Mapping
import json
from typing import Any

import tokenizers

_ENDS = ('normalizer', 'pre_tokenizer', 'decoder')
_LAST_CHARACTER = '\U0010ffff'  # assigned to nothing, so in no vocabulary


class Speller:
  """Plain text to ids and back.

  Attributes:
    space: how the vocabulary writes a space.
  """

  def __init__(self, model: tokenizers.Tokenizer, named: Mapping[str, int]):
    """Wraps `model`; `named` are the special tokens, never spelled."""
    self._model, self._named = model, dict(named)
    self._build()

  def _build(self) -> None:
    """All that is made of the model; again, after pickling."""
    ends = _ends_of(self._model)
    joined = {end: _without_first_space(ends[end], end) for end in _ENDS}
    self._apart = _plain(self._model, ends, self._named)
    self._joined = self._apart
    if joined != ends:
      self._joined = _plain(self._model, joined, self._named)
    text = json.dumps(ends['pre_tokenizer'])
    self._after_tag = (
        self._joined if '"prepend_scheme": "first"' in text else self._apart)

    vocab = self._model.get_vocab(with_added_tokens=True)
    by_bytes = 'ByteLevel' in text or 'ByteLevel' in json.dumps(
        ends['normalizer'])
    self.space = 'Ġ' if by_bytes else '▁'
    # A BPE drops what it cannot spell without a word. SmolLM2 lacks six control
    # characters and the lead bytes of planes 4 to 11, which are unassigned.
    self._missing_bytes = b''
    self._unknown_id = None
    self._drops = False
    if by_bytes:
      self._missing_bytes = bytes(
          byte for byte, symbol in enumerate(byte_symbols())
          if symbol not in vocab)
    elif not all(
        f'<0x{byte:02X}>' in vocab or byte < 128 and chr(byte) in vocab
        for byte in range(256)):
      probe = self._model.model.tokenize(_LAST_CHARACTER)
      self._drops = not probe
      self._unknown_id = probe[0].id if len(probe) == 1 else None
    self._named_ids = frozenset(self._named.values())

  def __getstate__(self):
    return self._model, self._named

  def __setstate__(self, state):
    self._model, self._named = state
    self._build()

  def encode(self, text: str, follows: str) -> list[int]:
    """Ids of `text`; see `Tokenizer.encode`."""
    ids = self._behind(follows).encode(text, add_special_tokens=False).ids
    if self._named_ids.isdisjoint(ids):
      return ids
    # A piece of a Unigram, or what merges lead to, can have a special token's
    # name. Cut behind its first letter the name is text.
    for name, i in self._named.items():
      if i in ids and len(name) > 1 and name in text:
        at = text.index(name) + 1
        return (self.encode(text[:at], follows)
                + self.encode(text[at:], 'text'))
    if self._named_ids.isdisjoint(set(ids) - {self._unknown_id}):
      return ids  # for `can_spell` to judge
    raise ValueError(
        f'{text!r} is spelled with the special tokens '
        f'{sorted(n for n, i in self._named.items() if i in ids)}. Leave them '
        'out of the text.')

  def decode(self, ids: list[int], follows: str) -> str:
    """Text of `ids`; see `Tokenizer.decode`."""
    return self._behind(follows).decode(ids, skip_special_tokens=False)

  def can_spell(self, text: str) -> bool:
    """Whether nothing of `text` would be lost."""
    try:
      data = text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which is no character
      return False
    if self._missing_bytes:
      return len(data.translate(None, self._missing_bytes)) == len(data)
    if self._drops:
      return all(
          self._joined.encode(c).ids for c in set(text) if not c.isspace())
    if self._unknown_id is not None:
      return self._unknown_id not in self.encode(text, 'text')
    return True

  def _behind(self, follows: str) -> tokenizers.Tokenizer:
    return {
        'nothing': self._apart, 'tag': self._after_tag, 'text': self._joined,
    }[follows]


def byte_symbols() -> list[str]:
  """The printable character that stands for each byte in GPT-2's tables."""
  shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  others = iter(range(0x100, 0x200))
  return [chr(i if i in shown else next(others)) for i in range(256)]


def _ends_of(model: tokenizers.Tokenizer) -> dict[str, Any]:
  """What is done before and behind the model, as `tokenizer.json` has it."""
  shell = tokenizers.Tokenizer(tokenizers.models.BPE())
  _set_ends(shell, model)
  state = json.loads(shell.to_str())
  return {end: state[end] for end in _ENDS}


def _set_ends(
    model: tokenizers.Tokenizer, other: tokenizers.Tokenizer
) -> None:
  for end in _ENDS:
    if getattr(other, end) is not None:
      setattr(model, end, getattr(other, end))


def _without_first_space(node: Any, end: str) -> Any:
  """The same without the space that is put before the first word."""
  if isinstance(node, list):
    changed = [_without_first_space(item, end) for item in node]
    return [item for item in changed if item is not None]
  if not isinstance(node, dict):
    return node
  if end == 'normalizer' and node.get('type') == 'Prepend':
    return None
  if end == 'decoder' and node.get('type') == 'Strip':
    return None
  node = {key: _without_first_space(value, end) for key, value in node.items()}
  if 'prepend_scheme' in node:
    node['prepend_scheme'] = 'never'
  if end == 'pre_tokenizer' and 'add_prefix_space' in node:
    node['add_prefix_space'] = False
  return node


def _plain(
    model: tokenizers.Tokenizer, ends: dict[str, Any], named: Mapping[str, int]
) -> tokenizers.Tokenizer:
  """`model` between such ends, which reads no name as the token it names."""
  shell = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
  plain = tokenizers.Tokenizer(model.model)  # shares the vocabulary
  _set_ends(plain, tokenizers.Tokenizer.from_str(json.dumps(shell | ends)))
  added = model.get_added_tokens_decoder()
  tokens = []
  for _, token in sorted(added.items()):
    token.special = token.special or token.content in named
    tokens.append(token)
  plain.add_tokens(tokens)
  plain.encode_special_tokens = True
  moved = {
      token.content: i for i, token in added.items()
      if plain.token_to_id(token.content) != i}
  if moved:
    raise ValueError(
        f'The ids of the added tokens {moved} leave a gap. Save the tokenizer '
        'anew, with added tokens directly behind its vocabulary.')
  return plain
