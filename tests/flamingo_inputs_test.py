"""What the whole model is given: pixels or features, and what it refuses."""

from flamingo import params as params_lib
from flamingo.model.attention import Linear
from flamingo.model.lm import LM
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest


def _changed(before, after):
  """Tokens [B L] whose logits are not bit for bit the same."""
  return np.any(np.asarray(before) != np.asarray(after), axis=-1)


class Patches(nn.Module):
  """A vision encoder: each pixel is a place."""

  @nn.compact
  def __call__(self, images):
    x = images.reshape(images.shape[0], -1, 3).astype(jnp.float32) / 255
    return Linear((3,), (23,), use_bias=True, name='patch')(x)


@pytest.fixture(scope='module')
def seeing(tiny, random_params):
  """A model with a vision encoder, its parameters, and pixels."""
  pixels = jnp.asarray(np.random.default_rng(0).integers(
      0, 256, (2, 3, 2, 1, 7, 3), dtype=np.uint8))
  vision = Patches()
  params = random_params(vision, pixels[0, 0])
  return (
      tiny.model.clone(vision=vision), tiny.params | {'vision': params}, pixels)


def test_pixels_give_what_their_cached_features_give(tiny, seeing):
  model, params, pixels = seeing
  features = Patches().apply(
      {'params': params['vision']}, pixels.reshape(12, 1, 7, 3))
  features = features.reshape(2, 3, 2, 7, 23)
  run = jax.jit(lambda images: model.apply(
      {'params': params}, images, tiny.tokens, tiny.image_index))
  np.testing.assert_allclose(run(pixels), run(features), rtol=1e-4, atol=1e-5)
  assert _changed(run(pixels), run(255 - pixels)).any()
  # The encoder need not be there once the features are.
  np.testing.assert_allclose(
      run(features), tiny.forward(
          tiny.params, features, tiny.tokens, tiny.image_index),
      rtol=1e-4, atol=1e-5)


def test_without_a_resampler_each_feature_is_a_latent(tiny, random_params):
  model = tiny.model.clone(
      resampler=None, xattn=tuple(
          block.clone(visual_width=23) for block in tiny.model.xattn))
  inputs = tiny.images, tiny.tokens, tiny.image_index
  params = random_params(model, *inputs)
  assert 'resampler' not in params
  latents = model.apply({'params': params}, tiny.images, method='see')
  b, n, t, s, c = tiny.images.shape
  np.testing.assert_array_equal(
      latents, np.asarray(tiny.images).reshape(b, n, t * s, c))
  run = jax.jit(lambda *x: model.apply({'params': params}, *x))
  other = tiny.images.at[:, 1, 1, -1].add(1)  # the last feature of image 2
  np.testing.assert_array_equal(
      _changed(run(*inputs), run(other, *inputs[1:])), tiny.image_index >= 2)


def test_without_new_tokens_the_vocabulary_is_the_language_models(
    tiny, random_params
):
  model = tiny.model.clone(new_tokens=0)
  words = tiny.model.lm.vocab_size
  inputs = tiny.images, tiny.tokens % words, tiny.image_index
  params = random_params(model, *inputs)
  assert 'new_embedding' not in params
  assert model.apply({'params': params}, *inputs).shape[-1] == words


def test_the_vision_encoder_is_frozen_and_its_tree_drops_in(tiny, seeing):
  model, params, pixels = seeing
  shapes = jax.eval_shape(
      model.init, jax.random.key(0), pixels, tiny.tokens, tiny.image_index)
  params_lib.check_same(shapes['params'], params, 'parameters')
  assert params_lib.split(params)[1].keys() == {'lm', 'vision'}


def _build(model, images, tiny):
  return jax.eval_shape(
      model.init, jax.random.key(0), images, tiny.tokens, tiny.image_index)


def test_pixels_without_a_vision_encoder_are_refused(tiny, seeing):
  with pytest.raises(ValueError, match='pixels but has no vision encoder'):
    _build(tiny.model, seeing[2], tiny)


@pytest.mark.parametrize('change, message', [
    (dict(every=1, offset=0), r'layers \(0, 1, 2, 3, 4\), but 2 blocks'),
    (dict(xattn=()), r'layers \(1, 3\), but 0 blocks'),
    (dict(offset=2), 'offset=2 must be at least 0 and less than every=2'),
    (dict(offset=-1), 'offset=-1 must be at least 0'),
])
def test_blocks_that_have_no_place_are_refused(tiny, change, message):
  with pytest.raises(ValueError, match=message):
    _build(tiny.model.clone(**change), tiny.images, tiny)


def test_key_heads_that_do_not_divide_the_heads_are_refused(tiny):
  lm = LM(
      vocab_size=7, width=11, layers=1, heads=6, kv_heads=4, head_dim=4,
      hidden=17)
  with pytest.raises(ValueError, match='kv_heads=4 does not divide'):
    jax.eval_shape(lm.init, jax.random.key(0), tiny.tokens)


def test_the_width_of_the_features_must_be_the_resamplers(tiny):
  resampler = tiny.model.resampler.clone(project_input=False)
  with pytest.raises(ValueError, match='Set `project_input=True`'):
    _build(tiny.model.clone(resampler=resampler), tiny.images, tiny)


def test_one_block_in_two_places_is_refused(tiny):
  model = tiny.model.clone(xattn=(tiny.model.xattn[0],) * 2)
  with pytest.raises(ValueError, match='one instance.*clone'):
    model.init(
        jax.random.key(0), tiny.images, tiny.tokens, tiny.image_index)
