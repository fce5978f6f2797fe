"""Pictures as arrays: decoding, the views of a drawing, resizing."""

import dataclasses
import io
import math
import re
import struct
import zlib

from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageOps

# The grey that `(x - 127) / 128` makes zero: padding and absent pictures.
GREY = 127

# What Pillow raises on broken files: `UnidentifiedImageError` is an OSError,
# a damaged PNG chunk is a SyntaxError, a damaged header whatever it tripped on.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode(data: bytes, *, name: str = 'picture') -> UInt8[np.ndarray, 'h w c']:
  """Decodes a PNG, JPEG, GIF or WebP file to the pixels a viewer would show.

  Args:
    data: the encoded file. Of an animation the first frame is taken.
    name: what to call the picture in an error: a path, a URL, an id.

  Returns:
    uint8 [H W 4] when the file has transparency, else [H W 3]; upright
    whatever its EXIF orientation.

  Raises:
    ValueError: the bytes are not a whole picture.
  """
  try:
    with Image.open(io.BytesIO(data)) as image:
      image = ImageOps.exif_transpose(image)
      if image.mode.startswith('I'):
        # Pillow clips 16-bit greys to white instead of scaling them.
        image = Image.fromarray((np.asarray(image) / 257).astype(np.uint8))
      alpha = 'A' in image.getbands() or 'transparency' in image.info
      return np.array(image.convert('RGBA' if alpha else 'RGB'))
  except _BROKEN as error:
    # Pillow names the buffer, which says nothing to anyone.
    why = re.sub(r' <_io\.BytesIO object at \w+>', '', str(error))
    raise ValueError(
        f'Expected an encoded picture for {name}; {len(data):,} bytes came '
        f'that do not decode ({why}). Fetch the file again, or leave the '
        'example out.'
    ) from error


@dataclasses.dataclass(frozen=True)
class View:
  """How a drawing on a transparent ground is shown.

  Plain Python numbers only: the `repr` of a view is part of a feature's key.

  Attributes:
    size: the drawing's longer side, as a fraction of the frame's.
    angle: degrees, counter-clockwise.
    flip: whether left and right change places, before the rotation.
    background: the colour behind the drawing, RGB in 0..255.
  """

  size: float = 1.0
  angle: float = 0.0
  flip: bool = False
  background: tuple[int, int, int] = (255, 255, 255)


def random_view(
    rng: np.random.Generator,
    *,
    size: tuple[float, float] = (0.7, 1.0),
    angle: float = 15.0,
    flip: float = 0.5,
    lightness: int = 224,
) -> View:
  """Draws a view at random.

  Args:
    rng: the source of randomness; it is advanced by the same amount always.
    size: the range of the drawing's size, fractions of the frame.
    angle: the largest rotation to either side, degrees.
    flip: the probability of a mirror image.
    lightness: the darkest a channel of the background gets, 0..255; light
      backgrounds keep black line art visible.
  """
  return View(
      size=float(rng.uniform(*size)),
      angle=float(rng.uniform(-angle, angle)),
      flip=bool(rng.random() < flip),
      background=tuple(rng.integers(lightness, 256, size=3).tolist()),
  )


def draw(
    rgba: UInt8[np.ndarray, 'h w 4'], view: View, *, size: int = 224
) -> UInt8[np.ndarray, '{size} {size} 3']:
  """Shows a drawing under a view, in a square frame of `size` pixels."""
  drawing = Image.fromarray(rgba)
  # With the ground laid first, what follows has three channels and no alpha.
  flat = Image.new('RGB', drawing.size, view.background)
  flat.paste(drawing, mask=drawing.getchannel('A'))
  # Resizing apart from rotating: only the former filters before it samples.
  flat = _fit(flat, max(1, round(view.size * size)))
  if view.flip:
    flat = ImageOps.mirror(flat)
  # An affine transform maps a pixel of the frame to a point of the drawing,
  # and centre to centre.
  angle = math.radians(view.angle)
  cos, sin = math.cos(angle), math.sin(angle)
  middle, x, y = size / 2, flat.width / 2, flat.height / 2
  across = (cos, -sin, x - (cos - sin) * middle)
  down = (sin, cos, y - (sin + cos) * middle)
  shown = flat.transform(
      (size, size),
      Image.Transform.AFFINE,
      across + down,
      Image.Resampling.BILINEAR,
      fillcolor=view.background,
  )
  return np.array(shown)


def resize(
    image: UInt8[np.ndarray, 'h w 3'], size: int
) -> UInt8[np.ndarray, '{size} {size} 3']:
  """Fits a picture into a square, keeping its shape and padding with grey.

  Source: Flamingo (arXiv:2204.14198), which pads with the mean value.
  """
  picture = _fit(Image.fromarray(image), size)
  square = blank(size)
  top, left = (size - picture.height) // 2, (size - picture.width) // 2
  square[top : top + picture.height, left : left + picture.width] = picture
  return square


def crop(
    image: UInt8[np.ndarray, 'h w 3'], size: int
) -> UInt8[np.ndarray, '{size} {size} 3']:
  """Resizes the shorter side to `size`, and cuts the square from the middle.

  Source: CLIP (arXiv:2103.00020), to the pixel as Hugging Face's processor.
  torchvision's, where an odd number of pixels is cut off, may lie one further.
  """
  picture = Image.fromarray(image)
  shorter = min(picture.size)
  shape = tuple(int(size * length / shorter) for length in picture.size)
  picture = picture.resize(shape, Image.Resampling.BICUBIC)
  left, top = ((length - size) // 2 for length in picture.size)
  return np.array(picture.crop((left, top, left + size, top + size)))


def squash(
    image: UInt8[np.ndarray, 'h w 3'], size: int
) -> UInt8[np.ndarray, '{size} {size} 3']:
  """Resizes a picture to a square, whatever its shape: SigLIP and IDEFICS."""
  return np.array(Image.fromarray(image).resize(
      (size, size), Image.Resampling.BICUBIC))


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """How an encoder was trained to see pictures that are not square.

  Calling it turns pixels uint8 [H W 3] into uint8 [size size 3].

  Attributes:
    size: height and width of the result, in pixels.
    fit: 'pad' (`resize`), 'crop' or 'squash'.
  """

  size: int = 224
  fit: str = 'pad'

  def __post_init__(self):
    if self.fit not in FITS:
      raise ValueError(
          f'Expected `fit` to be one of {sorted(FITS)}, came {self.fit!r}.')

  def __call__(
      self, image: UInt8[np.ndarray, 'h w 3']
  ) -> UInt8[np.ndarray, 's s 3']:
    return FITS[self.fit](image, self.size)


FITS = {'pad': resize, 'crop': crop, 'squash': squash}


def blank(size: int) -> UInt8[np.ndarray, '{size} {size} 3']:
  """The picture that shows nothing: the grey an encoder sees as zero."""
  return np.full((size, size, 3), GREY, np.uint8)


def _fit(image: Image.Image, side: int) -> Image.Image:
  """Resizes so that the longer side has `side` pixels."""
  scale = side / max(image.size)
  shape = tuple(max(1, round(length * scale)) for length in image.size)
  if shape == image.size:
    return image
  return image.resize(shape, Image.Resampling.BICUBIC)
