"""Documents as arrays, and many of them as a batch; see `drawn`."""

import drawn
from flamingo.data import encode
from flamingo.types import Chunk
import numpy as np
import pytest


def _encode(*chunks, max_images=5, **kwargs):
  return encode.encode(
      chunks, drawn.TOKENIZER, max_images=max_images, **kwargs)


def _batch(*examples, length=11, images=3, **kwargs):
  return encode.batch(
      examples, length=length, images=images, image_shape=drawn.SHAPE,
      pad_id=drawn.TOKENIZER.pad_id, **kwargs)


# One document.


def test_a_caption():
  assert drawn.draw(_encode(Chunk(image=drawn.image(1), text='a pug'))) == [
      '^#a pug$',
      '01111111',
      '..xxxxxx',
  ]


def test_an_interleaved_page():
  page = [
      Chunk(text='dogs:'), Chunk(image=drawn.image(1), text=' a pug'),
      Chunk(image=drawn.image(2), text=' no')]
  assert drawn.draw(_encode(*page)) == [
      '^dogs:$# a pug$# no$',
      '00000001111111122222',
      '.xxxxxx.xxxxxxx.xxxx',
  ]


def test_a_prompt_learns_nothing_of_its_shots_and_leaves_the_query_open():
  prompt = [
      Chunk(image=drawn.image(1), text='pug', learn=False),
      Chunk(image=drawn.image(2), text='', learn=False, close=False)]
  assert drawn.draw(_encode(*prompt)) == [
      '^#pug$#',
      '0111112',
      '.......',
  ]


def test_text_behind_a_picture_without_one_of_its_own_sees_it_still():
  assert drawn.draw(_encode(
      Chunk(image=drawn.image(1), text='a', learn=False), Chunk(text='b'))) == [
          '^#a$b$',
          '011111',
          '....xx',
      ]


def test_a_clip_is_one_image():
  example = _encode(Chunk(image=drawn.image(1), text='run'))
  assert example.images.shape == (1, *drawn.SHAPE)
  assert example.image_index.max() == 1


def test_text_alone_has_no_images():
  example = _encode(Chunk(text='a'))
  assert example.images is None
  assert drawn.draw(example) == ['^a$', '000', '.xx']


def test_an_empty_document_is_its_beginning():
  assert drawn.draw(_encode()) == ['^', '0', '.']


def test_looking_ahead_text_sees_the_image_behind_it():
  page = [
      Chunk(text='a pug'), Chunk(image=drawn.image(1), text=' a cat'),
      Chunk(image=drawn.image(2), text=' end')]
  assert drawn.draw(_encode(*page, look_ahead=True)) == [
      '^a pug$# a cat$# end$',
      '111111122222222000000',
      '.xxxxxx.xxxxxxx.xxxxx',
  ]


def test_looking_ahead_without_images_sees_none():
  assert drawn.draw(_encode(Chunk(text='ab'), look_ahead=True)) == [
      '^ab$', '0000', '.xxx']


def test_images_keep_their_order_and_their_values():
  example = _encode(*(Chunk(image=drawn.image(i), text='x') for i in (3, 1, 2)))
  np.testing.assert_array_equal(example.images[:, 0, 0, 0], [3, 1, 2])


def test_any_document_has_a_tag_for_each_image_and_the_tag_sees_it():
  rng = np.random.default_rng(0)
  for _ in range(20):
    chunks = [
        Chunk(text='ab<c€'[: rng.integers(6)], learn=bool(rng.integers(2)),
              image=drawn.image(0) if rng.integers(2) else None,
              close=bool(rng.integers(2)))
        for _ in range(rng.integers(1, 9))]
    example = _encode(*chunks, max_images=9)
    tags = example.tokens == drawn.TOKENIZER.image_id
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
  chunks = [Chunk(image=drawn.image(0), text='')] * 4
  assert len(_encode(*chunks, max_images=4).images) == 4
  with pytest.raises(ValueError, match='has 4 images but the model takes 3'):
    _encode(*chunks, max_images=3)


def test_images_of_different_shapes_are_refused():
  with pytest.raises(ValueError, match=r'\(1, 3, 5\), \(2, 3, 5\)'):
    _encode(
        Chunk(image=drawn.image(0), text=''),
        Chunk(image=drawn.image(0)[:1], text=''))


@pytest.mark.parametrize('tag', ['<image>', '<EOC>'])
def test_a_tag_in_a_text_is_refused(tag):
  with pytest.raises(ValueError, match=f"text without the tag '{tag}'"):
    _encode(Chunk(text=f'see {tag} here'))


