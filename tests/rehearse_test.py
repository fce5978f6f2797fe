"""The rehearsal writes what `load` reads: every tensor, in shards."""

from experiments import convert
from experiments import rehearse
from flamingo.pretrained.load import load
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def small(monkeypatch):
  """OpenFlamingo-9B with small numbers in its place."""
  monkeypatch.setattr(rehearse, 'TOKENS', 271)
  monkeypatch.setattr(rehearse, 'TEXT', rehearse.TEXT | dict(
      d_model=24, n_heads=2, vocab_size=274))
  monkeypatch.setattr(rehearse, 'VISION', rehearse.VISION | dict(
      hidden_size=20, intermediate_size=28, num_hidden_layers=3,
      num_attention_heads=2, image_size=28))


def test_what_is_rehearsed_is_loaded_whole_and_in_bfloat16(small, tmp_path):
  rehearse.write(tmp_path, layers=8, shard_bytes=1e5)
  assert len(list(tmp_path.glob('*.safetensors'))) > 2
  loaded = load(tmp_path, dtype=jnp.bfloat16, progress=False)
  assert loaded.model.every == 4 and loaded.model.offset == 3
  assert len(loaded.model.xattn) == 2
  kernel = loaded.params['xattn_1']['query']['kernel']
  assert kernel.dtype == jnp.bfloat16
  # As random as they were drawn, so nothing was left at zero.
  assert float(np.std(np.asarray(kernel, np.float32))) == pytest.approx(
      0.02, rel=0.05)
  assert 'Unexpected: none' in convert.describe(loaded)


def test_a_rehearsal_repeats_itself(small, tmp_path):
  for name in 'ab':
    rehearse.write(tmp_path / name, layers=4, shard_bytes=1e9)
  a, b = (
      (tmp_path / name / 'model.safetensors').read_bytes() for name in 'ab')
  assert a == b
