"""Documents are those of OpenFlamingo, IDEFICS and flamingo-mini."""

from flamingo.data import encode
from flamingo.data import tags as tags_lib
from flamingo.pretrained.tokenizer import load_tokenizer
from flamingo.types import Chunk
import numpy as np
from PIL import Image
import pytest
import tokenizer_kinds

pytest.importorskip('torch', reason='parity: make parity')
transformers = pytest.importorskip(
    'transformers', reason='parity: make parity')

IMAGE = np.zeros((1, 1, 1, 3), np.uint8)
SHOTS = [
    Chunk(image=IMAGE, text='Output:two dogs'), Chunk(text='\n', close=False),
    Chunk(image=IMAGE, text='Question:how many? Short answer:2'),
    Chunk(image=IMAGE, text='Output:', close=False)]
PAGE = [
    Chunk(text='Some dogs. ', close=False), Chunk(image=IMAGE, text=' A pug.'),
    Chunk(image=IMAGE, text='日本の犬'), Chunk(image=IMAGE, text='')]


@pytest.fixture(params=tokenizer_kinds.KINDS, ids=lambda kind: kind.__name__)
def directory(request, tmp_path):
  return tokenizer_kinds.save(tmp_path, *request.param())


@pytest.fixture(params=['gpt2', 'opt'])
def tables(request, tmp_path):
  return tokenizer_kinds.tables(request.param, tmp_path)


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
  tokenizer, config = tokenizer_kinds.llama_2()
  tokenizer.add_special_tokens(
      ['<fake_token_around_image>', '<image>', '<end_of_utterance>'])
  config |= {'pad_token': '<unk>', 'additional_special_tokens': [
      '<fake_token_around_image>', '<image>', '<end_of_utterance>']}
  return tokenizer_kinds.save(tmp_path, tokenizer, config)


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
