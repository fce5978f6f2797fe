"""Emoji and easy-VQA as files: the same anywhere, and whole or absent."""

import json

from experiments import benchmark_data
from experiments import data as data_lib
from flamingo.data import easy_vqa
from flamingo.data.images import decode, Preprocess
from flamingo.data.openmoji import Emoji
from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import BENCHMARKS
import io
import numpy as np
from PIL import Image
import pytest

NAMES = ('dax', 'wug', 'fep', 'zup', 'kiv', 'blick', 'toma')
EPISODES = 3


def drawing(seed):
  """PNG bytes of a drawing on a transparent ground, of 7 pixels."""
  rng = np.random.default_rng(seed)
  data = io.BytesIO()
  Image.fromarray(
      rng.integers(0, 256, (7, 7, 4)).astype(np.uint8)).save(data, 'png')
  return data.getvalue()


# Five subgroups of five, so that a category of 5 ways can be drawn.
EMOJI = [
    Emoji(hexcode=f'1F4{i:02d}', name=f'thing {i}', group='Objects',
          subgroup=f'kind {i // 5}', colour=drawing(i), line=drawing(100 + i))
    for i in range(25)]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  path = tmp_path_factory.mktemp('root')
  benchmark_data.write_emoji(path, 'test', EMOJI, NAMES, episodes=EPISODES)
  return path


def emoji_of(item):
  """Code points, style and view of the picture of an item."""
  return item.image[0].split('/')[-1].removesuffix('.png').split('-')


@pytest.mark.parametrize('name', [n for n in BENCHMARKS if n[:6] == 'emoji_'])
def test_all_rows_of_emoji_are_written_with_their_pictures(root, name):
  row = BENCHMARKS[name]
  assert benchmarks.present(root, {name: row})[name].missing == ()
  items = row.items(root, 'test')
  assert len(items) == (25 if name == 'emoji_names' else EPISODES)
  for item in items:
    assert not benchmarks.missing_images(root, [item, *item.demonstrations])
    assert item.answer in item.candidates
    assert len(set(item.candidates)) == (2 if '2way' in name else 5)


@pytest.mark.parametrize('ways', [2, 5])
def test_a_binding_episode_asks_in_lines_what_it_shows_in_colour(root, ways):
  for item in BENCHMARKS[f'emoji_binding_{ways}way'].items(root, 'test'):
    hexcode, style, _ = emoji_of(item)
    assert style == 'line'
    shown = {}
    for one in item.demonstrations:
      assert emoji_of(one)[1] == 'colour'
      shown.setdefault(one.answer, []).append(emoji_of(one))
    assert {len(some) for some in shown.values()} == {12}
    for answer, some in shown.items():
      assert len({view for _, _, view in some}) == 12  # no picture twice
      assert {code for code, _, _ in some} == {some[0][0]}
      assert (some[0][0] == hexcode) == (answer == item.answer)


def test_a_category_never_shows_the_emoji_it_asks_for(root):
  kind = {one.hexcode: one.subgroup for one in EMOJI}
  for item in BENCHMARKS['emoji_category_2way'].items(root, 'test'):
    hexcode = emoji_of(item)[0]
    for one in item.demonstrations:
      assert emoji_of(one)[0] != hexcode
      alike = kind[emoji_of(one)[0]] == kind[hexcode]
      assert alike == (one.answer == item.answer)


def test_a_name_is_one_of_its_subgroup_and_its_support_shows_other_views(root):
  row = BENCHMARKS['emoji_names']
  kind = {one.name: one.subgroup for one in EMOJI}
  asked = row.items(root, 'test')
  shown = row.items(root, 'test_support')
  assert len(shown) == 2 * len(asked)
  for item in asked:
    assert {kind[name] for name in item.candidates} == {kind[item.answer]}
  assert not {i.image for i in asked} & {i.image for i in shown}


def test_what_is_written_is_what_the_quickstart_is_shown(root):
  """A picture goes through a file and the harness without a pixel changing."""
  item = BENCHMARKS['emoji_binding_2way'].items(root, 'test')[0]
  code, style, view = emoji_of(item)
  one = next(one for one in EMOJI if one.hexcode == code)
  drawn = data_lib.draw_view(
      one.line, one.name, data_lib.view_of(code, style, int(view)), 224)
  (read,) = benchmarks.read_images(root, item)
  np.testing.assert_array_equal(Preprocess(224, 'pad')(read), drawn)


def test_what_is_there_is_left_and_what_is_lacking_is_written_the_same(root):
  path = root / 'emoji/category_5way_test.jsonl'
  before = path.read_bytes()
  picture = root / 'emoji/images' / json.loads(
      before.splitlines()[0])['image']
  pixels, stamp = picture.read_bytes(), path.with_name(
      'binding_2way_test.jsonl').stat().st_mtime_ns
  path.unlink()
  picture.unlink()
  benchmark_data.write_emoji(root, 'test', EMOJI, NAMES, episodes=EPISODES)
  assert path.read_bytes() == before and picture.read_bytes() == pixels
  assert path.with_name(
      'binding_2way_test.jsonl').stat().st_mtime_ns == stamp
  assert not list((root / 'emoji').rglob('*.partial'))


def test_easy_vqa_is_copied_from_its_package(tmp_path, monkeypatch):
  source = tmp_path / 'package'
  for split in ('train', 'test'):
    (source / split / 'images').mkdir(parents=True)
    (source / split / 'images/0.png').write_bytes(drawing(3))
    (source / split / 'questions.json').write_text('[["red?", "no", 0]]')
  (source / 'answers.txt').write_text('yes\nno\n')
  monkeypatch.setattr(easy_vqa, 'package_folder', lambda: source)
  root = tmp_path / 'root'
  for _ in range(2):  # what is there is left
    benchmark_data.write_easy_vqa(root)
    (item,) = BENCHMARKS['easy_vqa'].items(root, 'test')
    assert (item.answer, item.candidates) == ('no', ('yes', 'no'))
    assert decode((root / item.image[0]).read_bytes()).shape == (7, 7, 4)
