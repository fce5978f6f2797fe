"""Every benchmark is asked and scored from its official files, by one code."""

import json
import os
import subprocess
import sys

from benchmark_files import WRITERS
import benchmark_models as models
from experiments import benchmark
from experiments import listing
from flamingo.eval import benchmarks
from flamingo.eval import harness
from flamingo.eval.beam import Generation
from flamingo.eval.harness.metrics import METRICS, Said
import numpy as np
import pytest


@pytest.fixture(scope='module')
def loaded(tiny, random_params):
  return models.seeing(tiny, random_params)


class Parrot(harness.PicturePredictor):
  """Says 'dog', and likes candidates by the sum of their tokens."""

  def rank(self, groups):
    return [
        [np.array([float(sum(ids)) for ids in candidates])
         for _, candidates in group] for group in groups]

  def generate(self, prompts, **how):
    ids = tuple(models.TOKENIZER.encode(' dog'))
    return [Generation(ids, 0.0) for _ in prompts]


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('latents')


@pytest.fixture
def ask(loaded, cache, tmp_path, monkeypatch):
  monkeypatch.setattr(benchmark, 'make_predictor', Parrot)

  def evaluate(name, **changes):
    WRITERS[name](tmp_path)
    config = models.config_of(cache) | dict(
        own=(), tasks=(name,), frames=2, texts_at_zero=0, shots=(0,)) | changes
    output = tmp_path / 'output'
    rows = benchmark.evaluate(config, loaded, tmp_path, output)
    lines = (output / 'predictions.jsonl').read_text().splitlines()[1:]
    assert benchmark.rescore(tmp_path, output) == rows
    return rows, [json.loads(line) for line in lines]
  return evaluate


# The fixtures' training splits are too small to divide in three.
SMALL = dict(development=False, pool=1)
CAPTIONS = ['cider', 'bleu_1', 'bleu_2', 'bleu_3', 'bleu_4', 'rouge_l']
NAMES = {
    'cider': sorted(CAPTIONS),
    'winoground': ['winoground_group', 'winoground_image', 'winoground_text'],
    'pope': ['pope_accuracy', 'pope_f1', 'pope_precision', 'pope_recall',
             'pope_yes_ratio'],
}


def _marked(name):
  captions = benchmarks.BENCHMARKS[name].metric == 'cider'
  return pytest.param(name, marks=pytest.mark.original) if captions else name


@pytest.mark.parametrize('name', map(_marked, sorted(WRITERS)))
def test_every_benchmark_is_asked_and_scored(ask, name):
  row = benchmarks.BENCHMARKS[name]
  if row.metric == 'cider':
    pytest.importorskip('pycocoevalcap', reason='captions: make parity')
  rows, records = ask(
      name, rows={name: SMALL}, baselines=('majority', 'text_only'))
  plain = [r for r in rows if r['baseline'] is None]
  scored = [r for r in plain if r['value'] is not None]
  # One needs a database, and one image has no CIDEr but BLEU.
  if not any('WordNet' in r.get('why', '') for r in plain):
    expected = NAMES.get(row.metric, [row.metric])
    assert sorted(r['metric'] for r in scored) == expected
  assert all(r['n'] == len({x['id'] for x in records}) for r in rows)
  for record in records:
    assert (record['scores'] is None) == row.open_ended
    if row.open_ended and '"baseline": null' in record['cell']:
      assert record['output'] == 'dog'


@pytest.mark.parametrize('template', benchmarks.TEMPLATES)
@pytest.mark.parametrize('name', ['coco', 'vqav2', 'hateful_memes', 'visdial'])
def test_every_template_writes_demonstrations(ask, name, template):
  _, records = ask(
      name, rows={name: dict(SMALL, pool=3)}, shots=(1,), template=template,
      baselines=())
  assert {len(r['demonstrations']) for r in records} == {1}


def test_an_episode_is_shown_its_own_demonstrations_in_rounds(ask):
  rows, records = ask(
      'emoji_category_2way', shots=(0, 1, 3), seeds=(0, 1),
      choices=('random', 'rices_image', 'rices_text'),
      controls=('random_labels',), controlled=('random',))
  assert {r['rounds'] for r in rows} == {True}
  for record in records:
    cell = json.loads(record['cell'])
    assert cell['choice'] != 'rices_text'  # no text in it to compare
    if cell['baseline'] != 'majority':
      assert len(record['demonstrations']) == 2 * cell['shots']
      assert {name.split('/')[0] for name in record['demonstrations']} <= {
          record['id']}
  controlled = {r['choice'] for r in rows if r['control']}
  assert controlled == {'random'}
  assert {r['baseline'] for r in rows} == {
      None, 'majority', 'nearest_centroid', 'text_only'}
  assert {r['value'] for r in rows if r['baseline'] == 'majority'} == {0.5}


def test_an_episode_without_a_picture_of_its_own_is_counted(ask, tmp_path):
  rows, _ = ask('emoji_binding_2way', shots=(1,), baselines=())
  assert [(r['n'], r['missing']) for r in rows] == [(3, 0)]
  path = tmp_path / 'emoji/binding_2way_test.jsonl'
  path.write_text(path.read_text().replace('dax-1.png', 'gone.png', 1))
  task = harness.load_task(
      benchmarks.BENCHMARKS['emoji_binding_2way'], tmp_path)
  assert (len(task.queries), task.missing) == (2, 1)


def test_what_has_no_text_is_not_chosen_by_text_alone(ask):
  with pytest.raises(ValueError, match="no texts to compare.*'rices_image'"):
    ask('emoji_names', choices=('rices_text',), shots=(1,))


