"""A step's examples are named so that they can be drawn again."""

from flamingo.data import blends
from flamingo.data.examples import describer, in_words
from flamingo.data.pipeline import (
    Dataset, draw_document, Layout, make_pipeline)
from flamingo.data.tokenizer import Tokenizer
from flamingo.types import Chunk
import numpy as np


def source(rng):
  return [
      Chunk(text='abc'[rng.integers(3)] * 5, image=np.int64(rng.integers(9)))
      for _ in range(2)]


DATASETS = [
    Dataset(name='pairs', source=source, batch_size=3),
    Dataset(name='words', source=source, batch_size=2)]


def test_the_text_that_is_shown_is_the_text_that_was_read():
  tokenizer = Tokenizer.bytes()
  store = np.zeros((9, 1, 2), np.float32)
  batches = make_pipeline(
      DATASETS, tokenizer,
      Layout(length=19, images=2, image_shape=(1, 1, 2),
             lookup=store.__getitem__), seed=5, steps=4)
  describe = describer(DATASETS, seed=5)
  for step in range(1, 5):
    read = next(batches)['words'].tokens
    _, *lines = describe(step, ['words']).splitlines()
    assert len(lines) == 2
    for row, line in enumerate(lines):
      assert line.startswith(f'  words, seed 5, step {step - 1}, row {row}: ')
      text = tokenizer.decode(read[row].tolist())
      for chunk in draw_document(DATASETS[1], 5, step - 1, row)[0]:
        assert chunk.text in text and chunk.text in line


def test_without_a_name_all_datasets_are_described_and_long_ones_are_cut():
  text = describer(DATASETS, seed=0, rows=2)(7, [])
  assert text.count('pairs, seed 0, step 6') == 2
  assert text.count('words, seed 0, step 6') == 2 and 'and 1 more rows' in text
  long = in_words([Chunk(text='a' * 500, image=np.zeros((1, 2, 3, 3)))])
  assert long.startswith("images 1x2x3x3; '<image>aaa") and len(long) < 160


def test_a_blend_is_told_by_its_rows_and_what_they_count():
  pictures = blends.blend(
      (np.array([7, 31]), np.array([0.375, 1.0])), (np.array([12, 5]), -0.8))
  text = in_words([Chunk(text=' dax', image=p) for p in pictures])
  assert text.startswith(
      'images 0.38 x 7 + -0.8 x 12, 1 x 31 + -0.8 x 5; ')
