"""Documents with the tags and habits of published models; see `drawn`."""

import drawn
from flamingo.data import encode
from flamingo.data import spelling
from flamingo.data import tags as tags_lib
from flamingo.data.tokenizer import Tokenizer
from flamingo.types import Chunk
import numpy as np
import pytest


def _as(tags, *chunks, **kwargs):
  """Draws a document with the tags of another model."""
  tokenizer = Tokenizer.bytes(tags)
  example = encode.encode(chunks, tokenizer, max_images=5, **kwargs)
  symbols = {
      tokenizer.bos_id: '^', tokenizer.eos_id: '.', tokenizer.image_id: '#',
      tokenizer.eoc_id: '$'}
  if tags.around_image:
    symbols[tokenizer.image_ids[0]] = '|'
  return drawn.draw(example, symbols)


PAGE = [
    Chunk(text='dogs:', close=False), Chunk(image=drawn.image(1), text='a pug'),
    Chunk(image=drawn.image(2), text=' no')]


def test_openflamingo_writes_its_own_end_of_a_chunk():
  tokenizer = Tokenizer.bytes(tags_lib.OPENFLAMINGO)
  example = encode.encode(PAGE, tokenizer, max_images=2)
  tags = example.tokens[example.tokens >= 259]
  np.testing.assert_array_equal(tags, [260, 259, 260, 259])


def test_openflamingo_learns_no_text_outside_a_chunk_on_pages():
  page = [*PAGE, Chunk(text='by me', close=False)]
  assert _as(tags_lib.OPENFLAMINGO, *page, end=True, learn_outside=False) == [
      '^dogs:#a pug$# no$by me.',
      '000000111111122222222222',
      '.......xxxxxx.xxxx......',
  ]
  assert _as(tags_lib.OPENFLAMINGO, *page, end=True)[2] == (
      '.xxxxx.xxxxxx.xxxxxxxxxx')


def test_openflamingo_learns_the_end_of_a_caption():
  caption = Chunk(image=drawn.image(1), text='pug')
  assert _as(tags_lib.OPENFLAMINGO, caption, end=True) == [
      '^#pug$.',
      '0111111',
      '..xxxxx',
  ]


def test_idefics_wraps_an_image_and_sees_it_from_its_tag_on():
  assert _as(tags_lib.IDEFICS, *PAGE) == [
      '^dogs:|#|a pug|#| no',
      '00000001111111122222',
      '.xxxxx...xxxxx...xxx',
  ]


def test_idefics_writes_once_what_stands_between_two_images():
  pair = [Chunk(image=drawn.image(i), text='') for i in (1, 2)]
  assert _as(tags_lib.IDEFICS, *pair, Chunk(text='ab'), *pair) == [
      '^|#|#|ab|#|#|',
      '0011222223344',
      '......xx.....',
  ]


def test_idefics_learns_its_tags_too():
  assert _as(tags_lib.IDEFICS, *PAGE, learn_tags=True)[2] == (
      '.xxxxxxxxxxxxxxxxxxx')


def test_the_tag_of_flamingo_mini_is_plain_text():
  assert _as(tags_lib.FLAMINGO_MINI, *PAGE) == [
      '^dogs:<image>a pug$<image> no$',
      '000000111111111111122222222222',
      '.xxxxx.......xxxxxx.......xxxx',
  ]


@pytest.mark.parametrize('tags', [
    tags_lib.OPENFLAMINGO, tags_lib.IDEFICS, tags_lib.FLAMINGO_MINI])
def test_no_text_becomes_a_tag_of_any_model(tags):
  for name in {tags.image, tags.around_image, tags.eoc} - {None}:
    with pytest.raises(ValueError, match='text without the tag'):
      _as(tags, Chunk(text=f'see {name} here'))


def test_names_of_special_tokens_are_tokens_in_templates_of_ones_own():
  chat = Chunk(text='hi<end_of_utterance>', close=False)
  assert len(_as(tags_lib.IDEFICS_INSTRUCT, chat)[0]) == 1 + 20
  tokenizer = Tokenizer.bytes(tags_lib.IDEFICS_INSTRUCT)
  example = encode.encode([chat], tokenizer, max_images=0, allow_special=True)
  assert example.tokens.tolist() == [tokenizer.bos_id, *b'hi', 261]


def test_a_model_without_a_beginning_begins_with_the_document():
  symbols = spelling.byte_symbols()
  tokenizer = Tokenizer.from_bpe(
      symbols, [], [], bos=None, eos=symbols[0], pad=symbols[0])
  example = encode.encode(
      [Chunk(image=drawn.image(1), text='a')], tokenizer, max_images=1)
  assert example.tokens.tolist() == [
      tokenizer.image_id, ord('a'), tokenizer.eoc_id]
  assert drawn.draw(example)[1:] == ['111', '.xx']
