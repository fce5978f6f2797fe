"""The order of training: one integer says what a step is made of."""

import json

from flamingo.data import pipeline
from flamingo.data.pipeline import Dataset, Layout
from flamingo.data.tokenizer import Tokenizer
from flamingo.types import Chunk
import jax
import numpy as np
import pytest

TOKENIZER = Tokenizer.bytes()
FEATURES = np.random.default_rng(0).normal(size=(50, 3, 2)).astype(np.float32)
LAYOUT = Layout(
    length=13, images=3, image_shape=(1, 3, 2), lookup=FEATURES.__getitem__)


def letters(rng):
  """Up to three pictures, each with a few letters."""
  return [
      Chunk(text=''.join(rng.choice(list('abc'), rng.integers(1, 4))),
            image=np.int64(rng.integers(50)))
      for _ in range(rng.integers(1, 4))]


def digits(rng):
  return [Chunk(text=str(rng.integers(1000)), image=np.int64(7))]


MIXTURE = (
    Dataset(name='letters', source=letters, batch_size=4),
    Dataset(name='digits', source=digits, batch_size=2, look_ahead=0.5))


def make(datasets=MIXTURE, *, seed=3, steps=9, **kwargs):
  return pipeline.make_pipeline(
      datasets, TOKENIZER, LAYOUT, seed=seed, steps=steps, **kwargs)


def assert_same(ones, others):
  jax.tree.map(np.testing.assert_array_equal, ones, others)


def differ(one, other):
  return not np.array_equal(one['letters'].tokens, other['letters'].tokens)


def test_a_pipeline_is_a_function_of_its_seed():
  once = list(make())
  assert_same(once, list(make()))
  assert_same(once, list(make(threads=3)))
  assert len(once) == 9
  assert all(map(differ, once, make(seed=4)))
  assert all(map(differ, once, once[1:]))


def test_a_batch_is_what_the_layout_says():
  batch = next(make())['letters']
  assert batch.images.shape == (4, 3, 1, 3, 2)
  assert batch.images.dtype == np.float32
  for array in batch.tokens, batch.image_index, batch.targets, batch.loss_mask:
    assert array.shape == (4, 13)
  np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])


def test_rows_of_the_store_become_their_features():
  batch = next(make())['digits']
  np.testing.assert_array_equal(
      batch.images[:, 0, 0], np.stack([FEATURES[7]] * 2))
  np.testing.assert_array_equal(batch.images[:, 1:], 0)


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('done', [0, 1, 5, 9])
def test_a_restored_iterator_goes_on_where_the_state_was_taken(done, threads):
  whole = list(make())
  first = make(threads=threads)
  for _ in range(done):
    next(first)
  # A checkpoint keeps it as JSON.
  state = json.loads(json.dumps(first.get_state()))
  second = make(threads=threads)
  second.set_state(state)
  assert_same(list(second), whole[done:])
  assert_same(list(first), whole[done:])


def test_two_processes_together_draw_what_one_draws():
  shares = [
      make(rows=lambda n, p=p: range(p * n // 2, (p + 1) * n // 2))
      for p in range(2)]
  for whole, first, second in zip(make(), *shares, strict=True):
    assert first['letters'].tokens.shape == (2, 13)
    assert_same(whole, jax.tree.map(
        lambda *halves: np.concatenate(halves), first, second))


def test_a_dataset_draws_the_same_whatever_stands_beside_it():
  alone = list(make(MIXTURE[:1]))
  assert [list(batches) for batches in alone] == [['letters']] * 9
  for batches, beside in zip(alone, make(), strict=True):
    assert_same(batches['letters'], beside['letters'])
  for batches, swapped in zip(alone, make(MIXTURE[::-1]), strict=True):
    assert_same(batches['letters'], swapped['letters'])


def test_two_datasets_of_one_source_are_not_alike():
  twins = [
      Dataset(name=name, source=letters, batch_size=4) for name in 'ab']
  for batches in make(twins):
    assert not np.array_equal(batches['a'].tokens, batches['b'].tokens)


def test_a_dataset_is_not_learnt_before_its_first_step():
  late = [MIXTURE[0], Dataset(
      name='digits', source=digits, batch_size=2, look_ahead=0.5, first_step=4)]
  for step, (batches, usual) in enumerate(zip(make(late), make(), strict=True)):
    assert_same(batches['letters'], usual['letters'])
    mask = batches['digits'].loss_mask
    if step < 4:
      assert mask.shape == (2, 13) and not mask.any()
      usual['digits'] = usual['digits'].replace(loss_mask=mask)
    assert_same(batches['digits'], usual['digits'])
  assert mask.any()


def test_look_ahead_is_a_share_of_documents():
  ahead = 0
  for batches in make(steps=100):
    # <bos> stands before the only image, and sees it if the text looks ahead.
    ahead += int(batches['digits'].image_index[:, 0].sum())
    np.testing.assert_array_equal(batches['letters'].image_index[:, 0], 0)
  assert 70 < ahead < 130  # of 200


def test_names_that_occur_twice_are_refused():
  with pytest.raises(ValueError, match=r"not \['letters', 'letters'\]"):
    make([MIXTURE[0], MIXTURE[0]])
  with pytest.raises(ValueError, match=r'not \[\]'):
    make([])


def test_rows_may_be_any_in_any_order():
  for whole, some in zip(make(), make(rows=lambda n: [n - 1, 0])):
    assert_same(jax.tree.map(lambda leaf: leaf[[-1, 0]], whole), some)


def test_a_document_of_too_many_images_is_an_error():
  crowd = lambda rng: [Chunk(text='x', image=np.int64(0))] * 4
  with pytest.raises(ValueError, match='4 images but the model takes 3'):
    next(make([Dataset(name='crowd', source=crowd, batch_size=1)]))


