"""Whitening and coarser grids: what happens to features before any learning."""

from flamingo.model.vision.grid import pool_grid
from flamingo.model.whitening import fit, Whitening
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope='module')
def features():
  """Features [999 7] of unequal, correlated directions and a common part."""
  rng = np.random.default_rng(0)
  mixed = rng.normal(size=(7, 7)) * np.array([9, 5, 3, 1, 0.5, 0.2, 0.1])
  return rng.normal(size=(999, 7)) @ mixed.T + 20


def test_without_a_floor_components_have_unit_covariance(features):
  params = fit(features, 4, floor=0)
  white = Whitening(7, 4).apply({'params': params}, features)
  np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=1e-3)


def test_components_are_the_largest_and_in_order(features):
  kernel = fit(features, 3, floor=0)['kernel']
  variance = np.linalg.eigvalsh(np.cov(features.T))[::-1][:3]
  np.testing.assert_allclose(
      np.linalg.norm(kernel, axis=0), variance**-0.5, rtol=1e-4)


def test_the_floor_keeps_small_components_small(features):
  white = Whitening(7, 7).apply({'params': fit(features, 7)}, features)
  deviation = np.linalg.eigvalsh(np.cov(features.T))[::-1] ** 0.5
  expected = deviation / (deviation + 0.3 * deviation[-1])
  np.testing.assert_allclose(
      np.asarray(white).std(0, ddof=1), expected, rtol=1e-3)
  assert expected[-1] < 0.8 < 0.99 < expected[0]


def test_signs_do_not_hang_on_the_order_of_pictures(features):
  kernel = fit(features, 7)['kernel']
  np.testing.assert_allclose(
      fit(features[::-1], 7)['kernel'], kernel, rtol=1e-3, atol=1e-6)
  largest = np.abs(kernel).argmax(axis=0)
  assert (kernel[largest, range(7)] > 0).all()


def test_it_maps_any_leading_axes(features):
  params = fit(features, 4)
  one = Whitening(7, 4).apply({'params': params}, features[:24])
  many = Whitening(7, 4).apply(
      {'params': params}, features[:24].reshape(2, 3, 4, 7))
  np.testing.assert_allclose(many.reshape(24, 4), one, rtol=1e-6)


def test_its_parameters_have_the_shapes_the_module_expects(features):
  shapes = jax.eval_shape(
      Whitening(7, 4).init, jax.random.key(0), features)['params']
  fitted = fit(features, 4)
  assert {k: v.shape for k, v in shapes.items()} == {
      k: v.shape for k, v in fitted.items()}
  assert all(leaf.dtype == np.float32 for leaf in fitted.values())


def test_no_gradient_reaches_it_but_one_passes_through(features):
  params = fit(features, 4)
  loss = lambda params, x: jnp.square(
      Whitening(7, 4).apply({'params': params}, x)).sum()
  d_params, dx = jax.grad(loss, argnums=(0, 1))(params, features[:5])
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
