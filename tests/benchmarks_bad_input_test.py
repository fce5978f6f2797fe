"""Files that are missing, cut short or wrong, and what is said about them."""

import dataclasses

import benchmark_files
from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import BENCHMARKS, Item
from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks import media
import numpy as np
import pytest


@pytest.fixture
def root(tmp_path):
  for name in ('coco', 'vqav2', 'hateful_memes', 'ivqa', 'msvdqa', 'youcook2'):
    benchmark_files.WRITERS[name](tmp_path)
  return tmp_path


def rewrite(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def test_a_missing_file_of_annotations_says_how_to_get_it(root):
  (root / 'vqav2/v2_mscoco_train2014_annotations.json').unlink()
  with pytest.raises(FileNotFoundError) as error:
    BENCHMARKS['vqav2'].items(root, 'train')
  assert 'v2_mscoco_train2014_annotations.json' in str(error.value)
  assert 'https://visualqa.org/download.html' in str(error.value)
  assert 'v2_OpenEnded_mscoco_train2014_questions' not in str(error.value)


def test_an_unknown_split_is_refused_with_those_there_are(root):
  with pytest.raises(ValueError, match="'test-dev'.*'dev'.*demonstrations"):
    BENCHMARKS['vqav2'].items(root, 'dev')


def test_malformed_json_is_named_with_its_line(root):
  path = root / 'coco/dataset_coco.json'
  path.write_text('{"images": [\n{"filename": "a.jpg",\n')
  with pytest.raises(ValueError, match=r'dataset_coco.json, line 3'):
    BENCHMARKS['coco'].items(root, 'test')


def test_a_malformed_line_is_named(root):
  path = root / 'hateful_memes/train.jsonl'
  path.write_text(path.read_text() + '\n<html>\n')
  with pytest.raises(ValueError, match='train.jsonl, line 4.*log in'):
    BENCHMARKS['hateful_memes'].items(root, 'train')


def test_bytes_that_are_no_text_are_named_with_their_file(tmp_path):
  path = tmp_path / 'bad'
  path.write_bytes(b'\xff\xfe\x00\xd8')
  for read in (files.read_json, lambda p: list(files.read_lines(p)),
               lambda p: list(files.read_csv(p, ('a',)))):
    with pytest.raises(ValueError, match='bad.*UTF-8'):
      read(path)


def test_json_of_another_kind_is_refused(tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('[1]')
  with pytest.raises(ValueError, match=r'a.json: expected an object'):
    files.read_object(path)
  with pytest.raises(ValueError, match=r'a.json\[0\]: expected an object'):
    list(files.read_list(path))
  path.write_text('{}')
  with pytest.raises(ValueError, match=r'a.json: expected a list'):
    list(files.read_list(path))


def test_a_missing_field_is_named_with_its_entry(root):
  rewrite(root / 'coco/dataset_coco.json', '"sentences"', '"captions"')
  with pytest.raises(
      ValueError, match=r"images\[4\]: expected the field 'sentences'.*capti"):
    BENCHMARKS['coco'].items(root, 'test')


def test_a_missing_column_is_named_with_those_there_are(root):
  rewrite(root / 'ivqa/test.csv', 'answer5', 'answer6')
  with pytest.raises(ValueError, match=r"test.csv, line 1.*\['answer5'\]"):
    BENCHMARKS['ivqa'].items(root, 'test')


def test_a_line_with_too_few_values_is_named(root):
  path = root / 'ivqa/test.csv'
  path.write_text(path.read_text() + '-abc,1,2,what?\n')
  with pytest.raises(ValueError, match='test.csv, line 3.*fewer'):
    BENCHMARKS['ivqa'].items(root, 'test')


def test_text_where_a_number_should_be_is_named(root):
  rewrite(root / 'ivqa/test.csv', ',12,21,', ',twelve,21,')
  with pytest.raises(ValueError, match="line 2.*number in 'start'.*'twelve'"):
    BENCHMARKS['ivqa'].items(root, 'test')


def test_an_empty_list_of_answers_is_refused_with_its_example(root):
  rewrite(root / 'vqav2/v2_mscoco_val2014_annotations.json', '"answers": [{',
          '"answers": [], "others": [{')
  with pytest.raises(
      ValueError, match=r'vqav2 \(val\), example 42000.*at least one answer'):
    BENCHMARKS['vqav2'].items(root, 'val')


def test_answers_of_spaces_alone_are_no_answers(root):
  rewrite(root / 'msvdqa/test_qa.json', '"cook"', '" "')
  with pytest.raises(ValueError, match='example 20.*at least one answer'):
    BENCHMARKS['msvdqa'].items(root, 'test')


def test_an_id_that_comes_twice_is_refused(root):
  rewrite(root / 'coco/dataset_coco.json', '"cocoid": 505', '"cocoid": 504')
  with pytest.raises(ValueError, match=r"coco \(test\).*'504' comes twice"):
    BENCHMARKS['coco'].items(root, 'test')


def test_a_split_without_examples_is_refused(root):
  rewrite(root / 'coco/dataset_coco.json', '"split": "test"', '"split": "val"')
  with pytest.raises(ValueError, match=r'coco \(test\): expected examples'):
    BENCHMARKS['coco'].items(root, 'test')


def test_a_row_names_splits_that_it_has():
  with pytest.raises(ValueError, match="support among the splits.*'nowhere'"):
    dataclasses.replace(BENCHMARKS['coco'], support='nowhere')


# Images.


def test_listing_does_not_open_images(root):
  before = BENCHMARKS['coco'].items(root, 'test')
  for path in (root / 'coco/val2014').iterdir():
    path.write_bytes(b'no picture')
  assert BENCHMARKS['coco'].items(root, 'test') == before


def test_a_missing_image_is_named_with_its_example(root):
  item = BENCHMARKS['coco'].items(root, 'test')[0]
  (root / item.image[0]).unlink()
  assert BENCHMARKS['coco'].items(root, 'test')[0] == item
  with pytest.raises(
      FileNotFoundError, match='COCO_val2014_000000000504.jpg of example 504'):
    benchmarks.read_images(root, item)


def test_missing_images_are_listed_by_example_so_that_they_can_be_counted(root):
  items = BENCHMARKS['coco'].items(root, 'test')
  assert benchmarks.missing_images(root, items) == {}
  (root / items[1].image[0]).unlink()
  assert benchmarks.missing_images(root, items) == {'505': items[1].image}


@pytest.mark.parametrize('keep', [0, 10, 60, -40])
def test_an_image_cut_short_is_refused_with_its_example(root, keep):
  item = BENCHMARKS['hateful_memes'].items(root, 'train')[0]
  path = root / item.image[0]
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match='01000.png of example 1000'):
    benchmarks.read_images(root, item)


def test_missing_frames_say_how_they_are_made(tmp_path):
  benchmark_files.msvdqa(tmp_path)
  for path in (tmp_path / 'msvdqa/frames/vid3').iterdir():
    path.unlink()
  item = BENCHMARKS['msvdqa'].items(tmp_path, 'test')[0]
  with pytest.raises(FileNotFoundError) as error:
    benchmarks.read_images(tmp_path, item)
  assert ('ffmpeg -i VIDEO -vf fps=1 -q:v 2 msvdqa/frames/vid3/%06d.jpg'
          in str(error.value))


def test_a_part_behind_the_last_frame_is_missing(root):
  rewrite(root / 'youcook2/youcookii_annotations_trainval.json', '[4, 6]',
          '[40, 60]')
  item = BENCHMARKS['youcook2'].items(root, 'val')[1]
  assert item.image == ('youcook2/frames/videovalidation/000041.jpg',)
  assert benchmarks.missing_images(root, [item]).keys() == {item.id}


def test_frames_of_other_names_are_refused(root):
  benchmark_files.picture(root / 'msvdqa/frames/vid3/first.jpg')
  with pytest.raises(ValueError, match="named by their number.*'first.jpg'"):
    BENCHMARKS['msvdqa'].items(root, 'test')


def test_a_box_outside_the_image_is_refused(tmp_path):
  benchmark_files.picture(tmp_path / 'a.png', size=(20, 10))
  item = Item(id='7', image=('a.png',), answer='a', references=('a',))
  for box in ((25, 0, 5, 5), (0, 12, 5, 5), (3, 3, 0, 4)):
    with pytest.raises(ValueError, match='of example 7, 20 x 10 pixels'):
      benchmarks.read_images(tmp_path, dataclasses.replace(item, box=box))


# Frames.


@pytest.mark.parametrize('count, expected', [
    (1, [3]), (2, [1, 5]), (3, [1, 3, 5]), (7, [0, 1, 2, 3, 4, 5, 6]),
    (9, [0, 1, 2, 3, 4, 5, 6])])
def test_frames_are_taken_evenly_from_a_clip(count, expected):
  paths = [str(i) for i in range(7)]
  assert media.evenly(paths, count) == tuple(map(str, expected))


def test_of_a_clip_only_so_many_frames_are_read_as_asked(root):
  item = BENCHMARKS['youcook2'].items(root, 'val')[0]
  whole = benchmarks.read_images(root, item)
  some = benchmarks.read_images(root, item, frames=1)
  assert (len(whole), len(some)) == (3, 1)
  np.testing.assert_array_equal(some[0], whole[1])


def test_copies_have_one_hash(tmp_path):
  benchmark_files.picture(tmp_path / 'a.png', 1)
  benchmark_files.picture(tmp_path / 'b.png', 1)
  benchmark_files.picture(tmp_path / 'c.png', 2)
  a, b, c = (
      benchmarks.content_hash(tmp_path, f'{name}.png') for name in 'abc')
  assert a == b != c
