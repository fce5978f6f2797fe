"""Documents as arrays, drawn: a column is a token.

In the drawings `^` is <BOS>, `#` the image tag, `$` <EOC>, `_` padding, `.`
<EOS>, and `|` stands around an image.
"""

from flamingo.data import encode
from flamingo.data import spelling
from flamingo.data import tags as tags_lib
from flamingo.data.tokenizer import Tokenizer
from flamingo.types import Chunk
import numpy as np
import pytest

TOKENIZER = Tokenizer.bytes()
SHAPE = (2, 3, 5)  # T S D of an image's features
SYMBOLS = {
    TOKENIZER.bos_id: '^', TOKENIZER.image_id: '#', TOKENIZER.eoc_id: '$',
    TOKENIZER.pad_id: '_', TOKENIZER.eos_id: '.'}


def _image(value):
  return np.full(SHAPE, value, np.float32)


def _encode(*chunks, max_images=5, **kwargs):
  return encode.encode(chunks, TOKENIZER, max_images=max_images, **kwargs)


def _batch(*examples, length=11, images=3, **kwargs):
  return encode.batch(
      examples, length=length, images=images, image_shape=SHAPE,
      pad_id=TOKENIZER.pad_id, **kwargs)


def _text(ids):
  return ''.join(SYMBOLS.get(int(i)) or chr(i) for i in ids)


def _digits(index):
  return ''.join(map(str, index))


def _marks(mask):
  return ''.join('.x'[int(x)] for x in mask)


def _draw(example):
  """Tokens, the image each sees, and those that count in the loss."""
  return [
      _text(example.tokens), _digits(example.image_index),
      _marks(example.learn)]


# One document.


def test_a_caption():
  assert _draw(_encode(Chunk(image=_image(1), text='a pug'))) == [
      '^#a pug$',
      '01111111',
      '..xxxxxx',
  ]


def test_an_interleaved_page():
  page = [
      Chunk(text='dogs:'), Chunk(image=_image(1), text=' a pug'),
      Chunk(image=_image(2), text=' no')]
  assert _draw(_encode(*page)) == [
      '^dogs:$# a pug$# no$',
      '00000001111111122222',
      '.xxxxxx.xxxxxxx.xxxx',
  ]


def test_a_prompt_learns_nothing_of_its_shots_and_leaves_the_query_open():
  prompt = [
      Chunk(image=_image(1), text='pug', learn=False),
      Chunk(image=_image(2), text='', learn=False, close=False)]
  assert _draw(_encode(*prompt)) == [
      '^#pug$#',
      '0111112',
      '.......',
  ]


def test_text_behind_a_picture_without_one_of_its_own_sees_it_still():
  assert _draw(_encode(
      Chunk(image=_image(1), text='a', learn=False), Chunk(text='b'))) == [
          '^#a$b$',
          '011111',
          '....xx',
      ]


def test_a_clip_is_one_image():
  example = _encode(Chunk(image=_image(1), text='run'))
  assert example.images.shape == (1, *SHAPE)
  assert example.image_index.max() == 1


def test_text_alone_has_no_images():
  example = _encode(Chunk(text='a'))
  assert example.images is None
  assert _draw(example) == ['^a$', '000', '.xx']


def test_an_empty_document_is_its_beginning():
  assert _draw(_encode()) == ['^', '0', '.']


def test_looking_ahead_text_sees_the_image_behind_it():
  page = [
      Chunk(text='a pug'), Chunk(image=_image(1), text=' a cat'),
      Chunk(image=_image(2), text=' end')]
  assert _draw(_encode(*page, look_ahead=True)) == [
      '^a pug$# a cat$# end$',
      '111111122222222000000',
      '.xxxxxx.xxxxxxx.xxxxx',
  ]


def test_looking_ahead_without_images_sees_none():
  assert _draw(_encode(Chunk(text='ab'), look_ahead=True)) == [
      '^ab$', '0000', '.xxx']


def test_images_keep_their_order_and_their_values():
  example = _encode(*(Chunk(image=_image(i), text='x') for i in (3, 1, 2)))
  np.testing.assert_array_equal(example.images[:, 0, 0, 0], [3, 1, 2])


