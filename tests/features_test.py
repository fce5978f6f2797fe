"""The store of frozen features: kept once, found again, whole after a kill."""

import os
import signal
import subprocess
import sys
import textwrap

from flamingo.data import features, images
import jax
import jax.numpy as jnp
import numpy as np
import pytest

SHAPE = (3, 5)


@pytest.fixture
def pictures():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (23, 7, 7, 3), dtype=np.uint8)


@pytest.fixture
def keys(pictures):
  return [features.key(picture.tobytes()) for picture in pictures]


class Encoder:
  """A frozen projection that counts the batches it is given."""

  def __init__(self):
    kernel = np.random.default_rng(1).normal(size=(7 * 7 * 3, 3 * 5))
    self._apply = jax.jit(
        lambda x: jnp.reshape(
            jnp.reshape(x, (x.shape[0], -1)) @ jnp.asarray(kernel / 255),
            (x.shape[0], *SHAPE),
        )
    )
    self.batches = []

  def __call__(self, batch):
    self.batches.append(batch.shape[0])
    return self._apply(batch.astype(np.float32))


@pytest.fixture
def encode():
  return Encoder()


def _open(path, **kwargs):
  return features.FeatureStore(
      path, **{'fingerprint': 'tiny-1', 'shape': SHAPE} | kwargs
  )


def _fill(store, keys, pictures, encode):
  return store.fill(keys, pictures.__getitem__, encode, batch_size=4)


def test_cached_equals_uncached_bit_for_bit(tmp_path, keys, pictures, encode):
  store = _open(tmp_path)
  rows = _fill(store, keys, pictures, encode)
  padded = np.concatenate([pictures, pictures[-1:]])
  fresh = np.concatenate(
      [encode(padded[i : i + 4]) for i in range(0, 24, 4)]
  )[:23].astype(np.float16)
  np.testing.assert_array_equal(store[rows], fresh)
  np.testing.assert_array_equal(_open(tmp_path)[rows], fresh)


def test_batches_are_all_of_one_size(tmp_path, keys, pictures, encode):
  _fill(_open(tmp_path), keys, pictures, encode)
  assert encode.batches == [4] * 6


def test_only_missing_pictures_are_encoded(
    tmp_path, keys, pictures, encode, capsys
):
  store = _open(tmp_path)
  first = _fill(store, keys[:12], pictures, encode)
  assert encode.batches == [4] * 3
  rows = _fill(store, keys, pictures, encode)
  assert encode.batches == [4] * 6
  assert '12 pictures are in' in capsys.readouterr().out
  np.testing.assert_array_equal(rows[:12], first)
  # All are there: a process that opens the store later encodes nothing.
  _fill(_open(tmp_path), keys, pictures, encode)
  assert encode.batches == [4] * 6


def test_a_picture_that_comes_twice_is_encoded_once(
    tmp_path, keys, pictures, encode
):
  store = _open(tmp_path)
  twice = [0, 1, 0, 2, 1]
  rows = store.fill(
      [keys[i] for i in twice],
      lambda i: pictures[twice[i]],
      encode,
      batch_size=4,
  )
  assert rows.tolist() == [0, 1, 0, 2, 1]
  assert len(store) == 3


def test_rows_have_the_shape_of_their_index(tmp_path, keys, pictures, encode):
  store = _open(tmp_path)
  assert store[np.zeros((0,), np.int64)].shape == (0, *SHAPE)
  rows = _fill(store, keys, pictures, encode)
  assert rows.dtype == np.int64
  assert store[rows[:6].reshape(2, 3)].shape == (2, 3, *SHAPE)
  assert store[0].shape == SHAPE
  assert store[rows].dtype == np.float16
  with pytest.raises(IndexError):
    store[[len(store)]]


def test_a_key_names_content_and_view():
  view = images.random_view(np.random.default_rng(0))
  names = {
      features.key(b'a'),
      features.key(b'b'),
      features.key(b'a', view),
      features.key(b'a', view, 224),
      features.key(b'a', images.View()),
      features.key(b'a()'),
  }
  assert len(names) == 6
  assert {len(name) for name in names} == {16}
  # A constant, or caches of other days would not be found.
  assert features.key(b'a', images.View()).hex() == (
      'd8ecd3f2c1738991f063e8cf2d8761d4'
  )


