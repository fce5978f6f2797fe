"""A GPU's attention against ours; its definition, where there is no GPU."""

from flamingo.model import attention
from flamingo.model import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest

GPU = jax.default_backend() == 'gpu'
WHERE = ['xla'] + ['cudnn'] * GPU
# b, l, m, query heads, key heads, d
SHAPES = [(2, 6, 10, 6, 3, 8), (3, 64, 46, 2, 2, 40), (1, 2, 2, 1, 1, 128)]


def _inputs(shape):
  b, l, m, h, k, d = shape
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
  mask = rng.random((b, l, m)) < 0.4
  mask[:, 0] = False  # text before the first image
  mask[:, -1, 0] = True
  return (draw(b, l, h, d), draw(b, m, k, d), draw(b, m, k, d),
          jnp.asarray(mask), draw(b, l, h, d))


@pytest.mark.parametrize('implementation', WHERE)
@pytest.mark.parametrize('scale', [None, 0.3])
@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_fused_attention_is_attention(shape, masked, scale, implementation):
  *qkv, mask, weigh = _inputs(shape)
  mask = mask if masked else None
  ours = lambda *qkv: (attention.attend(
      *(x.astype(jnp.float32) for x in qkv), mask, scale=scale) * weigh).sum()
  theirs = lambda *qkv: (fused.attend_fused(
      *qkv, mask, scale, implementation) * weigh).sum()
  expected = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(*qkv)
  came = jax.jit(jax.value_and_grad(theirs, (0, 1, 2)))(*qkv)
  for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(expected)):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    # Weights, results and cotangents are rounded to 8 bits; where one key is
    # chosen of two, most of the gradient is a small difference.
    assert np.linalg.norm(a - b) <= 0.05 * np.linalg.norm(b) + 1e-2 * (
        a.ndim == 0)


@pytest.mark.parametrize('implementation', WHERE)
def test_one_that_may_look_at_nothing_gets_zero_and_passes_none(implementation):
  query, key, value, mask, _ = _inputs(SHAPES[0])
  fuse = lambda *qkv: fused.attend_fused(
      *qkv, mask, implementation=implementation)
  assert not np.asarray(fuse(query, key, value)[:, 0]).any()
  grads = jax.grad(
      lambda *qkv: fuse(*qkv)[:, 0].sum(), (0, 1, 2))(query, key, value)
  assert not any(np.asarray(g, np.float32).any() for g in grads)


@pytest.mark.parametrize('l, m, d', [(7, 10, 8), (6, 11, 8), (6, 10, 12),
                                     (6, 10, 136)])
def test_shapes_that_have_no_kernel_are_not_given_to_it(l, m, d, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  monkeypatch.setattr(
      jax, 'devices', lambda: [type('Device', (), {'platform': 'gpu'})])
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.bfloat16)
  assert fused.has_kernel(shape(1, 6, 2, 8), shape(1, 10, 2, 8))
  assert not fused.has_kernel(shape(1, l, 2, d), shape(1, m, 2, d))


@pytest.mark.skipif(not GPU, reason='no GPU')
def test_a_gpu_takes_its_kernel_for_half_precision_alone():
  query, key, value, mask, _ = _inputs(SHAPES[1])
  text = lambda dtype: jax.jit(lambda *x: attention.attend(
      *x, mask, dtype=dtype)).lower(query, key, value).as_text()
  assert 'cudnn' in text(jnp.bfloat16) and 'cudnn' not in text(jnp.float32)
