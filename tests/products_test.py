"""Matrix products in low precision, against sums in double precision."""

from flamingo.model import products
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def test_project_is_the_plain_product_and_has_its_gradient(rng):
  x = jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)
  weigh = jnp.asarray(rng.normal(size=(2, 3, 7)), jnp.float32)
  ours = lambda x, k: (products.project(x, k, jnp.float32) * weigh).sum()
  plain = lambda x, k: (jnp.einsum('abk,kn->abn', x, k) * weigh).sum()
  np.testing.assert_allclose(ours(x, kernel), plain(x, kernel), rtol=1e-5)
  for came, expected in zip(
      jax.grad(ours, (0, 1))(x, kernel), jax.grad(plain, (0, 1))(x, kernel)):
    np.testing.assert_allclose(came, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('rows, width, out', [
    (1, 5, 7), (37, 1, 7), (37, 5, 1), (37, 5, 2), (37, 61, 67)])
@pytest.mark.parametrize('devices', [1, 2])
def test_gradients_of_kernels_are_sums_of_rounded_products(
    rng, monkeypatch, rows, width, out, devices):
  # A CPU by itself takes another kernel, which does not know every shape.
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  x = jnp.asarray(rng.normal(size=(3, rows, width)), jnp.bfloat16)
  weigh = jnp.asarray(rng.normal(size=(3, rows, out)), jnp.bfloat16)
  expected = np.einsum(
      'abk,abn->kn', np.asarray(x, np.float64), np.asarray(weigh, np.float64))

  def total(kernel, x, weigh):
    return (products.project(x, kernel, jnp.bfloat16) * weigh).sum()

  grad = jax.jit(jax.grad(total))
  np.testing.assert_allclose(
      grad(jnp.ones((width, out)), x, weigh), expected, rtol=1e-5, atol=1e-4)
  # As the rows of new tokens have it: a table turned, in a loop, if at all.
  table = jax.jit(lambda table, *rest: jax.lax.scan(
      lambda sums, wanted: (sums + jax.lax.cond(
          wanted, jax.grad(lambda t, *rest: total(t.T, *rest)),
          lambda t, *rest: jnp.zeros_like(t), table, *rest), None),
      jnp.zeros_like(table), jnp.asarray([True, False]))[0])
  np.testing.assert_allclose(
      table(jnp.ones((out, width)), x, weigh), expected.T, rtol=1e-5,
      atol=1e-4)


@pytest.mark.parametrize('devices', [1, 2])
def test_gradients_of_kernels_of_heads_are_those_of_each_head(
    rng, monkeypatch, devices):
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
  x, kernel, weigh = draw(2, 37, 3, 5), draw(3, 5, 7), draw(2, 37, 3, 7)
  grad = jax.jit(jax.grad(lambda kernel: (products.project_heads(
      x, kernel, jnp.bfloat16) * weigh).sum()))
  np.testing.assert_allclose(
      grad(kernel.astype(jnp.float32)), np.einsum(
          'abhk,abhn->hkn', np.asarray(x, np.float64),
          np.asarray(weigh, np.float64)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('kernel_dtype', [jnp.float32, jnp.bfloat16])
def test_project_sums_low_precision_operands_in_float32(rng, kernel_dtype):
  x = jnp.asarray(rng.normal(size=(3, 511)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(511, 5)), kernel_dtype)
  round_off = lambda a: np.asarray(a.astype(jnp.bfloat16), np.float64)
  out = products.project(x, kernel, jnp.bfloat16)
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(
      out, round_off(x) @ round_off(kernel), rtol=1e-4, atol=1e-4)
  dx, dkernel = jax.grad(
      lambda x, k: products.project(x, k, jnp.bfloat16).sum(), (0, 1))(
          x, kernel)
  assert dx.dtype == jnp.float32 and dkernel.dtype == kernel_dtype
  np.testing.assert_allclose(
      dx[0], round_off(kernel).sum(1), rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
      np.asarray(dkernel[:, 0], np.float64), round_off(x).sum(0),
      rtol=1e-2, atol=1e-2)


def test_a_product_with_rows_is_one_with_the_table_turned(rng):
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x, table, weigh = draw(2, 3, 5), draw(7, 5), draw(2, 3, 7)
  rows = lambda x, t: (
      products.project_to_rows(x, t, jnp.float32) * weigh).sum()
  turned = lambda x, t: (products.project(x, t.T, jnp.float32) * weigh).sum()
  np.testing.assert_allclose(rows(x, table), turned(x, table), rtol=1e-5)
  for came, expected in zip(
      jax.grad(rows, (0, 1))(x, table), jax.grad(turned, (0, 1))(x, table)):
    np.testing.assert_allclose(came, expected, rtol=1e-5, atol=1e-6)


def test_on_a_gpu_results_are_rounded_and_logits_and_weights_are_not(
    rng, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x, kernel = draw(3, 61), draw(61, 7)
  is_rounded = lambda a: bool((a == a.astype(jnp.bfloat16)).all())
  y, pull = jax.vjp(
      lambda *args: products.project(*args, jnp.bfloat16), x, kernel)
  dx, dkernel = pull(draw(3, 7))
  assert y.dtype == dx.dtype == jnp.float32
  assert is_rounded(y) and is_rounded(dx) and not is_rounded(dkernel)
  logits = products.project_to_rows(x, kernel.T, jnp.bfloat16)
  assert not is_rounded(logits)
