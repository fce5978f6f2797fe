"""Ids equal those of `transformers`, for every kind of tokenizer.

Small ones are trained here on this repository's own words and saved as the
published ones are.
"""

import json
import random

from flamingo.data import encode
from flamingo.data import tags as tags_lib
from flamingo.pretrained.tokenizer import load_tokenizer
from flamingo.types import Chunk
import numpy as np
from PIL import Image
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import models, processors, trainers

torch = pytest.importorskip('torch', reason='parity: make parity')
transformers = pytest.importorskip(
    'transformers', reason='parity: make parity')

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


class Pair:
  """One tokenizer twice: loaded by us, and by `transformers`."""

  def __init__(self, directory, tags=tags_lib.FLAMINGO):
    self.directory = directory
    self.ours = load_tokenizer(directory, tags)
    self.theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert self.theirs.is_fast
    known = {c for c in map(chr, range(0x20000)) if self.ours.clean(c)}
    self.texts = strings(self.ours.special, known)

  def assert_same(self):
    long = 0
    for text in self.texts:
      special = self.theirs(text, add_special_tokens=False)['input_ids']
      assert self.ours.encode(text, allow_special=True) == special, text
      long += len(special) > 5
      plain = self.theirs(
          text, add_special_tokens=False, split_special_tokens=True)
      if self.spells_special and any(s in text for s in self.ours.special):
        # A Unigram of theirs finds special tokens among its pieces all the
        # same. No text of ours becomes one.
        ids = set(self.ours.encode(text, allow_special=True))
        assert self.named & ids
        assert not self.named & set(self.ours.encode(text))
      else:
        assert self.ours.encode(text) == plain['input_ids'], text
    assert long > 200

  @property
  def spells_special(self):
    return isinstance(self.theirs.backend_tokenizer.model, models.Unigram)

  @property
  def named(self):
    return set(self.theirs.convert_tokens_to_ids(list(self.ours.special)))


def save(directory, tokenizer, config):
  tokenizer.save(str(directory / 'tokenizer.json'))
  (directory / 'tokenizer_config.json').write_text(json.dumps(config))
  return directory


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def directory(request, tmp_path):
  return save(tmp_path, *request.param())


@pytest.fixture
def pair(directory):
  return Pair(directory)


# Texts.


def test_ids_are_those_of_transformers(pair):
  pair.assert_same()


def test_special_tokens_are_those_of_transformers(pair):
  ours, theirs = pair.ours, pair.theirs
  assert ours.vocab_size == len(theirs)
  assert set(theirs.all_special_tokens) <= set(ours.special)
  assert ours.eos_id == theirs.eos_token_id
  assert ours.pad_id == (
      theirs.eos_token_id if theirs.pad_token is None else theirs.pad_token_id)


def test_a_document_begins_as_transformers_begins_a_text(pair):
  begin = pair.theirs('x')['input_ids']
  assert begin[-1] != begin[0] or len(begin) == 1
  expected = begin[0] if begin[0] in pair.named else None
  assert pair.ours.bos_id == expected
  unsaid = load_tokenizer(pair.directory, begin=False)
  said = load_tokenizer(pair.directory, begin=True)
  assert unsaid.bos_id is None and said.bos_id == pair.theirs.bos_token_id


def test_text_comes_back_up_to_what_the_tokenizer_normalises(pair):
  normalise = pair.theirs.backend_tokenizer.normalizer
  split = str(pair.theirs.backend_tokenizer.pre_tokenizer)
  for text in pair.texts:
    expected = text
    if isinstance(normalise, normalizers.NFC | normalizers.NFKC):
      expected = normalise.normalize_str(text)
    if 'ByteLevel' not in split:
      expected = expected.replace('▁', ' ')  # how a SentencePiece writes it
    if 'Metaspace' in split:
      expected = expected.removeprefix(' ')  # there is one in front already
    assert pair.ours.decode(pair.ours.encode(text)) == expected


def test_ids_of_two_parts_are_those_of_the_whole(pair):
  ours = pair.ours
  for first, second in [('a photo of', ' a dog'), ('Short answer:', ' two')]:
    parts = ours.encode(first) + ours.encode(second, follows='text')
    assert parts == ours.encode(first + second)
    assert ours.decode(parts) == first + second
    assert ours.decode(
        ours.encode(second, follows='text'), follows='text') == second


# Files.


