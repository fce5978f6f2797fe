"""A published language model's tokenizer, with Flamingo's new tokens behind it.

From the files that stand beside the weights, in this order: `tokenizer.json`,
of the library `tokenizers`; `vocab.json` and `merges.txt`, as GPT-2 and OPT
have; `tokenizer.model`, of SentencePiece. Ids are those of `transformers`
without the special tokens that it puts around a text.
"""

from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any

import tokenizers

from flamingo.data.tags import FLAMINGO, Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained import sentencepiece

_ROLES = ('bos_token', 'eos_token', 'pad_token', 'unk_token')

# What `transformers` takes where the files do not say, by the beginning of
# `tokenizer_class`.
_END_OF_TEXT = dict(
    bos_token='<|endoftext|>', eos_token='<|endoftext|>',
    unk_token='<|endoftext|>')
_DEFAULTS = {
    'GPT2': _END_OF_TEXT,
    'GPTNeoX': _END_OF_TEXT,
    'Llama': dict(
        bos_token='<s>', eos_token='</s>', unk_token='<unk>',
        add_bos_token=True),
    'Gemma': dict(
        bos_token='<bos>', eos_token='<eos>', unk_token='<unk>',
        pad_token='<pad>', add_bos_token=True),
}


def load_tokenizer(
    directory: str | os.PathLike,
    tags: Tags = FLAMINGO,
    *,
    vocab_size: int | None = None,
    begin: bool | None = None,
) -> Tokenizer:
  """Loads the tokenizer in a Hugging Face directory.

  Args:
    directory: holds one of `tokenizer.json`, `vocab.json` with `merges.txt`, or
      `tokenizer.model`; and what there is of `tokenizer_config.json`,
      `special_tokens_map.json`, `added_tokens.json` and `config.json`.
    tags: names of the new tokens and what they are for. Those that the files
      have already, as their last ones, keep their ids.
    vocab_size: rows of the language model's embedding, where it has more of
      them than tokens.
    begin: whether a document begins with the model's BOS. By default as its own
      tokenizer does: Llama, Gemma and OPT do, GPT-2, GPT-NeoX and MPT do not.

  Raises:
    FileNotFoundError: there is no tokenizer.
    ValueError: it is of a kind that is not known, or does not fit `vocab_size`.
  """
  directory = pathlib.Path(directory)
  config = _read_json(directory / 'tokenizer_config.json')
  for beginning, defaults in _DEFAULTS.items():
    if config.get('tokenizer_class', '').startswith(beginning):
      config = defaults | config
  if (directory / 'tokenizer.json').exists():
    model = _open_json(directory / 'tokenizer.json')
  elif (directory / 'vocab.json').exists() and (
      directory / 'merges.txt').exists():
    model = _open_bpe(directory, add_prefix_space=config.get(
        'add_prefix_space', False))
  elif (directory / 'tokenizer.model').exists():
    model = sentencepiece.load(
        directory / 'tokenizer.model', legacy=config.get('legacy') is not False)
  else:
    there = sorted(path.name for path in directory.glob('*'))
    raise FileNotFoundError(
        f'Expected tokenizer.json, or vocab.json and merges.txt, or '
        f'tokenizer.model in {directory}; came {there or "nothing"}. Copy the '
        "language model's tokenizer there, or pass the directory that has it.")
  try:
    special, roles = _add_tokens(model, directory, config)
    eos = roles.get('eos_token')
    if eos is None:
      raise ValueError(
          'no file says which token ends a document. Write "eos_token" into '
          'tokenizer_config.json.')
    if begin is None:
      begin = config.get('add_bos_token')
    bos = _first_token(model)  # what tokenizer.json itself puts in front
    if begin is not None:
      bos = roles.get('bos_token') if begin else None
      if begin and bos is None:
        raise ValueError(
            'no file says which token begins a document. Write "bos_token" '
            'into tokenizer_config.json, or pass begin=False.')
    return Tokenizer(
        model, special, bos, eos, roles.get('pad_token', eos), tags,
        vocab_size=vocab_size)
  except ValueError as error:
    raise ValueError(f'{directory}: {error}') from None


def check_fits(
    tokenizer: Tokenizer,
    rows: int,
    new_rows: int | None = None,
    *,
    what: str = 'The embedding',
) -> None:
  """Checks that each id has a row, and each row of new tokens a token.

  Args:
    tokenizer: with the model's tags.
    rows: of the language model's own tokens.
    new_rows: of the new ones, if there are any yet.
    what: the array, for the message.

  Raises:
    ValueError: they differ.
  """
  new = len(tokenizer.new_tokens)
  if rows != tokenizer.vocab_size or new_rows not in (None, new):
    came = f'{rows}' if new_rows is None else f'{rows} and {new_rows} new'
    raise ValueError(
        f'{what} has {came} rows, but the tokenizer {tokenizer.vocab_size} '
        f'tokens and {new} new ones, {tokenizer.new_tokens}. Load the '
        'tokenizer that belongs to the model. If the embedding was padded with '
        'rows of no token, load it with `vocab_size`; else check the tags.')


