"""OpenMoji: which classes there are, how they are split, what is drawn."""

import itertools
import sys

from flamingo.data import images, openmoji
import numpy as np
import pytest


@pytest.fixture(scope='module')
def classes():
  return openmoji.list_classes()


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('tfds')


@pytest.fixture(scope='module')
def small(data_dir):
  return openmoji.load_openmoji(data_dir, config='small')


def _everything(splits):
  return list(itertools.chain.from_iterable(splits.values()))


def _alpha_box(png):
  """Top, bottom, left and right of what is drawn."""
  alpha = images.decode(png)[..., 3] > 127
  rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
  return np.array([rows[0], rows[-1], columns[0], columns[-1]])


def test_classes_are_those_of_the_published_counts(classes):
  rows = _everything(classes)
  objects = [row for row in rows if row['group'] in openmoji.OBJECT_GROUPS]
  assert len(rows) == 1324
  assert len({row['subgroup'] for row in rows}) == 94
  assert len(objects) == 829
  assert len({row['subgroup'] for row in objects}) == 50
  assert {split: len(rows) for split, rows in classes.items()} == {
      'train': 850,
      'validation': 212,
      'test': 262,
  }


@pytest.mark.parametrize('field', ['hexcode', 'name', 'subgroup'])
def test_no_class_and_no_subgroup_is_in_two_splits(classes, field):
  for one, other in itertools.combinations(openmoji.SPLITS, 2):
    ours, theirs = ({row[field] for row in classes[s]} for s in (one, other))
    assert not ours & theirs


def test_names_are_lower_case_and_unique(classes):
  names = [row['name'] for row in _everything(classes)]
  assert 'dog face' in names
  assert len(set(names)) == len(names)
  assert all(name == name.lower().strip() for name in names)
  assert not any(mark in name for name in names for mark in '_:’')


@pytest.mark.parametrize(
    'name',
    ['one-thirty', "twelve o'clock", 'keycap 10', 'chequered flag',
     'light skin tone', 'woman surfing', 'ok button'],
)  # fmt: skip
def test_variants_and_letters_are_no_classes(classes, name):
  assert name not in {row['name'] for row in _everything(classes)}


def test_splits_go_by_the_position_of_the_subgroup(classes):
  split = {r['subgroup']: s for s, rows in classes.items() for r in rows}
  # The first six of Unicode's subgroups.
  assert split['face-smiling'] == 'train'
  assert split['face-affection'] == 'train'
  assert split['face-tongue'] == 'test'
  assert split['face-hand'] == 'train'
  assert split['face-neutral-skeptical'] == 'train'
  assert split['face-sleepy'] == 'validation'


def test_a_build_holds_both_pictures_of_every_class(small, classes):
  for split in openmoji.SPLITS:
    names = [emoji.name for emoji in small[split]]
    everything = [row['name'] for row in classes[split]]
    assert set(names) <= set(everything)
    assert sorted(names, key=everything.index) == names
    assert {e.subgroup for e in small[split]} == {
        row['subgroup'] for row in classes[split]
    }
  for emoji in small['test'][:8]:
    for picture in emoji.colour, emoji.line:
      assert images.decode(picture).shape == (openmoji.SIDE, openmoji.SIDE, 4)
    assert len(repr(emoji)) < 200  # pictures do not flood the terminal


def test_line_art_has_the_geometry_of_the_colour_picture(small):
  apart = [
      np.abs(_alpha_box(emoji.colour) - _alpha_box(emoji.line)).max()
      for emoji in _everything(small)
  ]
  assert np.mean(np.array(apart) <= 2) > 0.95


def test_line_art_is_black(small):
  for emoji in small['validation']:
    rgba = images.decode(emoji.line)
    assert rgba[rgba[..., 3] > 127][:, :3].mean() < 32


def test_a_second_load_reads_what_the_first_has_drawn(
    small, data_dir, monkeypatch
):
  monkeypatch.setattr(openmoji, 'draw_png', None)
  assert openmoji.load_openmoji(data_dir, config='small') == small


def test_a_build_cut_short_is_not_taken_for_a_whole_one(
    small, tmp_path, monkeypatch
):
  draw, left = openmoji.draw_png, iter(range(20))

  def draw_a_few(svg):
    if next(left, None) is None:
      raise KeyboardInterrupt
    return draw(svg)

  monkeypatch.setattr(openmoji, 'draw_png', draw_a_few)
  with pytest.raises(KeyboardInterrupt):
    openmoji.load_openmoji(tmp_path, config='small')
  monkeypatch.undo()
  assert openmoji.load_openmoji(tmp_path, config='small') == small


def test_tensorflow_stays_outside(small):
  assert 'tensorflow' not in sys.modules


def test_the_licence_of_the_art_is_kept(data_dir, small):
  info = openmoji.OpenMoji(data_dir=str(data_dir), config='small').info
  assert 'CC BY-SA 4.0' in info.redistribution_info.license


def test_line_art_of_another_svg_is_refused():
  with pytest.raises(ValueError, match='top-level groups'):
    openmoji.line_art('<svg><g id="color"></g></svg>')


def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'resvg_py', None)
  with pytest.raises(ImportError, match='pip install .*resvg-py=='):
    openmoji.load_openmoji(tmp_path, config='small')
