"""A document becomes arrays. There is one way, for every kind of document.

A page, a caption, a clip, a question, a chat and a 32-shot prompt are chunks of
a picture and a text. Each is written `<image>text<EOC>`, or as the tokenizer's
tags have it, and each token carries the number of the image it sees: the
paper's phi (section 2.3), as data.
"""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import numpy as np

from flamingo.data.tokenizer import Tokenizer
from flamingo.types import Batch, Document


@dataclasses.dataclass(frozen=True)
class Example:
  """One encoded document, of its own length.

  Attributes:
    images: pixels [N T H W 3], features [N T S D], or rows of a feature store
      [N]; None for a document of text alone.
    tokens: int32 [L].
    image_index: int32 [L], the image each token sees, from 1; 0 sees none.
    learn: bool [L], whether the token counts in the loss when it is predicted.
  """

  images: np.ndarray | None
  tokens: np.ndarray
  image_index: np.ndarray
  learn: np.ndarray


def encode(
    document: Document,
    tokenizer: Tokenizer,
    *,
    max_images: int,
    look_ahead: bool = False,
    end: bool = False,
    learn_tags: bool = False,
    learn_outside: bool = True,
    allow_special: bool = False,
) -> Example:
  """Writes a document as tokens, and says which image each token sees.

  Two chunks, the first without a picture:

    tokens        <BOS> dogs: <EOC> <image> a  pug <EOC>
    image_index     0     0     0      1    1   1    1
    learn           0     1     1      0    1   1    1

  Two pictures in a row as IDEFICS writes them, where `|` is the token around
  an image: the one in front of an image does not see it yet.

    tokens        <BOS> a   |   <image>   |   <image>   |    b
    image_index     0   0   0      1      1      2      2    2

  Args:
    document: chunks in order.
    tokenizer: of the language model, with the tags of the model.
    max_images: how many images the model takes.
    look_ahead: text sees the image after it instead of the one before; pages
      put pictures on either side (section 2.3.3, p_next).
    end: whether the language model's EOS ends the document.
    learn_tags: whether what is written for an image counts in the loss too, as
      with IDEFICS and flamingo-mini.
    learn_outside: whether text counts that belongs to no image: before the
      first, and from the end of one's text to the next. With OpenFlamingo's
      pages it does not, and EOS behind such an end neither.
    allow_special: read the names of special tokens in the texts as these
      tokens, see `Tokenizer.encode`.

  Raises:
    ValueError: too many images, images of different shapes, or a text with a
      tag in it.
  """
  images = [
      np.asarray(c.image) for c in document if c.image is not None]
  if len(images) > max_images:
    raise ValueError(
        f'Document has {len(images)} images but the model takes {max_images}. '
        f'Raise `max_images` or cut the document into chunks of {max_images}.')
  shapes = sorted({image.shape for image in images})
  if len(shapes) > 1:
    raise ValueError(
        f'Images of one document have different shapes: {shapes}. Resize them '
        'to one size and number of frames.')

  tokens, index, learn = [], [], []
  seen, inside = 0, False

  def write(ids, counts):
    tokens.extend(ids)
    index.extend([seen] * len(ids))
    learn.extend([counts] * len(ids))

  if tokenizer.bos_id is not None:
    write([tokenizer.bos_id], False)
  # Behind a tag of plain text, text is text behind text.
  tag = 'text' if tokenizer.image_id is None else 'tag'
  follows, around = 'nothing', 0
  for chunk in document:
    if chunk.image is not None:
      # What ends the tag of the image before begins this one's.
      before = tokenizer.image_ids[around : tokenizer.image_at]
      write(before, learn_tags)
      seen, inside, follows = seen + 1, True, tag
      write(tokenizer.image_ids[tokenizer.image_at :], learn_tags)
      around = tokenizer.image_at
    text = tokenizer.encode(
        chunk.text, allow_special=allow_special, follows=follows)
    counts = chunk.learn and (inside or learn_outside)
    write(text, counts)
    if text:
      follows, around = 'text', 0
    if chunk.close and tokenizer.eoc_id is not None:
      write([tokenizer.eoc_id], counts)
      inside, follows, around = False, 'tag', 0
  if end:
    write([tokenizer.eos_id], inside or learn_outside)

  index = np.asarray(index, np.int32)
  if look_ahead:
    # Behind the last image there is none to see.
    index = np.where(index < seen, index + 1, 0).astype(np.int32)
  return Example(
      images=np.stack(images) if images else None,
      tokens=np.asarray(tokens, np.int32), image_index=index,
      learn=np.asarray(learn, bool))


def pack(examples: Sequence[Example]) -> Example:
  """Writes documents one behind the other, to fill a sequence.

  No token sees an image of another document:

    tokens        <BOS> <image> a <EOS> <BOS> b <image> c <EOS>
    image_index     0      1    1   1     0   0    2    2   2

  Args:
    examples: documents with images of one shape, each with its own end.
  """
  images, index = [], []
  for example in examples:
    before = sum(map(len, images))
    index.append(
        np.where(example.image_index > 0, example.image_index + before, 0))
    if example.images is not None:
      images.append(example.images)
  join = lambda field: np.concatenate([getattr(e, field) for e in examples])
  return Example(
      images=np.concatenate(images) if images else None,
      tokens=join('tokens'), learn=join('learn'),
      image_index=np.concatenate(index).astype(np.int32))


def batch(
    examples: Sequence[Example],
    *,
    length: int,
    images: int,
    image_shape: tuple[int, ...],
    pad_id: int,
    image_dtype: np.typing.DTypeLike = np.float32,
    lookup: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Batch:
  """Pads examples on the right to one shape and shifts the targets.

  Args:
    examples: B encoded documents.
    length: L; longer examples are cut at their end.
    images: N; rows with fewer get zeros that no token sees.
    image_shape: [T H W 3] or [T S D].
    pad_id: the token behind the end. It is never learnt, and the causal mask
      keeps it from everything before it.
    image_dtype: of the result.
    lookup: maps rows of a feature store, or blends of rows, to features
      [n S D], for examples whose images are such; each is a clip of one frame.

  Raises:
    ValueError: an example has more images than `images`, or images of another
      shape.
  """
  size = len(examples)
  pictures = np.zeros((size, images) + tuple(image_shape), image_dtype)
  tokens = np.full((size, length + 1), pad_id, np.int32)
  index = np.zeros((size, length + 1), np.int32)
  learn = np.zeros((size, length + 1), bool)
  for row, example in enumerate(examples):
    n = min(len(example.tokens), length + 1)
    tokens[row, :n] = example.tokens[:n]
    index[row, :n] = example.image_index[:n]
    learn[row, :n] = example.learn[:n]
    if example.images is not None:
      if len(example.images) > images:
        raise ValueError(
            f'Example {row} has {len(example.images)} images and the batch has '
            f'room for {images}. Encode with `max_images={images}`.')
      seen = example.images
      if seen.ndim == 1:
        seen = lookup(seen)[:, None]
      if seen.shape[1:] != tuple(image_shape):  # numpy would broadcast a frame
        raise ValueError(
            f'Images of example {row} have shape {seen.shape[1:]} and those of '
            f'the batch {tuple(image_shape)}. Give all images as many frames.')
      pictures[row, : len(seen)] = seen
  return Batch(
      images=pictures, tokens=tokens[:, :-1], image_index=index[:, :-1],
      targets=tokens[:, 1:], loss_mask=learn[:, 1:])


def concatenate(batches: Sequence[Batch]) -> Batch:
  """Joins batches of one shape along B."""
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