def test_any_document_has_a_tag_for_each_image_and_the_tag_sees_it():
  rng = np.random.default_rng(0)
  for _ in range(20):
    chunks = [
        Chunk(text='ab<c€'[: rng.integers(6)], learn=bool(rng.integers(2)),
              image=_image(0) if rng.integers(2) else None,
              close=bool(rng.integers(2)))
        for _ in range(rng.integers(1, 9))]
    example = _encode(*chunks, max_images=9)
    tags = example.tokens == TOKENIZER.image_id
    images = 0 if example.images is None else len(example.images)
    assert tags.sum() == images
    np.testing.assert_array_equal(example.image_index, np.cumsum(tags))
    assert not example.learn[tags].any()
    ahead = _encode(*chunks, max_images=9, look_ahead=True)
    expected = np.where(np.cumsum(tags) < images, np.cumsum(tags) + 1, 0)
    np.testing.assert_array_equal(ahead.image_index, expected)
    np.testing.assert_array_equal(ahead.tokens, example.tokens)
    np.testing.assert_array_equal(ahead.learn, example.learn)


def test_too_many_images_are_refused():
  chunks = [Chunk(image=_image(0), text='')] * 4
  assert len(_encode(*chunks, max_images=4).images) == 4
  with pytest.raises(ValueError, match='has 4 images but the model takes 3'):
    _encode(*chunks, max_images=3)


def test_images_of_different_shapes_are_refused():
  with pytest.raises(ValueError, match=r'\(1, 3, 5\), \(2, 3, 5\)'):
    _encode(
        Chunk(image=_image(0), text=''), Chunk(image=_image(0)[:1], text=''))


@pytest.mark.parametrize('tag', ['<image>', '<EOC>'])
def test_a_tag_in_a_text_is_refused(tag):
  with pytest.raises(ValueError, match=f"text without the tag '{tag}'"):
    _encode(Chunk(text=f'see {tag} here'))


# As others write it.


def _as(tags, *chunks, **kwargs):
  """Draws a document with the tags of another model."""
  tokenizer = Tokenizer.bytes(tags)
  example = encode.encode(chunks, tokenizer, max_images=5, **kwargs)
  symbols = {
      tokenizer.bos_id: '^', tokenizer.eos_id: '.', tokenizer.image_id: '#',
      tokenizer.eoc_id: '$'}
  if tags.around_image:
    symbols[tokenizer.image_ids[0]] = '|'
  _, *rest = _draw(example)
  text = ''.join(symbols.get(int(i)) or chr(i) for i in example.tokens)
  return [text, *rest]


PAGE = [
    Chunk(text='dogs:', close=False), Chunk(image=_image(1), text='a pug'),
    Chunk(image=_image(2), text=' no')]


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
  assert _as(
      tags_lib.OPENFLAMINGO, Chunk(image=_image(1), text='pug'), end=True) == [
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
  pair = [Chunk(image=_image(1), text=''), Chunk(image=_image(2), text='')]
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
      [Chunk(image=_image(1), text='a')], tokenizer, max_images=1)
  assert example.tokens.tolist() == [
      tokenizer.image_id, ord('a'), tokenizer.eoc_id]
  assert _draw(example)[1:] == ['111', '.xx']


def test_packed_documents_do_not_see_each_others_images():
  documents = [
      [Chunk(image=_image(1), text='a', close=False)],
      [Chunk(text='b', close=False)],
      [Chunk(text='c'), Chunk(image=_image(2), text='d')]]
  packed = encode.pack([_encode(*document, end=True) for document in documents])
  assert _draw(packed) == [
      '^#a.^b.^c$#d$.',
      '01110000002222',
      '..xx.xx.xx.xxx',
  ]
  np.testing.assert_array_equal(packed.images[:, 0, 0, 0], [1, 2])
  alone = encode.pack([_encode(Chunk(text='b'))])
  assert alone.images is None and _draw(alone) == ['^b$', '000', '.xx']


# Many documents.


def test_a_batch_asks_at_each_token_for_the_next():
  batch = _batch(
      _encode(Chunk(text='hi'), Chunk(image=_image(1), text='pug')),
      _encode(Chunk(image=_image(2), text='a')))
  assert [_text(row) for row in batch.tokens] == ['^hi$#pug$__', '^#a$_______']
  assert [_text(row) for row in batch.targets] == ['hi$#pug$___', '#a$________']
  assert [_digits(row) for row in batch.image_index] == [
      '00001111100', '01110000000']
  assert [_marks(row) for row in batch.loss_mask] == [
      'xxx.xxxx...', '.xx........']


