"""Documents as arrays, drawn as text, for tests: a column is a token.

In the drawings `^` is <BOS>, `#` the image tag, `$` <EOC>, `_` padding, `.`
<EOS>, and `|` stands around an image.
"""

from flamingo.data.tokenizer import Tokenizer
import numpy as np

TOKENIZER = Tokenizer.bytes()
SHAPE = (2, 3, 5)  # T S D of an image's features
SYMBOLS = {
    TOKENIZER.bos_id: '^', TOKENIZER.image_id: '#', TOKENIZER.eoc_id: '$',
    TOKENIZER.pad_id: '_', TOKENIZER.eos_id: '.'}


def image(value):
  """Features of an image, all of one value."""
  return np.full(SHAPE, value, np.float32)


def text(ids, symbols=SYMBOLS):
  """Of bytes, and a symbol for each other token."""
  return ''.join(symbols.get(int(i)) or chr(i) for i in ids)


def digits(index):
  """The image that each token sees."""
  return ''.join(map(str, index))


def marks(mask):
  """Which tokens are in a mask."""
  return ''.join('.x'[int(x)] for x in mask)


def draw(example, symbols=SYMBOLS):
  """Tokens, the image each sees, and those that count in the loss."""
  return [
      text(example.tokens, symbols), digits(example.image_index),
      marks(example.learn)]
