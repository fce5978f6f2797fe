"""What tokens know of their order, against the published formulas."""

from flamingo.model import positions
import jax.numpy as jnp
import numpy as np
import pytest

B, L = 2, 7


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.mark.parametrize('fraction', [1.0, 0.25])
def test_rotated_scores_depend_on_the_distance_only(rng, fraction):
  draw = lambda: jnp.asarray(rng.normal(size=(1, L, 3, 16)), jnp.float32)
  query, key = draw(), draw()
  order = jnp.asarray(rng.permutation(L)[None])

  def scores(shift):
    at = order + shift
    return jnp.einsum(
        'blhd,bmhd->bhlm', positions.rotate(query, at, 10_000.0, fraction),
        positions.rotate(key, at, 10_000.0, fraction))

  np.testing.assert_allclose(scores(0), scores(1013), rtol=1e-3, atol=1e-3)
  moved = jnp.einsum(
      'blhd,bmhd->bhlm',
      positions.rotate(query, order, 10_000.0, fraction),
      positions.rotate(key, order + 1, 10_000.0, fraction))
  assert np.abs(moved - scores(0)).max() > 0.1


def test_rotation_keeps_lengths_and_what_it_leaves_out(rng):
  x = jnp.asarray(rng.normal(size=(B, L, 3, 16)), jnp.float32)
  order = jnp.asarray(rng.integers(0, 99, (B, L)))
  turned = positions.rotate(x, order, 10_000.0, 0.25)
  np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
  np.testing.assert_allclose(
      turned[..., 0] ** 2 + turned[..., 2] ** 2,
      x[..., 0] ** 2 + x[..., 2] ** 2, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(
      positions.rotate(x, jnp.zeros((B, L), int), 10_000.0), x)


def test_the_first_pair_turns_by_one_radian_a_token():
  x = jnp.zeros((1, 3, 1, 6)).at[..., 0].set(1.0)
  turned = positions.rotate(x, jnp.asarray([[0, 1, 5]]), 10_000.0)
  np.testing.assert_allclose(
      turned[0, :, 0, 0], np.cos([0, 1, 5]), atol=1e-6)
  np.testing.assert_allclose(
      turned[0, :, 0, 3], np.sin([0, 1, 5]), atol=1e-6)
