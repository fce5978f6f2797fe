"""Tokenizers of every kind, trained on this repository's own words.

They are saved as the published ones are, to be loaded by us and by
`transformers`.
"""

import json
import random

from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import models, processors, trainers
import tokenizers

CORPUS = [
    'The quick brown fox, 12345 of them; it\'s "quoted" — naïve café.',
    'def f(x):\n    return x * 2  # a comment\n\n\tif x:\r\n',
    '日本語のテキスト と русский текст, ελληνικά, עברית, हिन्दी',
    'Question: what is this? Short answer: two pugs<|endofchunk|>',
    'a photo of a dog 👩‍🚀🇩🇪 and a cat 🐈, 3.14 % of 1,000,000',
    'Some Output: how many? A pug. 日本の犬',
    'http://example.com/a_b-c?d=e&f=%20 <html><body>&amp;</body>',
] + [f'number {i} and its square {i * i}' for i in range(40)]
BYTES = pre_tokenizers.ByteLevel.alphabet()
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')


def strings(special=(), alphabet=None):
  """Texts of everything that has ever been tokenized in two ways."""
  rng = random.Random(0)
  words = [
      'the', ' dog', 'Dog', ' ', '  ', '    ', '\n', '\n\n', '\t', '\r\n',
      "'s", " I'LL", '1', '12', '1234', ' 7', '.', '...', ' ?!', 'é', 'e\u0301',
      'ﬁ', '日本', 'русский', '👩‍🚀', '🇩🇪', '\u00a0', '\u200b', '▁', 'Ġ', '_',
      '<', '</', 'ß', 'İ', '½', '\ufeff', 'a_b', '<0x0A>', '\x00', '\x7f',
      '\u2028', *special]
  planes = [(32, 127), (0x80, 0x800), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]
  texts = ['', 'Hello world', ' leading', 'trailing ', '\n', *CORPUS, *special]
  for _ in range(400):
    texts.append(''.join(
        rng.choice(words) if rng.random() < 0.85
        else chr(rng.randrange(*rng.choice(planes)))
        for _ in range(rng.randrange(1, 12))))
  if alphabet is not None:
    texts = [''.join(c for c in t if c in alphabet) for t in texts]
  return texts


def train(model, trainer, **parts):
  """A tokenizer of few hundred tokens, with some of its parts set."""
  tokenizer = tokenizers.Tokenizer(model)
  for name, part in parts.items():
    setattr(tokenizer, name, part)
  tokenizer.train_from_iterator(CORPUS, trainer)
  return tokenizer


def bpe(special, **kwargs):
  return trainers.BpeTrainer(
      vocab_size=600, special_tokens=special, show_progress=False, **kwargs)


def byte_level(split, special, **parts):
  parts = dict(pre_tokenizer=split, decoder=decoders.ByteLevel()) | parts
  return train(models.BPE(), bpe(special, initial_alphabet=BYTES), **parts)


