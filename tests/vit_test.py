"""The Vision Transformer: sizes, sequences, embeddings, bad input."""

import functools

from flamingo import params as params_lib
from flamingo.model.vision import grid
from flamingo.model.vision.vit import VARIANTS, ViT
import jax
import jax.numpy as jnp
import numpy as np
import pytest

TINY = dict(
    image_size=23, patch=5, width=12, layers=2, heads=3, hidden=17)
SIGLIP = dict(
    class_token=False, pre_norm=False, patch_bias=True, pooling_head=True)


def shapes(vit, method=None):
  images = jax.ShapeDtypeStruct(
      (1, vit.image_size, vit.image_size, 3), jnp.uint8)
  return jax.eval_shape(
      functools.partial(vit.init, method=method), jax.random.key(0), images
  )['params']


def random_images(count=2, size=23):
  return jnp.asarray(np.random.default_rng(3).integers(
      0, 256, (count, size, size, 3), np.uint8))


@pytest.fixture(scope='module')
def vit():
  return ViT(**TINY, embed_width=7)


@pytest.fixture(scope='module')
def params(vit, random_params):
  return random_params(vit, random_images(), method='embed')


# Millions of parameters of the vision towers, as open_clip's documentation
# lists them (docs/model_profile.csv).
@pytest.mark.parametrize('variant, millions', [
    ('clip-b32', 87.85), ('clip-b16', 86.19), ('clip-l14', 303.97),
    ('clip-l14-336', 304.29), ('clip-h14', 632.08), ('siglip-b16', 92.88),
    ('siglip-l16-256', 315.96), ('siglip-so400m14-384', 428.23)])
def test_parameter_counts_are_the_published_ones(variant, millions):
  vit = ViT(**VARIANTS[variant])
  count = params_lib.count(shapes(vit, 'embed'))
  assert count / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize('variant, tokens', [
    ('clip-b32', 50), ('clip-l14', 257), ('clip-h14', 257),
    ('siglip-b16', 196), ('siglip-so400m14-384', 729)])
def test_published_encoders_return_the_known_number_of_features(
    variant, tokens):
  vit = ViT(**VARIANTS[variant])
  assert vit.tokens == tokens
  assert vit.clone(features='patches').tokens == vit.side**2


def test_every_variant_has_a_size_here():
  assert len(VARIANTS) == 8


def test_features_come_in_the_announced_shape(vit, params, run):
  for features, final_norm in (('all', False), ('patches', True)):
    convention = vit.clone(features=features, final_norm=final_norm)
    out = run(convention, params, random_images())
    assert out.shape == (2, convention.tokens, 12)
    assert out.dtype == np.float32


def test_patches_are_all_features_but_the_first(vit, params, run):
  everything = run(vit, params, random_images())
  patches = run(vit.clone(features='patches'), params, random_images())
  np.testing.assert_array_equal(patches, everything[:, 1:])


def test_the_final_norm_is_the_last_thing_to_happen(vit, params, run):
  raw = run(vit, params, random_images())
  normed = run(vit.clone(final_norm=True), params, random_images())
  scale, bias = params['post_norm']['scale'], params['post_norm']['bias']
  centred = raw - raw.mean(-1, keepdims=True)
  deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(
      normed, centred / deviation * np.asarray(scale).reshape(1, 1, -1)
      + np.asarray(bias).reshape(1, 1, -1), atol=1e-5)


def test_features_need_no_parameters_of_the_embedding(vit):
  paths = {path[0] for path, _ in params_lib.flatten(shapes(vit))}
  assert not paths & {'post_norm', 'projection', 'head'}
  assert 'post_norm' in shapes(vit.clone(final_norm=True))
  assert {'post_norm', 'projection'} <= shapes(vit, 'embed').keys()
  siglip = ViT(**TINY, **SIGLIP)
  assert {'post_norm', 'head'} <= shapes(siglip, 'embed').keys()
  assert 'class_embedding' not in shapes(siglip, 'embed')


@pytest.mark.parametrize('attributes, width', [
    (dict(embed_width=7), 7), (dict(), 12), (SIGLIP, 12)])
def test_an_image_is_embedded_in_one_vector(attributes, width, random_params):
  vit = ViT(**TINY, **attributes)
  images = random_images(3)
  params = random_params(vit, images, method='embed')
  out = vit.apply({'params': params}, images, method='embed')
  assert out.shape == (3, width)
  assert np.abs(out[0] - out[1]).max() > 1e-3


def test_pixels_beyond_the_last_whole_patch_are_not_seen(vit, params, run):
  images = random_images()
  border = np.ones((1, 23, 23, 1), bool)
  border[:, :20, :20] = False
  changed = jnp.where(border, 255 - images, images)
  np.testing.assert_array_equal(
      run(vit, params, changed), run(vit, params, images))
  changed = changed.at[0, 19, 19].set(255 - changed[0, 19, 19])
  assert (run(vit, params, changed) != run(vit, params, images)).any()


def test_bytes_and_floats_are_the_same_pixels(vit, params, run):
  images = random_images()
  np.testing.assert_array_equal(
      run(vit, params, images),
      run(vit, params, images.astype(jnp.float32)))


def test_low_precision_stays_near(vit, params, run):
  exact = run(vit, params, random_images())
  near = run(vit.clone(dtype=jnp.bfloat16), params, random_images())
  assert near.dtype == np.float32 and (near != exact).any()
  np.testing.assert_allclose(near, exact, atol=0.05 * np.abs(exact).max())


def test_resizing_a_grid_to_its_own_size_changes_nothing():
  values = np.random.default_rng(0).normal(size=(5, 5, 3))
  np.testing.assert_allclose(grid.resize_grid(values, 5), values, atol=1e-12)


def test_resizing_keeps_the_points_that_both_grids_have():
  values = np.random.default_rng(0).normal(size=(5, 5, 3))
  finer = grid.resize_grid(values, 15)
  # The middle of every third cell is the middle of a coarse one.
  np.testing.assert_allclose(finer[1::3, 1::3], values, atol=1e-12)
  np.testing.assert_allclose(
      grid.resize_grid(values[::-1], 7), grid.resize_grid(values, 7)[::-1],
      atol=1e-12)
  np.testing.assert_allclose(
      grid.resize_grid(np.full((5, 5, 3), 7.0), 4), 7, atol=1e-12)


@pytest.mark.parametrize('wrong, message', [
    (dict(features='patch'), "came 'patch'"),
    (dict(activation='quickgelu'), "came 'quickgelu'"),
    (dict(heads=5), 'over 5 heads'),
    (dict(patch=24), 'Patches of 24 pixels')])
def test_misuse_is_told_when_it_is_built(wrong, message):
  with pytest.raises(ValueError, match=message):
    ViT(**(TINY | wrong))


def test_images_of_another_shape_are_refused(vit, params):
  with pytest.raises(ValueError, match='23 x 23 pixels, came 24 x 24'):
    vit.apply({'params': params}, random_images(size=24))
  with pytest.raises(ValueError, match=r'came \(1, 2, 23, 23, 3\)'):
    vit.apply({'params': params}, random_images()[None])


def test_what_cannot_be_embedded_is_told():
  bare = ViT(**TINY, class_token=False)
  with pytest.raises(ValueError, match='class token or a pooling head'):
    shapes(bare, 'embed')