@pytest.mark.parametrize(
    'rows_lost, keys_lost, whole',
    [(0, 0, 23), (1, 0, 22), (0, 1, 22), (31, 0, 21), (0, 16, 22), (95, 9, 19)],
)
def test_a_store_cut_anywhere_keeps_what_is_whole(
    tmp_path, keys, pictures, encode, rows_lost, keys_lost, whole
):
  rows = _fill(_open(tmp_path), keys, pictures, encode)
  expected = _open(tmp_path)[rows]
  for name, lost in ('rows.bin', rows_lost), ('keys.bin', keys_lost):
    path = tmp_path / name
    os.truncate(path, path.stat().st_size - lost)

  store = _open(tmp_path)
  assert len(store) == whole
  np.testing.assert_array_equal(store[range(whole)], expected[:whole])
  again = _fill(store, keys, pictures, encode)
  np.testing.assert_array_equal(again, rows)
  np.testing.assert_array_equal(store[again], expected)
  assert (tmp_path / 'rows.bin').stat().st_size == 23 * 3 * 5 * 2
  assert (tmp_path / 'keys.bin').stat().st_size == 23 * 16


def test_a_killed_process_leaves_whole_batches(tmp_path):
  program = textwrap.dedent("""
      import os, signal, sys
      import numpy as np
      from flamingo.data import features

      def encode(batch):
        if batch[0, 0, 0, 0] == 8:
          os.kill(os.getpid(), signal.SIGKILL)
        return batch[:, :3, :5, 0].astype(np.float32)

      features.FeatureStore(sys.argv[1], 'tiny-1', (3, 5)).fill(
          [features.key(bytes([i])) for i in range(12)],
          lambda i: np.full((7, 7, 3), i, np.uint8), encode, batch_size=4)
  """)
  done = subprocess.run([sys.executable, '-c', program, tmp_path], check=False)
  assert done.returncode == -signal.SIGKILL
  store = _open(tmp_path)
  assert len(store) == 8
  np.testing.assert_array_equal(store[range(8)][:, 0, 0], np.arange(8))


def test_an_exception_keeps_the_batches_before_it(
    tmp_path, keys, pictures, encode
):
  def draw(i):
    if i == 9:
      raise ValueError('a broken picture')
    return pictures[i]

  store = _open(tmp_path)
  with pytest.raises(ValueError, match='a broken picture'):
    store.fill(keys, draw, encode, batch_size=4)
  assert len(store) == 8
  _fill(store, keys, pictures, encode)
  assert encode.batches == [4] * 6


def test_a_writer_takes_notice_of_another(tmp_path, keys, pictures, encode):
  ours, theirs = _open(tmp_path), _open(tmp_path)
  _fill(theirs, keys[:20], pictures, encode)
  assert len(ours) == 0
  rows = _fill(ours, keys, pictures, encode)
  assert encode.batches == [4] * 6
  np.testing.assert_array_equal(rows, np.arange(23))


@pytest.mark.parametrize(
    'other, word',
    [
        ({'fingerprint': 'tiny-2'}, 'fingerprint'),
        ({'shape': (3, 4)}, 'shape'),
        ({'dtype': np.float32}, 'dtype'),
    ],
)
def test_features_of_another_kind_are_refused(tmp_path, other, word):
  _open(tmp_path)
  with pytest.raises(ValueError, match=f'Expected a store with {word}'):
    _open(tmp_path, **other)


def test_an_encoder_of_another_shape_is_refused(tmp_path, keys, pictures):
  store = _open(tmp_path)
  with pytest.raises(ValueError, match=r'shape \(3, 5\).*\(2,\) came'):
    _fill(store, keys, pictures, lambda batch: np.zeros((4, 2)))
  assert len(store) == 0


def test_features_that_float16_cannot_hold_are_refused(
    tmp_path, keys, pictures
):
  store = _open(tmp_path)
  with pytest.raises(ValueError, match='as float16'):
    _fill(store, keys, pictures, lambda batch: np.full((4, *SHAPE), 1e6))
  assert len(store) == 0