def smollm2():
  digits = pre_tokenizers.Digits(individual_digits=True)
  split = pre_tokenizers.Sequence(
      [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
  return byte_level(split, ['<|endoftext|>', '<|im_start|>', '<|im_end|>']), {
      'tokenizer_class': 'GPT2Tokenizer', 'bos_token': '<|im_start|>',
      'eos_token': '<|im_end|>', 'unk_token': '<|endoftext|>',
      'pad_token': '<|im_end|>'}


def gpt2():
  split = pre_tokenizers.ByteLevel(add_prefix_space=False)
  return byte_level(split, ['<|endoftext|>']), {
      'tokenizer_class': 'GPT2Tokenizer'}


def gpt_neox():
  """Composes characters; runs of spaces are added tokens, yet ordinary."""
  split = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer = byte_level(
      split, ['<|endoftext|>', '<|padding|>'], normalizer=normalizers.NFC())
  tokenizer.add_tokens([
      AddedToken(' ' * n, normalized=True) for n in range(9, 1, -1)])
  return tokenizer, {
      'tokenizer_class': 'GPTNeoXTokenizer', 'bos_token': '<|endoftext|>',
      'eos_token': '<|endoftext|>', 'unk_token': '<|endoftext|>'}


def llama_3():
  """Another split, whole words first, special tokens behind the vocabulary."""
  split = pre_tokenizers.Sequence([
      pre_tokenizers.Split(tokenizers.Regex(LLAMA_3), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
  tokenizer = byte_level(split, [])
  tokenizer.model.ignore_merges = True
  tokenizer.add_special_tokens(['<|begin_of_text|>', '<|end_of_text|>'])
  begin = tokenizer.token_to_id('<|begin_of_text|>')
  tokenizer.post_processor = processors.Sequence([
      processors.ByteLevel(trim_offsets=False),
      processors.TemplateProcessing(
          single='<|begin_of_text|> $A',
          special_tokens=[('<|begin_of_text|>', begin)])])
  return tokenizer, {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'bos_token': '<|begin_of_text|>', 'eos_token': '<|end_of_text|>'}


def metaspace(**parts):
  model = models.BPE(unk_token='<unk>', byte_fallback=True, fuse_unk=True)
  special = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256))]
  words = pre_tokenizers.Metaspace()
  tokenizer = train(
      model, bpe(special, limit_alphabet=60), pre_tokenizer=words)
  # Bytes are ordinary tokens, which only the trainer takes for special ones.
  like = tokenizers.Tokenizer(tokenizer.model)
  like.add_special_tokens(special[:3])
  for name, part in parts.items():
    setattr(like, name, part)
  return like


def space_decoder(*more):
  return decoders.Sequence([
      decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(),
      *more])


def llama_2():
  """A space in front of the first word, and of each behind a special token."""
  return metaspace(
      normalizer=normalizers.Sequence(
          [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]),
      decoder=space_decoder(decoders.Strip(' ', 1, 0))), {
          'tokenizer_class': 'LlamaTokenizer', 'bos_token': '<s>',
          'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': None}


def mistral():
  """A space in front of the first word alone."""
  return metaspace(
      pre_tokenizer=pre_tokenizers.Metaspace(
          prepend_scheme='first', split=False),
      decoder=space_decoder(decoders.Strip(' ', 1, 0))), {
          'tokenizer_class': 'LlamaTokenizer', 'bos_token': '<s>',
          'eos_token': '</s>', 'unk_token': '<unk>', 'legacy': False}


def gemma():
  """No space in front."""
  return metaspace(
      normalizer=normalizers.Replace(' ', '▁'),
      pre_tokenizer=pre_tokenizers.Split(' ', 'merged_with_previous'),
      decoder=space_decoder()), {
          'tokenizer_class': 'GemmaTokenizer', 'bos_token': '<s>',
          'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': '</s>'}


def unigram():
  tokenizer = train(
      models.Unigram(), trainers.UnigramTrainer(
          vocab_size=400, special_tokens=['<s>', '<pad>', '</s>', '<unk>'],
          unk_token='<unk>', show_progress=False),
      normalizer=normalizers.NFKC(),
      pre_tokenizer=pre_tokenizers.Metaspace(),
      decoder=decoders.Metaspace())
  return tokenizer, {
      'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': '<s>',
      'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': '<pad>'}


KINDS = [
    smollm2, gpt2, gpt_neox, llama_3, llama_2, mistral, gemma, unigram]


def save(directory, tokenizer, config):
  tokenizer.save(str(directory / 'tokenizer.json'))
  (directory / 'tokenizer_config.json').write_text(json.dumps(config))
  return directory


def tables(kind, directory):
  """Writes vocab.json and merges.txt, as of 'gpt2' or 'opt'."""
  special = {'gpt2': ['<|endoftext|>'], 'opt': ['<s>', '<pad>', '</s>']}
  split = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer = byte_level(split, special[kind])
  tokenizer.model.save(str(directory))
  config = {'tokenizer_class': 'GPT2Tokenizer'}
  if kind == 'opt':
    config |= {
        'bos_token': '</s>', 'eos_token': {'__type': 'AddedToken',
        'content': '</s>', 'lstrip': False, 'rstrip': False,
        'single_word': False, 'normalized': True}, 'unk_token': '</s>',
        'pad_token': '<pad>', 'add_bos_token': True}
  (directory / 'tokenizer_config.json').write_text(json.dumps(config))
  return directory
