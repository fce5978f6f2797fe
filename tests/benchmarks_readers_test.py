"""Each benchmark's official files become items."""

import dataclasses
import json

import benchmark_files
from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import BENCHMARKS, TEMPLATES
from flamingo.eval.benchmarks import rareact
from flamingo.eval.benchmarks.vqa import most_frequent
import pytest


@pytest.fixture
def read(tmp_path):
  """Writes a benchmark's files and reads a split, `query` by default."""
  def items(name, split=None, change=None):
    benchmark_files.WRITERS[name](tmp_path)
    if change is not None:
      change(tmp_path)
    row = BENCHMARKS[name]
    return row.items(tmp_path, split or row.query)
  return items


def edit(path, change):
  """Rewrites a JSON file after `change` has changed what is in it."""
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))


def test_there_is_a_fixture_of_every_benchmark():
  assert benchmark_files.WRITERS.keys() == BENCHMARKS.keys()


@pytest.mark.parametrize('name', BENCHMARKS)
def test_every_split_has_examples_with_images_and_answers(name, tmp_path):
  benchmark_files.WRITERS[name](tmp_path)
  row = BENCHMARKS[name]
  for split, part in row.splits.items():
    items = row.items(tmp_path, split)
    assert items
    for item in items:
      for image in benchmarks.read_images(tmp_path, item):
        assert image.ndim == 3 and image.shape[2] == 3
      assert bool(item.answer) == bool(item.references) == part.answered
      assert bool(item.candidates) == (not row.open_ended)
      if part.answered and not row.open_ended:
        assert item.answer in item.candidates


@pytest.mark.parametrize('name', BENCHMARKS)
@pytest.mark.parametrize('way', TEMPLATES)
def test_every_field_a_template_names_is_given(way, name, tmp_path):
  benchmark_files.WRITERS[name](tmp_path)
  row = BENCHMARKS[name]
  template = TEMPLATES[way][row.template]
  for split in row.splits:
    for item in row.items(tmp_path, split):
      assert template.fields() <= item.fields.keys()
      assert '{' not in template.demonstration(item)


@pytest.mark.parametrize('name', BENCHMARKS)
def test_reading_twice_gives_the_same_items(name, tmp_path):
  benchmark_files.WRITERS[name](tmp_path)
  row = BENCHMARKS[name]
  assert row.items(tmp_path, row.query) == row.items(tmp_path, row.query)


# Images.


def test_coco_has_all_captions_and_shows_the_first(read):
  first, second = read('coco')
  assert first.id == '504'
  assert first.image == ('coco/val2014/COCO_val2014_000000000504.jpg',)
  assert first.answer == 'a dog 4.'
  assert first.references == ('a dog 4.', 'The dog "4" runs.')
  assert second.id == '505'


def test_coco_trains_on_images_of_its_training_split_alone(read):
  assert [item.id for item in read('coco', 'train')] == ['500', '501']


def test_vqa_joins_questions_and_answers_by_their_number(read):
  def change(root):
    def answer_by_number(value):
      for entry in value['annotations']:
        for answer in entry['answers']:
          answer['answer'] = f'a{entry["question_id"]}'
    edit(root / 'vqav2/v2_mscoco_val2014_annotations.json', answer_by_number)
  items = read('vqav2', 'val', change)
  assert [item.id for item in items] == ['42000', '42001', '43002']
  assert [item.answer for item in items] == ['a42000', 'a42001', 'a43002']


def test_vqa_shows_the_answer_most_people_gave_and_keeps_all_ten(read):
  item = read('vqav2', 'val')[0]
  assert item.answer == 'dog'
  assert len(item.references) == 10 and item.references[0] == 'cat'


def test_two_questions_about_one_image_name_one_file(read):
  a, b, c = read('okvqa')
  assert a.image == b.image != c.image


def test_questions_without_public_answers_are_read(read):
  item = read('vqav2', 'test-dev')[0]
  assert (item.answer, item.references) == ('', ())


def test_a_question_without_its_annotation_is_refused(read):
  def change(root):
    edit(root / 'vqav2/v2_mscoco_val2014_annotations.json',
         lambda value: value['annotations'].pop())
  with pytest.raises(ValueError, match=r'questions\[0\].*question 42000'):
    read('vqav2', 'val', change)


@pytest.mark.parametrize('answers, expected', [
    (('a', 'b', 'b'), 'b'), (('a', 'b'), 'a'), (('b', 'a', 'a', 'b'), 'b'),
    (('', '', 'a'), 'a'), (('', ''), ''), ((), '')])
def test_ties_between_answers_go_to_the_one_given_first(answers, expected):
  assert most_frequent(answers) == expected


def test_vizwiz_is_named_by_its_image(read):
  item = read('vizwiz', 'val')[0]
  assert item.id == 'VizWiz_val_00000000.jpg'
  assert item.fields == {'question': 'What is this?'}
  assert item.answer == 'soup'


