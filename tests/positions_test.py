"""What tokens know of their order, against the published formulas."""

from flamingo.model import positions
from flamingo.model.lm import LM
import jax
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


def test_a_share_that_leaves_half_a_pair_is_refused():
  with pytest.raises(ValueError, match='0.5 of a head of 6 channels is 3'):
    positions.rotate(jnp.zeros((1, 2, 1, 6)), jnp.zeros((1, 2), int), 1e4, 0.5)


@pytest.mark.parametrize('devices, sines', [(1, 1), (2, 2 * 3)])
def test_on_one_cpu_all_layers_share_one_table_of_sines(
    monkeypatch, devices, sines):
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  lm = LM(vocab_size=11, width=12, layers=3, heads=3, kv_heads=1, head_dim=4,
          hidden=5)
  tokens = jnp.zeros((B, L), int)
  params = jax.eval_shape(lm.init, jax.random.key(0), tokens)
  compiled = jax.jit(lm.apply).lower(params, tokens).compile().as_text()
  assert compiled.count(' sine(') == sines


@pytest.mark.parametrize('shape', [(B, L), (1, 5), (1, 1), (3, 2)])
def test_a_table_of_sines_turns_as_sines_do(monkeypatch, rng, shape):
  x = jnp.asarray(rng.normal(size=shape + (3, 8)), jnp.float32)
  order = jnp.asarray(rng.integers(0, 99, shape))
  turned = []
  for devices in (1, 2):
    monkeypatch.setattr(jax, 'device_count', lambda: devices)  # noqa: B023
    turned.append(positions.rotate(x, order, 10_000.0))
  np.testing.assert_allclose(*turned, atol=1e-6)


# Slower rotation.


def _angles(scaling, head=16):
  """Radians that each pair turns in one token."""
  x = jnp.zeros((1, 1, 1, head)).at[..., : head // 2].set(1.0)
  turned = np.asarray(positions.rotate(
      x, jnp.ones((1, 1), int), 500.0, scaling=scaling))[0, 0, 0]
  return np.arctan2(turned[head // 2 :], turned[: head // 2])


def test_linear_scaling_makes_positions_of_a_longer_text_those_of_a_short_one(
    rng
):
  x = jnp.asarray(rng.normal(size=(1, L, 3, 16)), jnp.float32)
  at = jnp.arange(L)[None]
  np.testing.assert_allclose(
      positions.rotate(
          x, 4 * at, 500.0, scaling=positions.RopeScaling('linear', 4.0)),
      positions.rotate(x, at, 500.0), rtol=1e-4, atol=1e-5)


def test_llama3_scaling_slows_down_only_what_turns_slowly():
  """Its three cases, as published, pair by pair."""
  factor, low, high, original = 8.0, 1.0, 4.0, 100
  plain = _angles(None)
  expected = []
  for angle in plain.astype(np.float64):
    length = 2 * np.pi / angle  # tokens to turn once
    if length < original / high:
      expected.append(angle)
    elif length > original / low:
      expected.append(angle / factor)
    else:
      smooth = (original / length - low) / (high - low)
      expected.append((1 - smooth) * angle / factor + smooth * angle)
  scaling = positions.RopeScaling('llama3', factor, low, high, original)
  came = _angles(scaling)
  np.testing.assert_allclose(came, expected, rtol=1e-5)
  cases = np.round(plain / came, 4)
  assert cases[0] == 1 and cases[-1] == 8 and ((1 < cases) & (cases < 8)).any()


@pytest.mark.parametrize('scaling', [
    positions.RopeScaling('linear', 1.0),
    positions.RopeScaling('llama3', 1.0, original=100)])
def test_scaling_by_one_is_none(scaling):
  np.testing.assert_allclose(_angles(scaling), _angles(None), rtol=1e-6)


@pytest.mark.parametrize('wrong, message', [
    (dict(kind='yarn', factor=2.0), "kind='yarn'.*'linear' or 'llama3'"),
    (dict(kind='linear', factor=0.0), 'factor=0.0 .* must be positive'),
    (dict(kind='llama3', factor=8.0), 'original=0, low=1.0, high=4.0'),
    (dict(kind='llama3', factor=8.0, low=4.0, high=1.0, original=9), 'low=4.0'),
])
def test_scalings_that_make_no_sense_are_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    positions.RopeScaling(**wrong)


# ALiBi.


def test_alibi_slopes_of_eight_heads_are_the_papers():
  np.testing.assert_array_equal(
      positions.alibi_slopes(8), [2.0**-i for i in range(1, 9)])


def test_alibi_slopes_of_twelve_heads_take_the_rest_from_between():
  """The authors' code: those of 8 heads, then every second one of 16."""
  sixteen = [2.0 ** -(i / 2) for i in range(1, 17)]
  np.testing.assert_allclose(
      positions.alibi_slopes(12),
      [2.0**-i for i in range(1, 9)] + sixteen[0::2][:4], rtol=1e-6)


def test_the_flattest_alibi_slope_is_a_setting():
  np.testing.assert_allclose(
      positions.alibi_slopes(4, 6.0), 2.0 ** -np.asarray([1.5, 3, 4.5, 6]),
      rtol=1e-6)


@pytest.mark.parametrize('heads', [1, 2, 3, 5, 6, 7, 24, 40])
def test_alibi_slopes_differ_for_any_number_of_heads(heads):
  slopes = positions.alibi_slopes(heads)
  assert slopes.shape == (heads,) and len(set(slopes.tolist())) == heads
  assert (slopes > 0).all() and (slopes < 1).all()


def test_alibi_is_minus_the_slope_times_the_distance(rng):
  at, keys = (rng.integers(0, 50, (B, n)) for n in (L, 11))
  slopes = positions.alibi_slopes(3)
  bias = positions.alibi(jnp.asarray(at), jnp.asarray(keys), slopes)
  assert bias.shape == (B, 3, L, 11) and bias.dtype == jnp.float32
  bias = np.asarray(bias)
  for b, h, l, m in np.ndindex(bias.shape):
    assert bias[b, h, l, m] == -slopes[h] * (at[b, l] - keys[b, m])


# Windows.


def test_a_window_lets_a_token_see_itself_and_what_is_near():
  at = jnp.arange(5)[None]
  np.testing.assert_array_equal(
      positions.window_mask(at, at, 2)[0].astype(int),
      [[1, 1, 1, 1, 1],
       [1, 1, 1, 1, 1],
       [0, 1, 1, 1, 1],
       [0, 0, 1, 1, 1],
       [0, 0, 0, 1, 1]])


def test_a_window_counts_positions_and_not_places():
  """A key that lies far away may be near, as in a tree of continuations."""
  at, keys = jnp.asarray([[7]]), jnp.asarray([[6, 0, 5, 4, 7]])
  np.testing.assert_array_equal(
      positions.window_mask(at, keys, 3)[0, 0].astype(int), [1, 0, 1, 0, 1])