@pytest.fixture(params=['gpt2', 'opt'])
def tables(request, tmp_path):
  """A directory of vocab.json and merges.txt."""
  special = {'gpt2': ['<|endoftext|>'], 'opt': ['<s>', '<pad>', '</s>']}
  split = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer = byte_level(split, special[request.param])
  tokenizer.model.save(str(tmp_path))
  config = {'tokenizer_class': 'GPT2Tokenizer'}
  if request.param == 'opt':
    config |= {
        'bos_token': '</s>', 'eos_token': {'__type': 'AddedToken',
        'content': '</s>', 'lstrip': False, 'rstrip': False,
        'single_word': False, 'normalized': True}, 'unk_token': '</s>',
        'pad_token': '<pad>', 'add_bos_token': True}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
  return tmp_path


def test_ids_of_tables_are_those_of_transformers(tables):
  pair = Pair(tables)
  pair.assert_same()
  begins = pair.theirs('x')['input_ids'][0]
  assert (pair.ours.bos_id == begins) == ('<pad>' in pair.ours.special)
  assert pair.ours.eos_id == pair.theirs.eos_token_id


def test_tokens_added_in_files_of_the_old_manner_are_there(tables):
  size = load_tokenizer(tables).vocab_size
  (tables / 'added_tokens.json').write_text(
      json.dumps({'<second>': size + 1, '<first>': size}))
  (tables / 'special_tokens_map.json').write_text(json.dumps(
      {'additional_special_tokens': ['<first>', '<third>']}))
  pair = Pair(tables)
  pair.assert_same()
  assert pair.ours.encode('a<second>b')[1:-1] == [size + 1]
  for name in '<first>', '<third>':
    ids = pair.ours.encode(name, allow_special=True)
    assert ids == [pair.theirs.convert_tokens_to_ids(name)]
    assert len(pair.ours.encode(name)) > 1


def test_what_transformers_saves_loads_the_same(directory, tmp_path):
  theirs = transformers.AutoTokenizer.from_pretrained(directory)
  theirs.add_tokens(['<plain>'])
  theirs.add_special_tokens({'additional_special_tokens': ['<own>']})
  theirs.save_pretrained(tmp_path / 'again')
  pair = Pair(tmp_path / 'again')
  pair.assert_same()
  plain, own = theirs.convert_tokens_to_ids(['<plain>', '<own>'])
  texts = ['a<plain>b', '<plain>', 'a <plain> <plain>b <own>']
  for text in texts:
    expected = theirs(text, add_special_tokens=False)['input_ids']
    assert pair.ours.encode(text, allow_special=True) == expected
  assert plain in pair.ours.encode(texts[1])
  assert own not in pair.ours.encode('a<own>b')


@pytest.mark.parametrize('tags', [
    tags_lib.OPENFLAMINGO, tags_lib.IDEFICS_INSTRUCT])
def test_what_we_save_transformers_reads(directory, tmp_path, tags):
  ours = load_tokenizer(directory, tags)
  ours.save(tmp_path / 'ours')
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'ours')
  assert theirs.convert_tokens_to_ids(list(ours.new_tokens)) == list(
      range(ours.vocab_size, len(theirs)))
  assert theirs.pad_token_id == ours.pad_id
  assert theirs.eos_token_id == ours.eos_id
  text = 'a photo of  a dog'
  begin = [] if ours.bos_id is None else [ours.bos_id]
  assert theirs(text)['input_ids'] == begin + ours.encode(text)


# Documents.

IMAGE = np.zeros((1, 1, 1, 3), np.uint8)
SHOTS = [
    Chunk(image=IMAGE, text='Output:two dogs'), Chunk(text='\n', close=False),
    Chunk(image=IMAGE, text='Question:how many? Short answer:2'),
    Chunk(image=IMAGE, text='Output:', close=False)]
PAGE = [
    Chunk(text='Some dogs. ', close=False), Chunk(image=IMAGE, text=' A pug.'),
    Chunk(image=IMAGE, text='日本の犬'), Chunk(image=IMAGE, text='')]