def test_visdial_is_cut_at_the_round_that_was_annotated(read):
  item, = read('visdial')
  assert item.turns == (
      ('is it big?', 'no'), ('how many are there?', 'two of them'))
  assert item.fields == {
      'caption': 'a bus on a street', 'question': 'what color is it?'}
  assert item.answer == 'red'
  # The relevance of each candidate, in their order.
  assert item.candidates == ('red', 'no', 'red', 'two of them')
  assert item.references == (0.0, 0.2, 1.0, 0.4)


def test_visdial_finds_training_images_in_both_folders_of_coco(read):
  a, b = read('visdial', 'train')
  assert a.image == ('coco/train2014/COCO_train2014_000000000031.jpg',)
  assert b.image == ('coco/val2014/COCO_val2014_000000000032.jpg',)


def test_where_a_training_dialogue_is_cut_depends_on_its_image_alone(
    tmp_path):
  images = range(100, 160)
  path = tmp_path / 'visdial/visdial_1.0_train.json'
  row = BENCHMARKS['visdial']
  lengths = []
  for order in (images, reversed(images)):
    benchmark_files.to_json(
        path, benchmark_files._dialogs('train', list(order)))
    lengths.append({
        item.id: len(item.turns) for item in row.items(tmp_path, 'train')})
  assert lengths[0] == lengths[1]
  assert set(lengths[0].values()) == {0, 1, 2, 3}


def test_visdial_without_the_annotation_of_an_image_is_refused(read):
  def change(root):
    edit(root / 'visdial/visdial_1.0_val_dense_annotations.json',
         lambda value: value[0].update(image_id=78))
  with pytest.raises(ValueError, match='annotation of image 77'):
    read('visdial', change=change)


def test_hateful_memes_without_labels_are_refused_with_their_line(read):
  def change(root):
    path = root / 'hateful_memes/test_seen.jsonl'
    lines = path.read_text().splitlines()
    path.write_text(f'{lines[0]}\n{lines[1].replace("label", "none")}\n')
  with pytest.raises(ValueError, match='test_seen.jsonl, line 2.*label'):
    read('hateful_memes', change=change)


def test_a_class_whose_name_contains_another_is_a_class_of_its_own(read):
  items = read('imagenet')
  assert items[0].candidates == (
      'tench', 'car', 'car wheel', 'crane bird', 'construction crane')
  assert [i.answer for i in items] == [
      'tench', 'tench', 'car', 'car', 'car wheel', 'car wheel']


def test_two_classes_of_one_name_are_refused(read):
  def change(root):
    path = root / 'imagenet/LOC_synset_mapping.txt'
    path.write_text(path.read_text().replace('car wheel', 'car, wheel'))
  with pytest.raises(ValueError, match="n02958343 and n02974003.*'car'"):
    read('imagenet', change=change)


def test_a_folder_without_a_class_is_refused(read):
  def change(root):
    (root / 'imagenet/val/n99999999').mkdir()
  with pytest.raises(ValueError, match='n99999999.*one of the 5 classes'):
    read('imagenet', change=change)


# Clips.


def test_a_clip_is_the_frames_of_its_seconds(read):
  # From 1.6 to 3.2 s: frame n shows second n - 1.
  assert read('star')[0].image == tuple(
      f'star/frames/BRVTO/{n:06d}.jpg' for n in (2, 3, 4))
  assert [item.image for item in read('youcook2')] == [
      tuple(f'youcook2/frames/videovalidation/{n:06d}.jpg' for n in seconds)
      for seconds in ((1, 2, 3), (5, 6))]


def test_a_clip_of_its_own_is_all_its_frames(read):
  assert read('ivqa')[0].image == (
      'ivqa/frames/-test_12_21/000001.jpg',
      'ivqa/frames/-test_12_21/000002.jpg')


def test_frames_are_in_the_order_of_their_numbers(read):
  def change(root):
    for n in (9, 10):
      benchmark_files.picture(root / f'msvdqa/frames/vid3/{n}.jpg')
  assert [path.rsplit('/')[-1] for path in read(
      'msvdqa', change=change)[0].image] == [
          '000001.jpg', '000002.jpg', '000003.jpg', '9.jpg', '10.jpg']


def test_ivqa_shows_the_answer_most_people_gave_and_keeps_all_five(read):
  item, = read('ivqa')
  assert item.answer == 'knife'
  assert item.references == ('knife', 'sharp knife', 'knife', 'blade', 'knife')


def test_nextqa_has_the_second_answers_of_its_test(read):
  assert read('nextqa')[0].references == ('no', 'nope')
  assert read('nextqa', 'val')[0].references == ('no',)


def test_two_kinds_of_question_of_nextqa_may_have_one_number(read):
  def change(root):
    path = root / 'nextqa/open_ended/train.csv'
    line = path.read_text().splitlines()[1]
    path.write_text(f'{path.read_text()}{line.replace(",DB", ",TN")}\n')
  assert len(read('nextqa', 'train', change)) == 2