def from_pieces(
    pieces: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    bos: str | None,
    eos: str,
    pad: str,
    unk: str | None,
    prefix_space: bool = True,
    tags: Tags = FLAMINGO,
    vocab_size: int | None = None,
) -> Tokenizer:
  """Builds a SentencePiece BPE from its tables, as a GGUF file holds them.

  Args:
    pieces: tokens in the order of their ids, '▁' for a space.
    scores: of the pieces; of two merges the one with the better is done first.
    types: of the pieces: 1 normal, 2 unknown, 3 control, 4 user-defined, 5
      unused, 6 byte.
    bos: token that begins a document; None if nothing does.
    eos: token that ends a document.
    pad: token that fills a row up.
    unk: token of what cannot be spelled, if there is one.
    prefix_space: whether a text's first word gets a space in front.
    tags: names of the new tokens and what they are for.
    vocab_size: rows of the embedding, where it has more of them than tokens.

  Raises:
    ValueError: the tables contradict each other.
  """
  model = sentencepiece.build(
      pieces, scores, types, unk=unk, prefix_space=prefix_space)
  special = [unk] if unk is not None else []
  return Tokenizer(model, special, bos, eos, pad, tags, vocab_size=vocab_size)


def _open_json(path: pathlib.Path) -> tokenizers.Tokenizer:
  try:
    model = tokenizers.Tokenizer.from_file(os.fspath(path))
  except Exception as error:  # the library raises nothing more special
    raise ValueError(
        f'{path} is no file of the library tokenizers: {error}. Copy it '
        'anew.') from None
  kind = type(model.model).__name__
  if kind not in ('BPE', 'Unigram'):
    raise ValueError(
        f'{path} holds a model of the kind {kind}; expected BPE or Unigram, as '
        'decoders have. Check that it belongs to a decoder.')
  model.no_truncation()
  model.no_padding()
  return model


def _open_bpe(
    directory: pathlib.Path, *, add_prefix_space: bool
) -> tokenizers.Tokenizer:
  """GPT-2's files: a vocabulary, and merges behind a line with a version."""
  vocab = _read_json(directory / 'vocab.json')
  lines = (directory / 'merges.txt').read_text('utf-8').split('\n')
  merges = [
      tuple(line.split()) for line in lines
      if line.strip() and not line.startswith('#version')]
  try:
    model = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocab, merges=merges))
  except Exception as error:  # the library raises nothing more special
    raise ValueError(
        f'{directory}: vocab.json and merges.txt do not go together: {error}. '
        'Copy both from one model.') from None
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=add_prefix_space, use_regex=True)
  model.decoder = tokenizers.decoders.ByteLevel()
  return model


def _add_tokens(
    model: tokenizers.Tokenizer, directory: pathlib.Path, config: dict[str, Any]
) -> tuple[list[str], dict[str, str]]:
  """Adds the tokens that only the other files have.

  Returns:
    names of all special tokens, and of those with a role.
  """
  settings = dict(config)
  if 'added_tokens_decoder' not in config:
    settings |= _read_json(directory / 'special_tokens_map.json')
  roles = {
      role: _name(settings[role]) for role in _ROLES
      if settings.get(role) is not None}
  ids = _read_json(directory / 'config.json')
  for role in _ROLES[:3]:
    i = ids.get(f'{role}_id')
    i = i[0] if isinstance(i, list) else i
    if role not in settings and isinstance(i, int) and i >= 0:
      roles[role] = model.id_to_token(i)
  roles = {role: name for role, name in roles.items() if name is not None}
  more = settings.get('additional_special_tokens') or []
  special = list(dict.fromkeys([*roles.values(), *map(_name, more)]))

  tokens = {
      int(i): tokenizers.AddedToken(**token)
      for i, token in config.get('added_tokens_decoder', {}).items()}
  if not tokens:
    tokens = {
        i: tokenizers.AddedToken(name, normalized=False)
        for name, i in _read_json(directory / 'added_tokens.json').items()}
  known = model.get_vocab(with_added_tokens=True)
  behind = sorted(
      (i, token) for i, token in tokens.items() if token.content not in known)
  model.add_tokens([token for _, token in behind])
  for i, token in behind:
    if model.token_to_id(token.content) != i:
      raise ValueError(
          f'the added token {token.content!r} has the id {i}, but behind the '
          f'vocabulary it gets {model.token_to_id(token.content)}. The files '
          'are of different models; copy all from one.')
  model.add_special_tokens(
      [name for name in special if model.token_to_id(name) is None])
  return special, roles


def _first_token(model: tokenizers.Tokenizer) -> str | None:
  """The token that tokenizer.json puts in front of a text, if any."""
  encoding = model.encode('a', add_special_tokens=True)
  first = [
      token for token, special in zip(
          encoding.tokens, encoding.special_tokens_mask) if special]
  at = encoding.special_tokens_mask.index(0)
  if at > 1:
    raise ValueError(
        f'a document begins with the {at} tokens {first[:at]}; expected one at '
        'most. Pass `begin`, and write others into the text.')
  return first[0] if at else None


def _name(token: str | dict[str, Any]) -> str:
  return token['content'] if isinstance(token, dict) else token


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object; an empty one if there is no such file."""
  if not path.exists():
    return {}
  try:
    value = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise ValueError(f'{path} is no JSON: {error}. Copy it anew.') from None
  if not isinstance(value, dict):
    raise ValueError(
        f'{path} holds a {type(value).__name__}; expected an object with '
        'names. Copy it anew.')
  return value
