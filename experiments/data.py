"""From a config to pictures with features, and to the training mixture."""

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import zlib

import jax
import ml_collections
import ml_dtypes
import numpy as np

from experiments import build
from flamingo.data import (
    blends, easy_vqa, episodes, images, names, openmoji, sources)
from flamingo.data.episodes import Gallery, STYLES
from flamingo.data.features import FeatureStore, key
from flamingo.data.pipeline import Dataset, Layout
from flamingo.model.vision.grid import pool_grid
from flamingo.model.whitening import fit

_SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
  """Every picture of an experiment, encoded.

  Attributes:
    store: the frozen features, by row.
    galleries: of emoji, by split.
    questions: of easy-VQA with the row of each one's picture, by split.
    blank: row of the grey picture.
    drawings: how to draw the picture of a row again, for people.
  """

  store: FeatureStore
  galleries: dict[str, Gallery]
  questions: dict[str, tuple[list[easy_vqa.Question], list[int]]]
  blank: int
  drawings: dict[int, functools.partial]

  def features(self, rows: np.ndarray) -> np.ndarray:
    """Features [n S D] of rows of the store, or of blends of them."""
    return blends.read(self.store.__getitem__, rows)

  @property
  def fingerprint(self) -> str:
    """Changes if any picture does."""
    rows = np.concatenate(
        [g.rows.ravel() for g in self.galleries.values()]
        + [np.asarray(rows) for _, rows in self.questions.values()])
    return f'{zlib.crc32(rows.astype(np.int64).tobytes()):08x}'


def load_pictures(
    config: ml_collections.ConfigDict, frozen: build.Frozen
) -> Pictures:
  """Draws and encodes what the config asks for, once: it is kept on disk."""
  section = config.data
  build.check_keys(
      section, ('directory', 'views', 'questions', 'grid'), 'config.data')
  build.check_keys(section.views, _SPLITS, 'config.data.views')
  build.check_keys(
      section.questions, ('train', 'test'), 'config.data.questions')
  directory = pathlib.Path(section.directory)
  side, size = section.grid, frozen.image_size
  store = FeatureStore(
      directory / 'features' / frozen.fingerprints['vision'][:12],
      f"{frozen.fingerprints['vision']} grid {side}",
      (side * side, frozen.feature_shape[1]), ml_dtypes.bfloat16)

  keys, drawings = [key(b'', 'blank', size)], [
      functools.partial(images.blank, size)]
  emoji = openmoji.load_openmoji(directory)
  for split in _SPLITS:
    for one in emoji[split]:
      for style in STYLES:
        for view in range(section.views[split]):
          seen = view_of(one.hexcode, style, view)
          png = getattr(one, style)
          keys.append(key(png, seen, size))
          drawings.append(
              functools.partial(draw_view, png, one.name, seen, size))
  asked = {}
  for split, count in section.questions.items():
    chosen = [
        q for q in easy_vqa.load_easy_vqa(split) if q.image_id < count]
    pictures = {q.image_id: q.image for q in chosen}
    asked[split] = (chosen, len(keys), sorted(pictures))
    for number in sorted(pictures):
      png = pictures[number]
      keys.append(key(png, 'resize', size))
      drawings.append(functools.partial(_resize, png, size))

  encode = jax.jit(lambda pixels: pool_grid(
      frozen.vision.apply({'params': frozen.vision_params}, pixels), side))
  rows = store.fill(
      keys, lambda i: drawings[i](), encode, label='frozen vision features')

  galleries, at = {}, 1
  for split in _SPLITS:
    shape = (len(emoji[split]), len(STYLES), section.views[split])
    count = int(np.prod(shape))
    galleries[split] = Gallery(
        emoji[split], rows[at : at + count].reshape(shape))
    at += count
  questions = {}
  for split, (chosen, start, numbers) in asked.items():
    place = {number: start + i for i, number in enumerate(numbers)}
    questions[split] = (chosen, [int(rows[place[q.image_id]]) for q in chosen])
  return Pictures(
      store=store, galleries=galleries, questions=questions,
      blank=int(rows[0]), drawings=dict(zip(map(int, rows), drawings)))


def fit_whitening(pictures: Pictures, width: int) -> dict[str, np.ndarray]:
  """Whitening measured on the training emoji alone: all styles and views."""
  rows = pictures.galleries['train'].rows
  return fit(pooled_features(pictures, rows.reshape(len(rows), -1)), width)