@pytest.mark.parametrize('document', [SHOTS, PAGE], ids=['shots', 'page'])
def test_documents_are_openflamingos(directory, document):
  theirs = transformers.AutoTokenizer.from_pretrained(directory)
  size, pads = len(theirs), theirs.pad_token is not None
  theirs.add_special_tokens(
      {'additional_special_tokens': ['<|endofchunk|>', '<image>']})
  if not pads:
    theirs.add_special_tokens({'pad_token': '<PAD>'})
  ours = load_tokenizer(
      directory,
      tags_lib.OPENFLAMINGO_UNPADDED if pads else tags_lib.OPENFLAMINGO)
  assert ours.vocab_size == size and ours.pad_id == theirs.pad_token_id
  assert list(ours.new_tokens) == theirs.convert_ids_to_tokens(
      range(size, len(theirs)))
  text = ''.join(
      ('' if chunk.image is None else '<image>') + chunk.text
      + ('<|endofchunk|>' if chunk.close else '') for chunk in document)
  example = encode.encode(document, ours, max_images=9)
  assert example.tokens.tolist() == theirs(text)['input_ids']
  tags = theirs.convert_tokens_to_ids('<image>') == example.tokens
  np.testing.assert_array_equal(example.image_index, np.cumsum(tags))


@pytest.fixture
def idefics(tmp_path):
  """Its tokenizer has the new tokens already."""
  tokenizer, config = llama_2()
  tokenizer.add_special_tokens(
      ['<fake_token_around_image>', '<image>', '<end_of_utterance>'])
  config |= {'pad_token': '<unk>', 'additional_special_tokens': [
      '<fake_token_around_image>', '<image>', '<end_of_utterance>']}
  return save(tmp_path, tokenizer, config)


def ids_and_sight(processor, *prompts):
  """Token ids, and the image each sees, of IDEFICS' own processor."""
  batch = processor(text=list(prompts), add_end_of_utterance_token=False)
  ids = batch['input_ids'][0].numpy()
  mask = batch['image_attention_mask'][0].numpy()
  seen = np.where(mask.any(1), mask.argmax(1) + 1, 0)
  return ids.tolist(), seen.tolist()


@pytest.mark.parametrize('document', [
    ['User:', IMAGE, 'What?\nAssistant: Two dogs.\nUser:', IMAGE, 'And?'],
    ['Two:', IMAGE, IMAGE, 'and', IMAGE, IMAGE, IMAGE],
    [IMAGE, 'pug'], [IMAGE, IMAGE], ['no image'],
    [IMAGE, 'a pug', 'EOS', 'another page', IMAGE, 'a cat', 'EOS', 'end'],
], ids=lambda document: '-'.join(
    item if isinstance(item, str) else 'I' for item in document))
def test_documents_are_those_of_idefics(idefics, document):
  theirs = transformers.AutoTokenizer.from_pretrained(idefics)
  processor = transformers.IdeficsProcessor(
      transformers.IdeficsImageProcessor(image_size=7), theirs)
  ours = load_tokenizer(idefics, tags_lib.IDEFICS_INSTRUCT)
  assert ours.vocab_size == len(theirs) - 3
  pages, page = [], []
  for item in [*document, None]:
    if item is None or isinstance(item, str) and item == 'EOS':
      example = encode.encode(page, ours, max_images=9, end=item is not None)
      # Theirs has one <s> in front of all.
      skip = len(pages) > 0
      pages.append(encode.Example(
          example.images, *(field[skip:] for field in (
              example.tokens, example.image_index, example.learn))))
      page = []
    elif isinstance(item, str):
      page.append(Chunk(text=item))
    else:
      page.append(Chunk(image=item, text=''))
  packed = encode.pack(pages)
  picture = Image.new('RGB', (7, 7))
  ids, seen = ids_and_sight(processor, *(
      picture if item is IMAGE else item.replace('EOS', '</s>')
      for item in document))
  assert packed.tokens.tolist() == ids
  assert packed.image_index.tolist() == seen


def test_documents_are_those_of_flamingo_mini(tables):
  theirs = transformers.AutoTokenizer.from_pretrained(tables)
  theirs.add_special_tokens({'additional_special_tokens': ['<EOC>']})
  ours = load_tokenizer(tables, tags_lib.FLAMINGO_MINI)
  example = encode.encode(SHOTS, ours, max_images=9)
  text = (
      '<image>Output:two dogs<EOC>\n<image>Question:how many? Short answer:2'
      '<EOC><image>Output:')
  assert example.tokens.tolist() == theirs(text)['input_ids']
  first = theirs('<image>', add_special_tokens=False)['input_ids'][0]
  np.testing.assert_array_equal(
      example.image_index, np.cumsum(example.tokens == first))
