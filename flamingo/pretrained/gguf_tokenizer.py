"""The tokenizer that lies in a GGUF file."""

from collections.abc import Mapping
from typing import Any

import tokenizers

from flamingo.data.tags import FLAMINGO, Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained.tokenizer import from_pieces

_CONTROL, _USER_DEFINED = 3, 4  # types of tokens

# How a byte-level BPE splits text before it merges, by llama.cpp's name of it.
# All begin with GPT-2's expression but Llama 3's, which has its own.
_SPLITS_DIGITS = {
    'gpt-2': False, 'mpt': False, 'olmo': False, 'smollm': True,
    'llama-bpe': False}
_COMPOSES = ('mpt', 'olmo')  # the tokenizer of GPT-NeoX
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')


def read_tokenizer(
    metadata: Mapping[str, Any], rows: int, tags: Tags = FLAMINGO
) -> Tokenizer:
  """Builds the tokenizer that a file's metadata describe.

  A document begins with the token the file names for it, whether or not
  llama.cpp would put it there.

  Args:
    metadata: of the whole file.
    rows: of the embedding, which may have more of them than there are tokens.
    tags: names of the new tokens and what they are for.

  Raises:
    ValueError: something is lacking, of a kind that is not known, or longer
      than the embedding.
  """

  def take(key):
    name = f'tokenizer.ggml.{key}'
    if name not in metadata:
      raise ValueError(
          f'the metadata lack {name!r}. Convert the model anew.')
    return metadata[name]

  model, tokens, kinds = take('model'), take('tokens'), take('token_type')
  ids = {
      role: metadata.get(f'tokenizer.ggml.{role}_token_id')
      for role in ('bos', 'unknown', 'padding')}
  eos = tokens[take('eos_token_id')]
  bos, unk, pad = (
      None if i is None else tokens[i] for i in ids.values())
  pad = eos if pad is None else pad
  if model == 'llama':
    return from_pieces(
        tokens, take('scores'), kinds, bos=bos, eos=eos, pad=pad, unk=unk,
        prefix_space=metadata.get('tokenizer.ggml.add_space_prefix', True),
        tags=tags, vocab_size=rows)
  pre = take('pre')
  if model != 'gpt2' or pre not in _SPLITS_DIGITS:
    raise ValueError(
        "expected a tokenizer of model 'llama', or of model 'gpt2' with pre "
        f'one of {sorted(_SPLITS_DIGITS)}; came model {model!r}, pre {pre!r}. '
        'Load the model from a Hugging Face directory.')
  special = [t for t, kind in zip(tokens, kinds) if kind == _CONTROL]
  bpe = _byte_bpe(tokens, take('merges'), pre)
  bpe.add_tokens([
      tokenizers.AddedToken(token, normalized=False)
      for token, kind in zip(tokens, kinds) if kind == _USER_DEFINED])
  return Tokenizer(bpe, special, bos, eos, pad, tags, vocab_size=rows)


def _byte_bpe(
    tokens: list[str], merges: list[str], pre: str
) -> tokenizers.Tokenizer:
  """The BPE of these tables, with what it does before it merges."""
  ids = {token: i for i, token in enumerate(tokens)}
  if len(ids) != len(tokens):
    twice = sorted(t for i, t in enumerate(tokens) if ids[t] != i)
    raise ValueError(
        f'every token has one id, but the vocabulary repeats {twice[:5]}. '
        'Convert the model anew.')
  try:
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab=ids, merges=[tuple(merge.split(' ')) for merge in merges],
        ignore_merges=pre == 'llama-bpe'))
  except Exception as error:  # the library raises nothing more special
    raise ValueError(
        f'tokens and merges do not go together: {error}. Convert the model '
        'anew.') from None
  own = pre == 'llama-bpe'
  split = [tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False, use_regex=not own)]
  if own:
    split.insert(0, tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(_LLAMA_3), 'isolated'))
  if _SPLITS_DIGITS[pre]:
    split.insert(0, tokenizers.pre_tokenizers.Digits(individual_digits=True))
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(split)
  if pre in _COMPOSES:
    bpe.normalizer = tokenizers.normalizers.NFC()
  bpe.decoder = tokenizers.decoders.ByteLevel()
  return bpe
