"""A workdir as a model of pixels: what it sees is what training has seen."""

from experiments import build, workdir
from experiments.configs import quickstart
from flamingo.model.vision.grid import pool_grid, PooledGrid
from flamingo.model.vision.vit import ViT
from flamingo.pretrained import native
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

SIZE, SIDE = 15, 2


@pytest.fixture(scope='module')
def model(tiny):
  encoder = ViT(
      patch=3, width=14, layers=1, heads=2, hidden=17, image_size=SIZE,
      class_token=False)
  return tiny.model.clone(
      vision=PooledGrid(encoder, SIDE, rounded_to='bfloat16'),
      resampler=tiny.model.resampler.clone(visual_width=14))


@pytest.fixture(scope='module')
def params(model, random_params):
  tokens = jnp.zeros((1, 2), jnp.int32)
  return random_params(
      model, jnp.zeros((1, 1, 1, SIZE, SIZE, 3), jnp.uint8), tokens, tokens)


def test_pixels_give_the_latents_of_features_that_were_kept(model, params):
  pixels = np.random.default_rng(0).integers(
      0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
  # As `experiments.data` does it: pooled, and kept in bfloat16.
  kept = np.asarray(pool_grid(model.vision.encoder.apply(
      {'params': params['vision']['encoder']}, pixels), SIDE)).astype(
          ml_dtypes.bfloat16)
  see = lambda images: model.apply({'params': params}, images, method='see')
  np.testing.assert_array_equal(
      see(jnp.asarray(pixels)[:, None, None]), see(jnp.asarray(
          kept)[:, None, None]))


def test_a_pooled_grid_is_rounded_only_if_asked(model, params):
  pixels = jnp.full((1, SIZE, SIZE, 3), 77, jnp.uint8)
  whole = model.vision.clone(rounded_to=None).apply(
      {'params': params['vision']}, pixels)
  rounded = model.vision.apply({'params': params['vision']}, pixels)
  assert whole.shape == rounded.shape == (1, SIDE**2, 14)
  assert not np.array_equal(whole, rounded)
  np.testing.assert_array_equal(
      rounded, whole.astype(jnp.bfloat16).astype(jnp.float32))


def test_a_model_with_a_pooled_grid_is_described_and_built_again(model):
  again = native.build(native.describe(model), jnp.float32)
  assert native.describe(again) == native.describe(model)
  assert again.vision.side == SIDE and again.vision.encoder.width == 14


def test_a_workdir_is_told_by_its_checkpoints(tmp_path):
  assert not workdir.is_workdir(tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  assert workdir.is_workdir(tmp_path)


def test_a_workdir_without_a_checkpoint_says_what_writes_one(tmp_path):
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(FileNotFoundError, match='experiments.train'):
    workdir.load(tmp_path)


def test_a_workdir_of_another_version_says_what_to_do():
  config = quickstart.get_config()
  config.induction['rank'] = 24
  with pytest.raises(ValueError) as error:
    with workdir.of_this_version('runs/mine'):
      build.build_model(
          config, dict(layers=30, heads=9, kv_heads=3, head_dim=64, width=576,
                       hidden=5, vocab_size=7), 5, residual_rms=[1.0] * 30)
  for said in ('runs/mine was trained with', 'config.induction.rank',
               'Train it anew'):
    assert said in str(error.value)
