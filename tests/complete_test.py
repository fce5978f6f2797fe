"""A document of pixels is continued as the model itself would."""

import dataclasses

import benchmark_models as models
from flamingo.data.encode import encode
from flamingo.data.images import Preprocess
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.complete import Completer
from flamingo.eval.sample import Sampling
from flamingo.types import Chunk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

PREPROCESS = Preprocess(models.SIZE, 'squash')


@pytest.fixture(scope='module')
def seeing(tiny, random_params):
  """A Flamingo with a vision encoder, and its parameters."""
  loaded = models.seeing(tiny, random_params)
  return loaded.model, loaded.params


@pytest.fixture(scope='module')
def complete(seeing):
  return Completer(*seeing, Tokenizer.bytes(), PREPROCESS)


def _picture(seed, height=11, width=17):
  return np.random.default_rng(seed).integers(
      0, 256, (height, width, 3), np.uint8)


def _page(*pictures):
  return [
      Chunk(text=f'page {i}', image=picture, close=i < len(pictures) - 1)
      for i, picture in enumerate(pictures)]


def test_greedy_text_is_the_argmax_of_the_whole_model(seeing, complete):
  model, params = seeing
  tokenizer, page = Tokenizer.bytes(), _page(_picture(1), _picture(2, 23, 5))
  prepared = [
      dataclasses.replace(chunk, image=PREPROCESS(chunk.image)[None])
      for chunk in page]
  prompt = encode(prepared, tokenizer, max_images=2)
  pixels = prompt.images[None]
  tokens, index = prompt.tokens.tolist(), prompt.image_index.tolist()
  length = len(tokens) + 5
  read = jax.jit(lambda *batch: model.apply({'params': params}, *batch))
  said = []
  while len(tokens) < length:
    # What stands behind a token is hidden from it: one shape serves all steps.
    rest = [0] * (length - len(tokens))
    logits = np.array(read(
        pixels, jnp.asarray([tokens + rest]), jnp.asarray([index + rest])))
    logits = logits[0, len(tokens) - 1]
    logits[list(tokenizer.unsaid_ids)] = -np.inf
    token = int(logits.argmax())
    if token == tokenizer.stop_id:
      break
    said.append(token)
    tokens, index = tokens + [token], index + index[-1:]
  expected = tokenizer.decode(said, skip_new=True, follows='text').strip()
  assert complete(page, max_tokens=5, beams=1) == expected


def test_another_picture_changes_the_text(complete):
  texts = {
      complete(_page(_picture(seed)), max_tokens=8, beams=1)
      for seed in range(6)}
  assert len(texts) > 1


def test_a_document_without_pictures_is_continued_too(complete):
  document = [Chunk(text='only words', close=False)]
  assert isinstance(complete(document, max_tokens=3), str)


def test_a_picture_is_encoded_once(complete, monkeypatch):
  encoded = []
  see = complete._see
  monkeypatch.setattr(
      complete, '_see', lambda *some: encoded.append(1) or see(*some))
  for _ in range(3):
    complete(_page(_picture(21), _picture(22), _picture(21)), max_tokens=2)
  assert len(encoded) == 2


def test_drawn_texts_are_a_function_of_document_and_seed(seeing, complete):
  page, other = _page(_picture(1)), _page(_picture(2))
  draw = lambda complete, page, seed, draws=2: complete.sample(
      page, sampling=Sampling(temperature=0.9, seed=seed), draws=draws,
      max_tokens=4)
  texts = draw(complete, page, 0)
  assert len(set(texts)) == 2
  assert texts[:1] == draw(complete, page, 0, draws=1)
  assert not set(texts) & set(draw(complete, page, 1))
  # What was seen or drawn before has no part in it.
  fresh = Completer(*seeing, Tokenizer.bytes(), PREPROCESS)
  draw(fresh, other, 0)
  assert draw(fresh, page, 0) == texts


@pytest.mark.parametrize('image', [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
    np.zeros((2, 4, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(complete, image):
  with pytest.raises(ValueError, match='uint8'):
    complete([Chunk(text='', image=image, close=False)])


def test_a_model_of_features_is_refused(tiny):
  with pytest.raises(ValueError, match='no vision encoder'):
    Completer(tiny.model, tiny.params, Tokenizer.bytes(), PREPROCESS)
