"""A few emoji, questions and words, for configs to draw on."""

import functools

from experiments import data as data_lib
from flamingo.data.easy_vqa import ANSWERS, Question
from flamingo.data.episodes import Gallery
from flamingo.data.openmoji import Emoji
from flamingo.data.spelling import byte_symbols
from flamingo.data.tokenizer import Tokenizer
import numpy as np

FEATURES = (16, 1280)  # of an image in the quickstart


class Store:
  """Stands for a feature store: what is in a row is its number."""

  def __init__(self, rows, shape):
    self.shape, self.dtype, self._rows = shape, np.dtype(np.float32), rows

  def __getitem__(self, rows):
    rows = np.asarray(rows)
    assert (rows < self._rows).all()
    values = np.sin(rows[..., None] * np.arange(1, 1 + self.shape[-1]))
    return np.broadcast_to(
        values[..., None, :], rows.shape + self.shape).astype(np.float32)


def make_gallery(first, views):
  """Ten subgroups of ten emoji; rows from `first` on."""
  emoji = [
      Emoji(hexcode=f'{first}-{i}', name=f'thing {first} {i}', group='Objects',
            subgroup=f'subgroup {i // 10}', colour=b'', line=b'%d' % i)
      for i in range(100)]
  rows = first + np.arange(100 * 2 * views).reshape(100, 2, views)
  return Gallery(emoji, rows)


def make_pictures():
  """Of what the quickstart draws, a little, with other pixels."""
  galleries = {
      'train': make_gallery(1, 3), 'validation': make_gallery(700, 2),
      'test': make_gallery(1200, 4)}
  questions = {
      split: ([Question(b'', i, 'is it red?', ANSWERS[i]) for i in range(9)],
              list(range(start, start + 9)))
      for split, start in (('train', 2000), ('test', 2010))}
  blank = functools.partial(np.zeros, (24, 24, 3), np.uint8)
  return data_lib.Pictures(
      store=Store(2020, FEATURES), galleries=galleries, questions=questions,
      blank=0, drawings={row: blank for row in range(2020)})


def make_tokenizer():
  """Bytes, and a few words and syllables of one token."""
  words = [
      a + b + c for a in 'bcdfg' for b in 'aeiou' for c in ('le', 'nd', 'st')]
  pieces, merges = [], []
  for word in words:
    for n in range(1, 1 + len(word)):
      piece = 'Ġ' + word[:n]
      if piece not in pieces:
        pieces.append(piece)
        merges.append(f'{piece[:-1]} {piece[-1]}')
  special = ('<s>', '</s>', '<pad>')
  return Tokenizer.from_bpe(
      [*sorted(byte_symbols()), *pieces, *special], merges, special, *special)


def name_pools(tokenizer, split):
  del tokenizer
  single = [f'{split[:2]}{c}' for c in 'abcdefghijkl']
  return {'single': single, 'multi': [name * 2 for name in single]}