def test_vqa_answers_are_scored_as_the_official_script_does(ask):
  rows, _ = ask('vqav2', rows={'vqav2': SMALL}, baselines=())
  # Of ten annotators six wrote 'dog' and three 'a dog'.
  assert [(r['split'], r['value']) for r in rows] == [('val', 1.0)]


def test_a_split_without_answers_is_predicted_but_not_scored(ask):
  rows, records = ask(
      'vqav2', rows={'vqav2': SMALL}, splits={'vqav2': 'test-dev'},
      baselines=())
  (row,) = rows
  assert row['value'] is None and 'server' in row['why']
  assert {r['output'] for r in records} == {'dog'}
  assert {r['score'] for r in records} == {None}


def test_validation_queries_come_from_the_training_split(ask, tmp_path):
  rows, (record,) = ask(
      'okvqa', rows={'okvqa': dict(validation=1, pool=1)}, development=True,
      baselines=())
  assert [(r['split'], r['n']) for r in rows] == [('train', 1)]
  train = benchmarks.BENCHMARKS['okvqa'].items(tmp_path, 'train')
  assert record['id'] in {item.id for item in train}


def test_queries_are_a_part_drawn_once(ask):
  few = ask('imagenet', rows={'imagenet': SMALL}, queries=2, baselines=())[1]
  assert len(few) == 2
  more = ask('imagenet', rows={'imagenet': SMALL}, queries=4, baselines=())[1]
  ids = {r['id'] for r in more if r['cell'] not in {x['cell'] for x in few}}
  assert len(ids) == 4 and {r['id'] for r in few} < ids


def test_pairs_stay_together_where_they_are_scored_together(ask, tmp_path):
  rows, records = ask('winoground', queries=1, baselines=())
  assert [r['id'].split('/')[1] for r in records] == ['0', '1']
  WRITERS['winoground'](tmp_path)
  (tmp_path / 'winoground/images/ex_0_img_1.png').unlink()
  task = harness.load_task(benchmarks.BENCHMARKS['winoground'], tmp_path)
  assert [q.id for q in task.queries] == ['1/0', '1/1']
  assert task.missing == 2


# Metrics.


def _item(i, answer, candidates, **more):
  return benchmarks.Item(**dict(
      id=str(i), image=('x',), answer=answer, references=(answer,),
      candidates=candidates) | more)


def test_pope_counts_a_tie_as_half_an_answer():
  items = [_item(i, answer, ('no', 'yes'))
           for i, answer in enumerate(('yes', 'no', 'yes'))]
  said = [Said(None, s) for s in ([0.0, 1.0], [1.0, 0.0], [2.0, 2.0])]
  found = METRICS['pope'].of(items, said)
  assert found['pope_accuracy'].examples.tolist() == [1.0, 1.0, 0.5]
  assert found['pope_yes_ratio'].value == 0.5


def test_winoground_pairs_images_with_captions():
  right = np.array([[1.0, 0.0], [0.0, 1.0]])  # [image, caption]
  items = [
      _item(f'{g}/{i}', 'ab'[i], ('a', 'b'), group=str(g))
      for g in range(2) for i in range(2)]
  said = [Said(None, right[i].tolist()) for i in range(2)]
  said += [Said(None, [1.0, 0.0]), Said(None, [1.0, 0.0])]  # always 'a'
  found = METRICS['winoground'].of(items, said)
  assert {k: v.examples.tolist() for k, v in found.items()} == {
      'winoground_group': [1, 0], 'winoground_text': [1, 0],
      'winoground_image': [1, 0]}


def test_the_area_is_of_the_margin_of_the_second_candidate():
  items = [_item(i, ('no', 'yes')[y], ('no', 'yes'), references=(y,))
           for i, y in enumerate((0, 1, 1))]
  said = [Said(None, s) for s in ([5.0, 4.0], [9.0, 9.0], [0.0, 3.0])]
  assert METRICS['roc_auc'].of(items, said)['roc_auc'].value == 1.0


def test_every_benchmark_has_a_metric_that_takes_what_it_gives():
  for row in benchmarks.BENCHMARKS.values():
    kind = 'text' if row.open_ended else 'scores'
    assert kind in METRICS[row.metric].takes, row.name


# The program.


def test_the_listing_says_what_is_there_and_how_to_get_the_rest(tmp_path):
  WRITERS['okvqa'](tmp_path)
  text = '\n'.join(listing.lines(tmp_path))
  assert '  present  okvqa\n' in text
  assert '  partly   vqav2\n' in text
  assert '  missing  hateful_memes\n' in text
  assert all(name in text for name in benchmarks.BENCHMARKS)
  assert 'https://hatefulmemeschallenge.com' in text


def test_an_empty_root_says_where_to_look(loaded, cache, tmp_path):
  config = models.config_of(cache) | dict(own=(), tasks=())
  with pytest.raises(ValueError, match='--list says what is missing'):
    benchmark.evaluate(config, loaded, tmp_path, tmp_path / 'output')


@pytest.mark.parametrize('arguments, said', [
    (['benchmark', '--lst'], "Unknown command line flag 'lst'"),
    (['benchmark', '--root=.'], '--output=DIR'),
    (['benchmark', '--output=x'], '--model=DIR'),
    (['benchmark', '--output=x', '--config.shot=3'], 'instead of "shot"'),
    (['benchmark', '--list', '--root=.'], 'missing  coco'),
    (['evaluate', '--list', '--root=.'], 'missing  coco'),
    (['evaluate'], 'Flag --config must have a value'),
])
def test_the_commands_say_what_they_need(arguments, said, tmp_path):
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  done = subprocess.run(
      [sys.executable, '-m', f'experiments.{arguments[0]}', *arguments[1:]],
      cwd=root, capture_output=True, text=True, timeout=120)
  assert said in done.stdout + done.stderr
