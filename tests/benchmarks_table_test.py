"""The table of benchmarks, what is on disk, and your own task."""

import ast
import pathlib

import benchmark_files
from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import BENCHMARKS, TEMPLATES
import pytest

PACKAGE = pathlib.Path(benchmarks.__file__).parent

# Flamingo (arXiv:2204.14198), its table of benchmarks: the split that is
# reported, the metric, whether it is a DEV benchmark, whether it is open-ended.
# 'test' of VizWiz is what its test-dev is a part of.
PAPER = {
    'imagenet': ('val', 'top1', True, False),
    'kinetics700': ('val', 'mean_top1_top5', True, False),
    'coco': ('test', 'cider', True, True),
    'vqav2': ('test-dev', 'vqa_accuracy', True, True),
    'okvqa': ('val', 'vqa_accuracy', True, True),
    'msvdqa': ('test', 'top1', True, True),
    'vatex': ('test', 'cider', True, True),
    'flickr30k': ('test', 'cider', False, True),
    'vizwiz': ('test', 'vqa_accuracy', False, True),
    'textvqa': ('val', 'vqa_accuracy', False, True),
    'visdial': ('val', 'ndcg', False, False),
    'hateful_memes': ('test_seen', 'roc_auc', False, False),
    'youcook2': ('val', 'cider', False, True),
    'msrvttqa': ('test', 'top1', False, True),
    'ivqa': ('test', 'ivqa_accuracy', False, True),
    'rareact': ('test', 'mwap', False, False),
    'nextqa': ('test', 'wups', False, True),
    'star': ('test', 'top1', False, False),
}


def test_the_paper_s_benchmarks_are_asked_as_in_the_paper():
  assert PAPER == {
      name: (row.query, row.metric, row.development, row.open_ended)
      for name, row in BENCHMARKS.items() if name in PAPER}


def test_demonstrations_come_from_the_training_split_or_there_are_none():
  assert {row.support for row in BENCHMARKS.values()} == {
      'train', 'test_support', None}
  # Those of an episode are a part of it.
  without = {
      n for n, row in BENCHMARKS.items()
      if row.support is None and not row.rounds}
  assert without == {
      'rareact', 'winoground', 'pope_random', 'pope_popular',
      'pope_adversarial', 'aro_relation', 'aro_attribution', 'aro_coco_order',
      'aro_flickr_order'}
  assert all(BENCHMARKS[name].shots == (0,) for name in without)


def test_the_paper_s_sizes():
  assert {
      name: (row.validation, row.pool, row.by_class)
      for name, row in BENCHMARKS.items() if row.development
  } == {
      'coco': (5000, 2048, False), 'vqav2': (1024, 2048, False),
      'okvqa': (1024, 2048, False), 'msvdqa': (1024, 2048, False),
      'vatex': (1024, 2048, False), 'imagenet': (10, 32, True),
      'kinetics700': (10, 32, True)}


@pytest.mark.parametrize('name', BENCHMARKS)
def test_a_row_says_where_its_files_come_from_and_how_it_is_asked(name):
  row = BENCHMARKS[name]
  assert row.name == name
  assert 'http' in row.source and row.source.endswith(('.', '.jpg'))
  assert ('ffmpeg' in row.source) == any(
      '/frames/' in path for split in row.splits.values()
      for path in split.files.values())
  assert all(row.template in templates for templates in TEMPLATES.values())
  assert row.splits[row.public or row.query].answered


def test_where_answers_are_on_a_server_there_is_a_public_split():
  held = {
      name: row.public for name, row in BENCHMARKS.items()
      if not row.splits[row.query].answered}
  assert held == {'vqav2': 'val', 'vizwiz': 'val', 'star': 'val'}


def test_open_questions_at_zero_shots_have_two_texts_and_rankings_none():
  assert BENCHMARKS['coco'].texts_at_zero == 2
  assert BENCHMARKS['visdial'].texts_at_zero == 0


def test_no_code_asks_for_a_benchmark_s_name():
  for path in PACKAGE.glob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Compare):
        names = {
            c.value for c in ast.walk(node) if isinstance(c, ast.Constant)}
        assert not names & BENCHMARKS.keys(), f'{path.name}, {node.lineno}'


