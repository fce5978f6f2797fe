"""Pictures: decoding, the views of a drawing, resizing."""

import io

from flamingo.data import images
import numpy as np
from PIL import Image
import pytest


def _encode(pixels, file_format='PNG', **options):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, file_format, **options)
  return file.getvalue()


@pytest.fixture
def drawing():
  """A black bar, upright and left of the middle, in 224 pixels."""
  rgba = np.zeros((224, 224, 4), np.uint8)
  rgba[40:184, 60:90, 3] = 255
  return rgba


@pytest.mark.parametrize('channels', [3, 4])
def test_png_decodes_to_its_pixels(channels):
  pixels = np.random.default_rng(0).integers(
      0, 256, (5, 7, channels), dtype=np.uint8
  )
  np.testing.assert_array_equal(images.decode(_encode(pixels)), pixels)


def test_every_mode_becomes_rgb():
  grey = np.arange(0, 256, 4, np.uint8).reshape(8, 8)
  rgb = np.repeat(grey[..., None], 3, -1)
  deep = grey.astype(np.uint16) * 257
  np.testing.assert_array_equal(images.decode(_encode(grey)), rgb)
  np.testing.assert_array_equal(images.decode(_encode(deep)), rgb)
  assert images.decode(_encode(rgb, 'JPEG')).shape == (8, 8, 3)
  assert images.decode(_encode(rgb, 'GIF')).shape == (8, 8, 3)


def test_exif_orientation_is_applied():
  pixels = np.zeros((4, 6, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was turned by 90 degrees
  assert images.decode(_encode(pixels, exif=exif)).shape == (6, 4, 3)


@pytest.mark.parametrize('length', [0, 4, 40, 100])
def test_a_broken_picture_is_named(length):
  pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
  with pytest.raises(ValueError, match=f'page 7, image 2; {length} bytes'):
    images.decode(_encode(pixels)[:length], name='page 7, image 2')


def test_views_differ_and_follow_the_generator():
  rng = np.random.default_rng(0)
  views = [images.random_view(rng) for _ in range(64)]
  assert len(set(views)) == 64
  again = np.random.default_rng(0)
  assert views == [images.random_view(again) for _ in range(64)]
  assert {view.flip for view in views} == {True, False}
  assert all(0.6 <= view.size <= 1.0 for view in views)
  assert all(abs(view.angle) <= 25 for view in views)
  assert all(min(view.background) >= 208 for view in views)


def test_a_view_is_named_by_plain_numbers():
  assert 'np.' not in repr(images.random_view(np.random.default_rng(0)))


def test_the_plain_view_is_the_drawing_on_white(drawing):
  shown = images.draw(drawing, images.View())
  np.testing.assert_array_equal(
      shown, np.repeat(255 - drawing[..., 3:], 3, -1)
  )


def test_a_view_moves_the_drawing_as_it_says(drawing):
  def show(**view):
    dark = images.draw(drawing, images.View(**view), size=160)[..., 0] < 128
    return dark.mean(), np.argwhere(dark).mean(0) - 79.5

  area, (down, across) = show()
  assert across < -20 and abs(down) < 1
  flipped_area, (_, flipped) = show(flip=True)
  assert flipped == pytest.approx(-across, abs=1)
  assert flipped_area == pytest.approx(area, rel=0.05)
  half, (_, nearer) = show(size=0.5)
  assert half == pytest.approx(area / 4, rel=0.1)
  assert nearer == pytest.approx(across / 2, abs=1)
  # Counter-clockwise, what is on the left goes down.
  turned_area, (turned, _) = show(angle=90.0)
  assert turned == pytest.approx(-across, abs=1)
  assert turned_area == pytest.approx(area, rel=0.05)


def test_the_background_fills_the_whole_frame(drawing):
  view = images.View(size=0.6, angle=20.0, background=(240, 230, 220))
  shown = images.draw(drawing, view)
  for corner in shown[0, 0], shown[0, -1], shown[-1, 0], shown[-1, -1]:
    assert tuple(corner) == (240, 230, 220)


def test_resize_keeps_the_shape_and_pads_with_grey():
  white = np.full((20, 40, 3), 255, np.uint8)
  square = images.resize(white, 80)
  assert square.shape == (80, 80, 3)
  assert (square[20:60] == 255).all()
  assert (square[:20] == images.GREY).all()
  assert (square[60:] == images.GREY).all()


def test_crop_keeps_the_shape_and_cuts_off_the_ends():
  stripes = np.zeros((20, 50, 3), np.uint8)
  stripes[:, :10] = 255  # white where 15 of 50 columns go
  square = images.crop(stripes, 40)
  assert square.shape == (40, 40, 3)
  assert (square < 20).all()
  assert (images.crop(stripes.swapaxes(0, 1), 40) < 20).all()


def test_squash_shows_the_whole_picture():
  stripes = np.zeros((20, 50, 3), np.uint8)
  stripes[:, :25] = 255
  square = images.squash(stripes, 40)
  assert square.shape == (40, 40, 3)
  assert (square[:, :18] > 235).all() and (square[:, 22:] < 20).all()


@pytest.mark.parametrize('fit', images.FITS)
def test_preprocessing_leaves_a_picture_of_its_size_alone(fit):
  pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
  np.testing.assert_array_equal(images.Preprocess(9, fit)(pixels), pixels)


@pytest.mark.parametrize('fit', images.FITS)
def test_preprocessing_returns_a_square_of_any_picture(fit):
  for shape in (1, 300, 3), (37, 23, 3), (224, 223, 3):
    pixels = np.full(shape, 200, np.uint8)
    assert images.Preprocess(31, fit)(pixels).shape == (31, 31, 3)


def test_an_unknown_fit_is_told():
  with pytest.raises(ValueError, match="came 'cover'"):
    images.Preprocess(fit='cover')


def test_resize_leaves_a_picture_of_that_size_alone():
  pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
  np.testing.assert_array_equal(images.resize(pixels, 9), pixels)


def test_blank_is_the_zero_of_the_encoder():
  assert images.blank(8).shape == (8, 8, 3)
  assert not ((images.blank(8).astype(np.float32) - 127) / 128).any()
