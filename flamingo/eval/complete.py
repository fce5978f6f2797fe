"""A document with pictures in it, continued: what one asks a loaded model."""

from collections.abc import Callable
import dataclasses
import hashlib

import jax
import jax.numpy as jnp
from jaxtyping import UInt8
import numpy as np

from flamingo.data.encode import encode, Example
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.beam import Generation
from flamingo.eval.decode import Predictor
from flamingo.eval.sample import Sampling
from flamingo.model.flamingo import Flamingo
from flamingo.types import Document, Params


class Completer:
  """Continues documents whose images are pixels.

    complete = Completer(
        loaded.model, loaded.params, loaded.tokenizer,
        Preprocess(loaded.vision.image_size, loaded.vision.fit))
    complete([Chunk(text='Output: a cat on a mat', image=cat),
              Chunk(text='Output:', image=dog, close=False)])

  A picture that was seen before is not encoded again.

  Args:
    model: with its vision encoder.
    params: all of its parameters.
    tokenizer: of its language model, with the model's tags.
    preprocess: makes pixels [H W 3] what the encoder was trained on.

  Raises:
    ValueError: the model has no vision encoder.
  """

  def __init__(
      self,
      model: Flamingo,
      params: Params,
      tokenizer: Tokenizer,
      preprocess: Callable[[UInt8[np.ndarray, 'h w 3']], np.ndarray],
  ):
    if model.vision is None:
      raise ValueError(
          'Completer takes pixels, and this model has no vision encoder. Load '
          'the model with one, or give `Predictor` features.')
    self._tokenizer, self._preprocess = tokenizer, preprocess
    self._params = params['vision']
    self._see = jax.jit(
        lambda params, pixels: model.vision.apply({'params': params}, pixels))
    self._rows: dict[bytes, int] = {}
    self._contents: dict[int, bytes] = {}
    # A document without pictures sees none, but needs one to leave unseen.
    nothing = jax.eval_shape(
        self._see, self._params,
        preprocess(np.zeros((2, 2, 3), np.uint8))[None])
    self._predictor = Predictor(
        model, params,
        lambda rows: np.zeros((len(rows), *nothing.shape[1:]), np.float32),
        never=tokenizer.unsaid_ids,
        pad_id=tokenizer.pad_id)

  def __call__(
      self,
      document: Document,
      *,
      max_tokens: int = 20,
      beams: int = 3,
      length_penalty: float = 0.0,
  ) -> str:
    """The text that goes on behind an open document.

    Args:
      document: chunks; the last one left open, `close=False`. Images are uint8
        [H W 3], of any size.
      max_tokens: most tokens of the text, its end included.
      beams: hypotheses kept; 1 is greedy. The paper has 3.
      length_penalty: see `Beam`.

    Raises:
      ValueError: an image is no picture, or the text has a tag in it.
    """
    (said,) = self._predictor.generate(
        [self._prompt(document)], max_tokens=max_tokens,
        stop=self._tokenizer.stop_id, beams=beams,
        length_penalty=length_penalty)
    return self._text(said)

  def sample(
      self,
      document: Document,
      *,
      sampling: Sampling,
      draws: int = 1,
      max_tokens: int = 20,
  ) -> list[str]:
    """Texts that go on behind an open document, drawn at random.

    They are a function of the document and the sampling's seed alone.

    Args:
      document: as of a call.
      sampling: what is drawn from.
      draws: how many texts.
      max_tokens: as of a call.

    Raises:
      ValueError: an image is no picture, or the text has a tag in it.
    """
    prompt = self._prompt(document)
    shown = () if prompt.images is None else prompt.images
    digest = hashlib.blake2b(prompt.tokens.tobytes(), digest_size=16)
    for row in shown:
      digest.update(self._contents[int(row)])
    (said,) = self._predictor.sample(
        [prompt], max_tokens=max_tokens, stop=self._tokenizer.stop_id,
        sampling=sampling, draws=draws, names=[digest.hexdigest()])
    return [self._text(one) for one in said]

  def _prompt(self, document: Document) -> Example:
    chunks = [
        chunk if chunk.image is None else dataclasses.replace(
            chunk, image=self._row(np.asarray(chunk.image)))
        for chunk in document]
    return encode(chunks, self._tokenizer, max_images=max(1, len(chunks)))

  def _text(self, said: Generation) -> str:
    return self._tokenizer.decode(
        said.tokens, skip_new=True, follows='text').strip()

  def _row(self, image: np.ndarray) -> np.int64:
    """Number of a picture among those seen."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
      raise ValueError(
          'Expected pictures as uint8 [H W 3], came '
          f'{image.dtype} {list(image.shape)}. Of a clip, give its frames one '
          'by one.')
    key = hashlib.blake2b(
        repr(image.shape).encode() + image.tobytes(), digest_size=16).digest()
    if key not in self._rows:
      features = self._see(
          self._params, jnp.asarray(self._preprocess(image))[None])
      (row,) = self._predictor.introduce(np.asarray(features))
      self._rows[key], self._contents[row] = row, key
    return np.int64(self._rows[key])