def test_packed_documents_do_not_see_each_others_images():
  documents = [
      [Chunk(image=drawn.image(1), text='a', close=False)],
      [Chunk(text='b', close=False)],
      [Chunk(text='c'), Chunk(image=drawn.image(2), text='d')]]
  packed = encode.pack([_encode(*document, end=True) for document in documents])
  assert drawn.draw(packed) == [
      '^#a.^b.^c$#d$.',
      '01110000002222',
      '..xx.xx.xx.xxx',
  ]
  np.testing.assert_array_equal(packed.images[:, 0, 0, 0], [1, 2])
  alone = encode.pack([_encode(Chunk(text='b'))])
  assert alone.images is None and drawn.draw(alone) == ['^b$', '000', '.xx']


# Many documents.


def test_a_batch_asks_at_each_token_for_the_next():
  batch = _batch(
      _encode(Chunk(text='hi'), Chunk(image=drawn.image(1), text='pug')),
      _encode(Chunk(image=drawn.image(2), text='a')))
  assert [drawn.text(row) for row in batch.tokens] == [
      '^hi$#pug$__', '^#a$_______']
  assert [drawn.text(row) for row in batch.targets] == [
      'hi$#pug$___', '#a$________']
  assert [drawn.digits(row) for row in batch.image_index] == [
      '00001111100', '01110000000']
  assert [drawn.marks(row) for row in batch.loss_mask] == [
      'xxx.xxxx...', '.xx........']


def test_an_example_that_is_too_long_is_cut_at_its_end():
  example = _encode(Chunk(image=drawn.image(1), text='abcdefgh'))
  batch = _batch(example, length=5)
  assert drawn.text(batch.tokens[0]) == '^#abc'
  assert drawn.text(batch.targets[0]) == '#abcd'  # the last one is still known
  assert drawn.digits(batch.image_index[0]) == '01111'
  assert drawn.marks(batch.loss_mask[0]) == '.xxxx'


def test_an_example_as_long_as_the_batch_loses_nothing():
  example = _encode(Chunk(text='abc'))  # ^abc$: four targets
  batch = _batch(example, length=4)
  assert drawn.text(batch.targets[0]) == 'abc$'
  assert batch.loss_mask.all()


def test_padding_is_never_learnt_and_sees_no_image():
  examples = [
      _encode(Chunk(image=drawn.image(1), text='x' * n)) for n in range(9)]
  batch = _batch(*examples)
  padding = batch.targets == drawn.TOKENIZER.pad_id
  assert padding.any() and not batch.loss_mask[padding].any()
  assert not batch.image_index[batch.tokens == drawn.TOKENIZER.pad_id].any()
  # All that can be learnt is: the text and its end.
  np.testing.assert_array_equal(batch.loss_mask.sum(1), np.arange(9) + 1)


def test_rows_with_fewer_images_get_zeros():
  batch = _batch(
      _encode(Chunk(image=drawn.image(7), text='a')), _encode(Chunk(text='b')))
  assert batch.images.shape == (2, 3, *drawn.SHAPE)
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
  example = _encode(*[Chunk(image=drawn.image(0), text='')] * 4)
  with pytest.raises(ValueError, match='Example 1 has 4 images and the batch'):
    _batch(_encode(), example)


def test_images_of_another_shape_than_the_batch_are_refused():
  one_frame_not_two = drawn.image(0)[:1]
  example = _encode(Chunk(image=one_frame_not_two, text=''))
  with pytest.raises(ValueError, match=r'example 1 have shape \(1, 3, 5\)'):
    _batch(_encode(), example)


def test_types_are_those_that_a_batch_promises():
  batch = _batch(_encode(Chunk(text='a', image=drawn.image(0))))
  for array in batch.tokens, batch.targets, batch.image_index:
    assert array.dtype == np.int32 and array.shape == (1, 11)
  assert batch.loss_mask.dtype == bool and batch.images.dtype == np.float32


def test_batches_are_joined_along_rows():
  one = _batch(_encode(Chunk(text='a', image=drawn.image(1))))
  two = _batch(_encode(Chunk(text='b')), _encode(Chunk(text='c')))
  both = encode.concatenate([one, two])
  assert [drawn.text(row)[1] for row in both.tokens] == ['#', 'b', 'c']
  assert both.images.shape == (3, 3, *drawn.SHAPE)