def pooled_features(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
  """Features [*rows C] averaged over places, a few hundred at a time."""
  parts = [
      pictures.features(some).astype(np.float32).mean(axis=1)
      for some in np.array_split(rows.ravel(), max(1, rows.size // 512))]
  return np.concatenate(parts).reshape(rows.shape + (-1,))


def with_neighbours(pictures: Pictures, split: str, k: int) -> Gallery:
  """A split's gallery, with the emoji most alike to each."""
  gallery = pictures.galleries[split]
  mean = pooled_features(pictures, gallery.rows).mean(axis=(1, 2))
  return dataclasses.replace(
      gallery, neighbours=episodes.find_neighbours(mean, k))


def build_mixture(
    config: ml_collections.ConfigDict, pictures: Pictures, tokenizer
) -> list[Dataset]:
  """The datasets of section `mixture`; each names the source it draws from."""
  datasets = []
  for name, section in config.mixture.items():
    section = dict(section)
    where = f'config.mixture.{name}'
    source = _build_source(
        section.pop('source', None), section.pop('options', {}), where,
        pictures, tokenizer)
    datasets.append(build.call(
        Dataset, section, where, name=name, source=source))
  return datasets


def _build_source(kind, options, where, pictures, tokenizer):
  """The source a section names, with its options and what it draws from."""
  if kind not in _SOURCES:
    raise ValueError(
        f'{where}.source is {kind!r}; there are {sorted(_SOURCES)}.')
  if kind == 'one_of':  # its options are sections like this one, by name
    parts = []
    for name, one in options.items():
      place = f'{where}.options.{name}'
      build.check_keys(one, ('source', 'options'), place)
      parts.append(_build_source(
          one.get('source'), one.get('options', {}), place, pictures,
          tokenizer))
    return sources.OneOf(sources=tuple(parts))
  return build.call(
      _SOURCES[kind], options, f'{where}.options',
      **_given(kind, options, pictures, tokenizer))


def build_layout(
    config: ml_collections.ConfigDict, pictures: Pictures
) -> Layout:
  """The shape of all batches: section `layout`, and what the pictures say."""
  return build.call(
      Layout, config.layout, 'config.layout',
      image_shape=(1,) + pictures.store.shape,
      image_dtype=pictures.store.dtype, lookup=pictures.features)


_SOURCES = {
    'episodes': sources.Episodes,
    'one_of': sources.OneOf,
    'pages': sources.Pages,
    'questions': sources.Questions,
    'shapes': sources.Captions,
}


def _given(kind: str, options, pictures: Pictures, tokenizer) -> dict:
  if kind == 'questions':
    chosen, rows = pictures.questions['train']
    return dict(questions=chosen, rows=rows)
  if kind == 'shapes':
    chosen, rows = pictures.questions['train']
    captions = easy_vqa.describe(chosen)
    places = {q.image_id: row for q, row in zip(chosen, rows)}
    return dict(
        captions=list(captions.values()), rows=[places[i] for i in captions])
  gallery = pictures.galleries['train']
  if options.get('kind') == 'lookalikes':  # the only ones that read neighbours
    gallery = with_neighbours(pictures, 'train', k=40)
  given = dict(gallery=gallery)
  if kind == 'episodes':
    given['names'] = name_pools(tokenizer, 'train')
  return given


def name_pools(tokenizer, split: str) -> dict[str, Sequence[str]]:
  """Made-up names of a split, by kind."""
  return {
      'single': names.words(tokenizer, split),
      'multi': names.nonsense(tokenizer, split)}


def view_of(hexcode: str, style: str, number: int) -> images.View:
  """View `number` of an emoji in a style; the same wherever it is shown."""
  chance = np.random.default_rng(
      (zlib.crc32(f'{hexcode} {style}'.encode()), number))
  return images.random_view(chance)


def draw_view(
    png: bytes, name: str, view: images.View, size: int
) -> np.ndarray:
  """Draws an emoji under a view, in a square of `size` pixels."""
  return images.draw(images.decode(png, name=name), view, size=size)


def _resize(png: bytes, size: int) -> np.ndarray:
  return images.resize(images.decode(png, name='easy-VQA'), size)
