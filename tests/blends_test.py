"""Blends: what stands for pictures that nobody drew."""

from flamingo.data import blends, encode
from flamingo.data.tokenizer import Tokenizer
from flamingo.types import Chunk
import ml_dtypes
import numpy as np

STORE = np.random.default_rng(0).normal(size=(13, 3, 5)).astype(
    ml_dtypes.bfloat16)


def test_a_blend_is_the_weighted_sum_of_its_pictures():
  first, second = np.array([7, 2, 2, 11]), np.array([0, 5, 12, 5])
  share = np.array([0.25, 1.0, 0.7, -3.0])
  came = blends.read(
      STORE.__getitem__, blends.blend((first, share), (second, 1.5)))
  exact = STORE.astype(np.float64)
  expected = share[:, None, None] * exact[first] + 1.5 * exact[second]
  assert came.dtype == STORE.dtype
  np.testing.assert_allclose(came.astype(np.float64), expected, rtol=2**-8)


def test_what_is_added_and_taken_away_again_leaves_the_picture():
  rows, other = np.array([3, 4]), np.array([9, 9])
  came = blends.read(STORE.__getitem__, blends.blend(
      (rows, 1.0), (other, 0.5), (other, -0.5)))
  np.testing.assert_array_equal(came, STORE[rows])


def test_rows_are_read_as_they_are():
  rows = np.array([3, 0, 3])
  np.testing.assert_array_equal(
      blends.read(STORE.__getitem__, rows), STORE[rows])


def test_a_document_shows_blends_as_it_shows_rows():
  pictures = blends.blend((np.array([3, 8]), 0.5), (np.array([1, 1]), 0.5))
  example = encode.encode(
      [Chunk(text=' pug', image=picture) for picture in pictures],
      Tokenizer.bytes(), max_images=2)
  batch = encode.batch(
      [example], length=29, images=3, image_shape=(1, 3, 5), pad_id=0,
      image_dtype=STORE.dtype,
      lookup=lambda seen: blends.read(STORE.__getitem__, seen))
  np.testing.assert_array_equal(
      batch.images[0, :2, 0], blends.read(STORE.__getitem__, pictures))
  assert not batch.images[0, 2].any()
