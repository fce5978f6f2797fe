"""A CPU's attention in bfloat16, against the same with exact products."""

from flamingo.model import attention
from flamingo.model import rounded
import jax
import jax.numpy as jnp
import numpy as np
import pytest

# b, l, m, query heads, key heads, widths of keys and of values
SHAPES = [
    (2, 5, 11, 6, 3, 8, 8), (3, 1, 7, 2, 2, 5, 5), (1, 37, 64, 4, 1, 16, 7)]


def _inputs(shape, dtype=jnp.float32):
  b, l, m, h, k, d, e = shape
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  mask = rng.random((b, l, m)) < 0.4
  mask[:, -1, 0] = True
  mask[0, 0] = False  # text before the first image
  return (draw(b, l, h, d), draw(b, m, k, d), draw(b, m, k, e),
          jnp.asarray(mask), draw(b, l, h, e))


def _off(came, expected):
  came, expected = np.asarray(came, np.float64), np.asarray(expected)
  return np.linalg.norm(came - expected) / (np.linalg.norm(expected) + 1e-9)


@pytest.mark.parametrize('scale', [0.1, 0.3])
@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_rounded_attention_and_its_gradients_are_attention_and_its_gradients(
    shape, masked, scale):
  *qkv, mask, weigh = _inputs(shape)
  mask = mask if masked else None
  total = lambda attend: jax.jit(jax.value_and_grad(
      lambda *qkv: (attend(*qkv, mask, scale=scale) * weigh).sum(), (0, 1, 2)))
  exact = total(attention.attend)(*qkv)[1]
  came = total(rounded.attend_rounded)(*qkv)[1]
  out = rounded.attend_rounded(*qkv, mask, scale)
  assert _off(out, attention.attend(*qkv, mask, scale=scale)) < 0.01
  # 8 bits of weights, of their gradients and of every operand.
  assert max(map(_off, came, exact)) < 0.02


def test_what_all_values_have_in_common_moves_no_query_and_no_key():
  """Softmax passes on differences alone, however small beside the rest."""
  query, key, value, mask, weigh = _inputs(SHAPES[2])
  # Not to be rounded: that alone would be more than the differences.
  value = (value + 100).astype(jnp.bfloat16).astype(jnp.float32)
  grads = lambda attend: jax.jit(jax.grad(
      lambda *qk: (attend(*qk, value, mask, scale=0.3) * weigh).sum(),
      (0, 1)))(query, key)
  exact, came = grads(attention.attend), grads(rounded.attend_rounded)
  assert max(map(_off, came, exact)) < 0.02


def test_one_that_may_look_at_nothing_gets_zero_and_passes_none():
  query, key, value, mask, _ = _inputs(SHAPES[0])
  look = lambda *qkv: rounded.attend_rounded(*qkv, mask, 0.3)
  out, pull = jax.vjp(look, query, key, value)
  assert not np.asarray(out[0, 0]).any() and np.asarray(out[0, 1]).any()
  grads = pull(jnp.zeros_like(out).at[0, 0].set(1))
  assert not any(np.asarray(g).any() for g in grads)


def test_a_token_passes_no_gradient_to_what_it_may_not_look_at():
  query, key, value, mask, weigh = _inputs(SHAPES[0])
  one = jnp.zeros_like(weigh).at[1, 3].set(weigh[1, 3])
  _, pull = jax.vjp(lambda *kv: rounded.attend_rounded(query, *kv, mask, 0.3),
                    key, value)
  for gradient in pull(one):
    np.testing.assert_array_equal(
        np.asarray(gradient).any((2, 3)), np.asarray(mask[1, 3]) * [[0], [1]])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_gradients_come_in_the_types_that_went_in(dtype):
  query, key, value, mask, weigh = _inputs(SHAPES[1], dtype)
  out, pull = jax.vjp(
      lambda *qkv: rounded.attend_rounded(*qkv, mask, 0.3), query, key, value)
  assert out.dtype == jnp.float32
  assert {g.dtype for g in pull(weigh.astype(jnp.float32))} == {
      jnp.dtype(dtype)}


@pytest.mark.parametrize('dtype, bias, devices, takes', [
    (jnp.bfloat16, False, 1, True), (jnp.float32, False, 1, False),
    (jnp.bfloat16, True, 1, False), (jnp.bfloat16, False, 2, False)])
def test_one_cpu_takes_it_for_bfloat16_without_a_bias(
    monkeypatch, dtype, bias, devices, takes):
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  query, key, value, mask, _ = _inputs(SHAPES[0])
  b, l, m, h = *mask.shape, query.shape[2]
  bias = jnp.zeros((b, h, l, m)) if bias else None
  program = str(jax.make_jaxpr(lambda *qkv: attention.attend(
      *qkv, mask, bias, dtype=dtype))(query, key, value))
  assert ('bf16' in program) == takes
