"""A GPU's attention against ours; its definition, where there is no GPU."""

import types

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
# Weights, results and cotangents are rounded to 8 bits. Where one key is chosen
# of two, most of a gradient is a small difference, and cuDNN was off by 3.6 %.
BOUND, BOUND_OF_TWO_KEYS = 0.02, 0.04


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
@pytest.mark.parametrize('scale', [0.1, 0.3])
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
  two_keys = implementation == 'cudnn' and shape[2] == 2
  bound = BOUND_OF_TWO_KEYS if two_keys else BOUND
  for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(expected)):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.linalg.norm(a - b) <= bound * np.linalg.norm(b) + 1e-2 * (
        a.ndim == 0)


@pytest.mark.parametrize('implementation', WHERE)
def test_one_that_may_look_at_nothing_gets_zero_and_passes_none(implementation):
  query, key, value, mask, _ = _inputs(SHAPES[0])
  fuse = lambda *qkv: fused.attend_fused(
      *qkv, mask, 0.3, implementation=implementation)
  assert not np.asarray(fuse(query, key, value)[:, 0]).any()
  grads = jax.grad(
      lambda *qkv: fuse(*qkv)[:, 0].sum(), (0, 1, 2))(query, key, value)
  assert not any(np.asarray(g, np.float32).any() for g in grads)


def _gpu(monkeypatch, kind, capability, number=1):
  device = types.SimpleNamespace(
      device_kind=kind, compute_capability=capability)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax, 'device_count', lambda: number)
  monkeypatch.setattr(jax, 'devices', lambda: [device] * number)


def _has_kernel(l=6, m=10, d=8, e=8):
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.bfloat16)
  return fused.has_kernel(
      shape(1, l, 2, d), shape(1, m, 2, d), shape(1, m, 2, e))


@pytest.mark.parametrize('shape', [
    dict(l=7), dict(m=11), dict(d=12, e=12), dict(d=136, e=136), dict(d=16)],
    ids=str)
def test_shapes_that_have_no_kernel_are_not_given_to_it(shape, monkeypatch):
  _gpu(monkeypatch, 'NVIDIA H100 80GB HBM3', '9.0')
  assert _has_kernel() and not _has_kernel(**shape)


@pytest.mark.parametrize('kind, capability, number', [
    ('Tesla T4', '7.5', 1), ('NVIDIA TITAN RTX', '7.5', 1),
    ('AMD Instinct MI250X', 'gfx90a', 1), ('NVIDIA H200', '9.0', 2)])
def test_machines_that_have_no_kernel_are_not_asked_for_it(
    kind, capability, number, monkeypatch):
  _gpu(monkeypatch, kind, capability, number)
  assert not _has_kernel()


def test_a_gpu_that_is_only_compiled_for_is_not_asked_for_it(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  assert not _has_kernel()


@pytest.mark.skipif(not GPU, reason='no GPU')
def test_a_gpu_takes_its_kernel_for_half_precision_alone():
  query, key, value, mask, _ = _inputs(SHAPES[1])
  text = lambda dtype: jax.jit(lambda *x: attention.attend(
      *x, mask, dtype=dtype)).lower(query, key, value).as_text()
  assert 'cudnn' in text(jnp.bfloat16) and 'cudnn' not in text(jnp.float32)
