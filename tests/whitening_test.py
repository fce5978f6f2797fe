"""Whitening and coarser grids: what happens to features before any learning."""

from flamingo.model.vision.grid import pool_grid
from flamingo.model.whitening import fit, Whitening
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope='module')
def features():
  """Features [3001 5 7]: things differ in all of 7 hidden directions alike, and
  pictures of one thing by what is drawn last, much more in some than in others.
  """
  rng = np.random.default_rng(0)
  mixed = rng.normal(size=(7, 7))
  noise = np.array([9, 3, 1, 0.5, 0.2, 0.1, 0.05])
  things = rng.normal(size=(3001, 1, 7))
  pictures = rng.normal(size=(3001, 5, 7)) * noise
  return (things + pictures) @ mixed.T + 20


def whiten(params, x):
  width = params['kernel'].shape[1]
  return np.asarray(Whitening(7, width).apply({'params': params}, x))


def around(white):
  """Covariance of pictures around their thing's mean."""
  x = (white - white.mean(1, keepdims=True)).reshape(-1, white.shape[-1])
  return x.T @ x / (white.shape[0] * (white.shape[1] - 1))


def test_without_a_ridge_pictures_of_one_thing_vary_alike_in_all_directions(
    features):
  white = whiten(fit(features, 4, ridge=0), features)
  np.testing.assert_allclose(white.mean((0, 1)), 0, atol=1e-4)
  within = around(white)
  np.testing.assert_allclose(within / within[0, 0], np.eye(4), atol=1e-3)
  np.testing.assert_allclose(np.square(white).mean(), 1, rtol=1e-4)


def test_directions_in_which_things_differ_most_come_first(features):
  white = whiten(fit(features, 7, ridge=0), features)
  ratio = white.mean(1).var(0) / np.diag(around(white))
  assert (np.diff(ratio) < 0).all()
  # The hidden directions' own ratios; the mean of 5 pictures has a fifth more.
  noise = np.array([0.05, 0.1, 0.2, 0.5, 1, 3, 9])
  np.testing.assert_allclose(ratio, noise**-2.0 + 0.2, rtol=0.1)


def test_a_thing_in_another_picture_is_found_again(features):
  def found(x):
    one, other = x[:, 0], x[:, 1]
    distance = np.linalg.norm(one[:, None] - other, axis=2)
    return (distance.argmin(1) == np.arange(len(x))).mean()

  unseen = slice(0, 100)
  params = fit(features[100:], 4, ridge=0)
  assert found(features[unseen]) < 0.5
  assert found(whiten(params, features[unseen])) > 0.9


def test_a_ridge_tames_directions_nothing_was_seen_to_vary_in():
  rng = np.random.default_rng(1)
  features = rng.normal(size=(3, 2, 7))  # 3 degrees of freedom within, of 7
  with pytest.raises(np.linalg.LinAlgError):
    fit(features, 2, ridge=0)
  assert np.isfinite(fit(features, 2)['kernel']).all()


def test_the_order_of_things_and_pictures_changes_nothing(features):
  kernel = fit(features, 7)['kernel']
  np.testing.assert_allclose(
      fit(features[::-1, ::-1], 7)['kernel'], kernel, rtol=1e-3, atol=1e-6)
  largest = np.abs(kernel).argmax(axis=0)
  assert (kernel[largest, range(7)] > 0).all()


def test_one_picture_a_thing_is_refused(features):
  with pytest.raises(ValueError, match='several pictures of each thing, and 1'):
    fit(features[:, :1], 4)


def test_it_maps_any_leading_axes(features):
  params, some = fit(features, 4), features[0, 0] + np.arange(24)[:, None]
  one = whiten(params, some)
  many = whiten(params, some.reshape(2, 3, 4, 7))
  np.testing.assert_allclose(many.reshape(24, 4), one, rtol=1e-5, atol=1e-5)


def test_its_parameters_have_the_shapes_the_module_expects(features):
  fitted = fit(features, 4)
  shapes = jax.eval_shape(
      Whitening(7, 4).init, jax.random.key(0), features)['params']
  assert {k: v.shape for k, v in shapes.items()} == {
      k: v.shape for k, v in fitted.items()}
  assert all(leaf.dtype == np.float32 for leaf in fitted.values())


def test_no_gradient_reaches_it_but_one_passes_through(features):
  params = fit(features, 4)
  loss = lambda params, x: jnp.square(
      Whitening(7, 4).apply({'params': params}, x)).sum()
  d_params, dx = jax.grad(loss, argnums=(0, 1))(params, features[0])
  for leaf in d_params.values():
    np.testing.assert_array_equal(leaf, 0)
  assert np.abs(dx).min() > 0


@pytest.mark.parametrize(
    'known, side', [(7, 4), (7, 7), (7, 1), (6, 3), (5, 2), (8, 3)])
def test_pooling_is_the_mean_of_each_window(known, side):
  grid = np.random.default_rng(0).normal(size=(2, known, known, 3))
  expected = np.zeros((2, side, side, 3))
  for i in range(side):
    for j in range(side):
      rows = slice(i * known // side, -(-(i + 1) * known // side))
      columns = slice(j * known // side, -(-(j + 1) * known // side))
      expected[:, i, j] = grid[:, rows, columns].mean(axis=(1, 2))
  came = pool_grid(jnp.asarray(grid).reshape(2, -1, 3), side)
  np.testing.assert_allclose(
      came, expected.reshape(2, side * side, 3), rtol=1e-5, atol=1e-6)


def test_windows_of_seven_to_four_are_those_the_docstring_gives():
  grid = jnp.broadcast_to(jnp.arange(7.0)[:, None], (7, 7)).reshape(1, 49, 1)
  rows = pool_grid(grid, 4).reshape(4, 4)
  np.testing.assert_allclose(
      rows, np.repeat([[0.5], [2], [4], [5.5]], 4, axis=1), rtol=1e-6)


@pytest.mark.parametrize('places, side', [(48, 4), (49, 8), (49, 0)])
def test_what_cannot_be_pooled_is_refused(places, side):
  with pytest.raises(ValueError, match=f'{places} features cannot be pooled'):
    pool_grid(jnp.zeros((1, places, 3)), side)