def test_an_unknown_benchmark_is_refused_with_those_there_are():
  assert benchmarks.benchmark('coco') is BENCHMARKS['coco']
  with pytest.raises(ValueError, match="'cocoa'.*mean 'coco'.*'easy_vqa'.*own"):
    benchmarks.benchmark('cocoa')


# What is on disk.


def test_of_an_empty_root_everything_is_missing_and_nothing_is_made(tmp_path):
  for name, presence in benchmarks.present(tmp_path / 'none').items():
    assert not presence.found
    assert presence.missing
    assert presence.source == BENCHMARKS[name].source
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', BENCHMARKS)
def test_what_a_benchmark_reads_is_what_it_lists(name, tmp_path):
  benchmark_files.WRITERS[name](tmp_path)
  presence = benchmarks.present(tmp_path)[name]
  assert presence.missing == ()
  assert presence.found


def test_a_missing_file_is_listed_among_those_found(tmp_path):
  benchmark_files.hateful_memes(tmp_path)
  (tmp_path / 'hateful_memes/train.jsonl').unlink()
  presence = benchmarks.present(tmp_path)['hateful_memes']
  assert presence.missing == ('hateful_memes/train.jsonl',)
  assert presence.found == (
      'hateful_memes/test_seen.jsonl', 'hateful_memes/img')


# Your own task.


def own(tmp_path, lines, **more):
  (tmp_path / 'birds').mkdir(exist_ok=True)
  (tmp_path / 'birds/test.jsonl').write_text(lines)
  return benchmarks.own(
      'birds', query='birds/test.jsonl', template='qa', metric='top1', **more)


def test_your_own_task_is_a_file_and_five_lines(tmp_path):
  birds = own(
      tmp_path,
      '{"image": "a.png", "question": "which bird?", "answer": "a wren"}\n'
      '\n'
      '{"id": "b", "image": ["1.png", "2.png"], "question": "which?", '
      '"answer": "a tit", "references": ["a tit", "a titmouse"], '
      '"candidates": ["a tit", "a jay"], "group": "hard"}\n')
  first, second = birds.items(tmp_path, birds.query)
  assert (first.id, first.image, first.answer) == ('1', ('a.png',), 'a wren')
  assert first.fields == {'question': 'which bird?'}
  assert first.references == ('a wren',)
  assert (second.id, second.image) == ('b', ('1.png', '2.png'))
  assert second.references == ('a tit', 'a titmouse')
  assert second.candidates == ('a tit', 'a jay')
  assert second.group == 'hard'


def test_your_own_task_has_the_attributes_of_a_benchmark(tmp_path):
  birds = own(
      tmp_path, '', support='birds/train.jsonl', shots=(0, 2), max_tokens=3)
  assert birds.support == 'support'
  assert (birds.shots, birds.max_tokens) == ((0, 2), 3)
  assert benchmarks.present(tmp_path, {'birds': birds})['birds'].missing == (
      'birds/train.jsonl',)


@pytest.mark.parametrize('line, message', [
    ('{"answer": "a"}', "line 1: expected the field 'image'"),
    ('{"image": "a.png"}', "line 1: expected the field 'answer'"),
    ('{"image": [], "answer": "a"}', 'line 1.*came none'),
    ('{"image": [3], "answer": "a"}', "line 1.*'image 0'; came 3"),
    ('{"image": "a", "answer": 3}', "line 1.*'answer'; came 3"),
    ('{"image": "a", "answer": "a", "size": 3}', "line 1.*'size'; came 3"),
    ('{"image": "a", "answer": "a", "references": "a"}', 'line 1.*brackets'),
    ('{"image": "a", "answer": ""}', 'example 1.*at least one answer'),
    ('{"image": "a", "answer": "a"', 'test.jsonl, line 1')])
def test_a_wrong_line_is_named(tmp_path, line, message):
  with pytest.raises(ValueError, match=message):
    own(tmp_path, line).items(tmp_path, 'query')