def test_an_example_that_is_too_long_is_cut_at_its_end():
  example = _encode(Chunk(image=_image(1), text='abcdefgh'))
  batch = _batch(example, length=5)
  assert _text(batch.tokens[0]) == '^#abc'
  assert _text(batch.targets[0]) == '#abcd'  # the last one is still known
  assert _digits(batch.image_index[0]) == '01111'
  assert _marks(batch.loss_mask[0]) == '.xxxx'


def test_an_example_as_long_as_the_batch_loses_nothing():
  example = _encode(Chunk(text='abc'))  # ^abc$: four targets
  batch = _batch(example, length=4)
  assert _text(batch.targets[0]) == 'abc$'
  assert batch.loss_mask.all()


def test_padding_is_never_learnt_and_sees_no_image():
  examples = [
      _encode(Chunk(image=_image(1), text='x' * n)) for n in range(9)]
  batch = _batch(*examples)
  padding = batch.targets == TOKENIZER.pad_id
  assert padding.any() and not batch.loss_mask[padding].any()
  assert not batch.image_index[batch.tokens == TOKENIZER.pad_id].any()
  # All that can be learnt is: the text and its end.
  np.testing.assert_array_equal(batch.loss_mask.sum(1), np.arange(9) + 1)


def test_rows_with_fewer_images_get_zeros():
  batch = _batch(
      _encode(Chunk(image=_image(7), text='a')), _encode(Chunk(text='b')))
  assert batch.images.shape == (2, 3, *SHAPE)
  np.testing.assert_array_equal(batch.images[0, 0], 7)
  assert not batch.images[0, 1:].any() and not batch.images[1].any()


def test_pixels_stay_bytes_if_asked():
  pixels = np.full((1, 7, 7, 3), 255, np.uint8)
  batch = encode.batch(
      [_encode(Chunk(image=pixels, text='a'))], length=5, images=2,
      image_shape=pixels.shape, pad_id=0, image_dtype=np.uint8)
  assert batch.images.dtype == np.uint8 and batch.images[0, 0].min() == 255


def test_rows_of_a_store_are_looked_up():
  store = np.arange(7)[:, None, None] * np.ones((7, 3, 5), np.float16)
  example = _encode(
      Chunk(image=np.int64(6), text='a'), Chunk(image=np.int64(2), text='b'))
  assert example.images.tolist() == [6, 2]
  batch = encode.batch(
      [example, _encode(Chunk(text='c'))], length=7, images=3,
      image_shape=(1, 3, 5), pad_id=0, lookup=store.__getitem__)
  np.testing.assert_array_equal(batch.images[0, :, 0, 1, 1], [6, 2, 0])
  assert not batch.images[1].any()


def test_more_images_than_the_batch_has_room_for_are_refused():
  example = _encode(*[Chunk(image=_image(0), text='')] * 4)
  with pytest.raises(ValueError, match='Example 1 has 4 images and the batch'):
    _batch(_encode(), example)


def test_images_of_another_shape_than_the_batch_are_refused():
  example = _encode(Chunk(image=_image(0)[:1], text=''))  # one frame, not two
  with pytest.raises(ValueError, match=r'example 1 have shape \(1, 3, 5\)'):
    _batch(_encode(), example)


def test_types_are_those_that_a_batch_promises():
  batch = _batch(_encode(Chunk(text='a', image=_image(0))))
  for array in batch.tokens, batch.targets, batch.image_index:
    assert array.dtype == np.int32 and array.shape == (1, 11)
  assert batch.loss_mask.dtype == bool and batch.images.dtype == np.float32


def test_batches_are_joined_along_rows():
  one = _batch(_encode(Chunk(text='a', image=_image(1))))
  two = _batch(_encode(Chunk(text='b')), _encode(Chunk(text='c')))
  both = encode.concatenate([one, two])
  assert [_text(row)[1] for row in both.tokens] == ['#', 'b', 'c']
  assert both.images.shape == (3, 3, *SHAPE)