def test_questions_end_in_one_question_mark(read):
  assert read('nextqa')[0].fields['question'] == 'is the baby old enough?'


def test_the_choice_of_nextqa_is_a_number(read):
  assert read('nextqa_choice')[0].answer == 'to catch it'
  def change(root):
    path = root / 'nextqa/choice/val.csv'
    path.write_text(path.read_text().replace(',3,6,', ',no,6,'))
  with pytest.raises(ValueError, match="line 2.*0 to 4; came 'no'"):
    read('nextqa_choice', change=change)


def test_star_refuses_an_answer_that_is_no_choice(read):
  def change(root):
    edit(root / 'star/STAR_val.json',
         lambda value: value[0].update(answer='The sofa.'))
  with pytest.raises(ValueError, match="came 'The sofa.'"):
    read('star', 'val', change)


@pytest.mark.parametrize('verb, noun, expected', [
    ('cut', 'keyboard', 'a person cuts a keyboard'),
    ('wash', 'eggs', 'a person washes eggs'),
    ('fry', 'orange', 'a person fries an orange'),
    ('spray', 'hair', 'a person sprays hair'),
    ('unplug', 'oven', 'a person unplugs an oven')])
def test_an_unusual_action_is_a_sentence(verb, noun, expected):
  assert rareact.sentence(verb, noun) == expected


def test_rareact_asks_every_clip_about_every_action(read):
  items = read('rareact')
  assert {item.candidates for item in items} == {(
      'a person cuts a keyboard', 'a person washes eggs',
      'a person fries an orange')}
  assert [item.references for item in items] == [
      (0, 0), (1, 1), (2, 2), (0, 3), (1, 4), (2, 0)]
  assert items[0].group == '-vid0'


def test_kinetics_refuses_a_label_that_is_no_class(read):
  def change(root):
    path = root / 'kinetics700/annotations/val.csv'
    path.write_text(path.read_text().replace('abseiling', 'flying'))
  with pytest.raises(ValueError, match="line 3.*2 classes.*'flying'"):
    read('kinetics700', change=change)


# Probes.


def test_winoground_asks_each_image_about_both_captions(read):
  items = read('winoground')
  assert [item.group for item in items] == ['0', '0', '1', '1']
  for first, second in (items[:2], items[2:]):
    assert first.candidates == second.candidates == (
        first.answer, second.answer)
    assert first.image != second.image


def test_aro_shows_the_part_of_the_image_that_is_meant(read, tmp_path):
  item, = read('aro_relation')
  image, = benchmarks.read_images(tmp_path, item)
  whole, = benchmarks.read_images(
      tmp_path, dataclasses.replace(item, box=None))
  assert image.shape == (5, 9, 3)
  assert (image == whole[2:7, 4:13]).all()
  assert item.group == 'on'


def test_pope_answers_yes_or_no(read):
  assert [item.answer for item in read('pope_popular')] == ['yes', 'no']
  def change(root):
    path = root / 'pope/coco_pope_popular.json'
    path.write_text(path.read_text().replace('"no"', '"maybe"'))
  with pytest.raises(ValueError, match="line 2.*came 'maybe'"):
    read('pope_popular', change=change)


# Those that are made here.


def test_an_episode_brings_its_demonstrations_along(read):
  items = read('emoji_binding_2way')
  item = items[1]
  assert item.image == ('emoji/images/query-1.png',)
  assert (item.answer, item.candidates) == ('wug', ('dax', 'wug'))
  assert [one.answer for one in item.demonstrations] == ['dax', 'wug'] * 3
  assert item.demonstrations[2].image == ('emoji/images/dax-1.png',)
  assert len({one.id for i in items for one in i.demonstrations}) == 18
  # So that a random label is one of the episode's.
  assert {one.candidates for one in item.demonstrations} == {item.candidates}


def test_easy_vqa_is_read_as_its_package_has_it(read):
  items = read('easy_vqa')
  assert [item.id for item in items] == list('012345')
  assert items[3].image == ('easy_vqa/test/images/1.png',)
  assert items[3].fields == {'question': 'is there a red shape?'}
  assert items[3].candidates == ('circle', 'red', 'yes', 'no')


@pytest.mark.parametrize('entry, message', [
    (['what?', 'blue', 0], r"\[1\]: expected one of the 4 answers.*'blue'"),
    (['what?', 'red'], r'\[1\]: expected \[question, answer'),
    ({'question': 'what?'}, r'\[1\]: expected \[question, answer')])
def test_an_entry_of_easy_vqa_that_is_none_is_named(read, entry, message):
  def change(root):
    edit(root / 'easy_vqa/test/questions.json',
         lambda rows: rows.__setitem__(1, entry))
  with pytest.raises(ValueError, match=message):
    read('easy_vqa', change=change)
