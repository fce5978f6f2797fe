"""A model is asked a benchmark, and no number depends on how it was run."""

import dataclasses
import json

import benchmark_models as models
import benchmark_runs as runs
from experiments import benchmark
from flamingo.eval import benchmarks
from flamingo.eval import harness
from flamingo.eval.harness import results
from flamingo.eval.harness.score import interval
import numpy as np
import pytest

LOG, RESULTS = 'predictions.jsonl', 'results.json'


@pytest.fixture(scope='module')
def loaded(tiny, random_params):
  return models.seeing(tiny, random_params)


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
  """Data roots by whether answers are ranked."""
  found = {}
  for ranked in (True, False):
    found[ranked] = tmp_path_factory.mktemp(f'root-{ranked}')
    models.birds(found[ranked], ranked=ranked)
  return found


@pytest.fixture
def ask(loaded, roots, once_compiled, tmp_path):
  """(name, ranked=, **config) evaluates; gives the rows and the output."""
  def evaluate(name='a', *, ranked=True, model=loaded, root=None, **changes):
    output = tmp_path / name
    config = models.config_of(once_compiled, ranked=ranked, **changes)
    rows = benchmark.evaluate(config, model, root or roots[ranked], output)
    return rows, output
  return evaluate


@pytest.fixture(scope='module')
def once_compiled(tmp_path_factory, quick_jit):
  """A cache of latents; and one predictor serves all evaluations."""
  with pytest.MonkeyPatch.context() as patch:
    models.compile_once(patch, quick_jit)
    yield tmp_path_factory.mktemp('latents')


def records(output):
  lines = (output / LOG).read_text().splitlines()
  return [json.loads(line) for line in lines[1:]]


def by_key(output):
  """Records without what says where a chunk ends."""
  return {
      (r['cell'], r['id']): {k: v for k, v in r.items() if k != 'end'}
      for r in records(output)}


@pytest.mark.parametrize('ranked', [True, False])
def test_batch_1_7_and_32_ask_and_answer_the_same(ask, ranked):
  said = []
  for size in (1, 7, 32):
    _, output = ask(
        str(size), ranked=ranked, chunk=size, tokens_at_once=size * 64,
        beams=2, shots=(0, 2), baselines=('text_only',))
    said.append(by_key(output))
  for other in said[1:]:
    assert other.keys() == said[0].keys()
    for key, record in said[0].items():
      scores, others = record.pop('scores'), other[key].pop('scores')
      assert record == other[key]
      record['scores'] = scores
      if ranked:
        np.testing.assert_allclose(scores, others, atol=1e-4, rtol=0)


@pytest.mark.parametrize('ranked', [True, False])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(ask, ranked):
  changes = dict(
      ranked=ranked, shots=(0, 2), controls=('shuffled_labels',),
      baselines=('majority',))
  _, whole = ask('whole', **changes)
  _, killed = ask('killed', **changes)
  log = (killed / LOG).read_bytes()
  for share in (0.99, 0.5, 0.002):
    (killed / LOG).write_bytes(log[: int(share * len(log))])  # within a line
    (killed / RESULTS).unlink()
    ask('killed', **changes)
    assert (killed / LOG).read_bytes() == (whole / LOG).read_bytes()
    assert (killed / RESULTS).read_bytes() == (whole / RESULTS).read_bytes()


def test_what_is_logged_is_not_asked_again(ask, monkeypatch):
  _, output = ask(shots=(0,))
  before = (output / LOG).read_bytes()
  monkeypatch.setattr(
      harness.PicturePredictor, 'rank', lambda *args: pytest.fail('asked'))
  ask(shots=(0,))
  assert (output / LOG).read_bytes() == before


def test_rescoring_gives_the_same_results_without_a_model(ask, roots):
  for ranked in (True, False):
    rows, output = ask(str(ranked), ranked=ranked, shots=(0, 2), seeds=(0, 1))
    written = (output / RESULTS).read_bytes()
    (output / RESULTS).unlink()
    again = benchmark.rescore(roots[ranked], output)
    assert again == rows
    assert (output / RESULTS).read_bytes() == written
    assert {r['metric'] for r in rows} == {'top1'}


def test_rescoring_follows_the_log(ask, roots):
  rows, output = ask(shots=(0,), baselines=())
  lines = (output / LOG).read_text().splitlines()
  for i, line in enumerate(lines[1:], 1):
    record = json.loads(line)
    right = models.BIRDS.index(record['answer'])
    record['scores'] = [float(k == right) for k in range(3)]
    lines[i] = json.dumps(record)
  (output / LOG).write_text('\n'.join(lines) + '\n')
  (row,) = benchmark.rescore(roots[True], output)
  assert row['value'] == 1.0 != rows[0]['value']
  assert row['n'] == models.QUERIES


@pytest.mark.original
def test_bleu_has_an_interval_that_grows_with_seeds_that_disagree(tmp_path):
  pytest.importorskip('pycocoevalcap', reason='captions: make parity')
  models.birds(tmp_path, ranked=False)
  good = lambda item, i: item.answer if i % 4 else 'an owl'
  poor = lambda item, i: 'an owl' if i % 4 else item.answer
  cells = [runs.cell(metric='cider', open_ended=True, seed=s) for s in (0, 1)]
  alike, apart = (
      runs.write_run(
          tmp_path / name, tmp_path, dict(zip(cells, said)),
          row=runs.birds_row(ranked=False, metric='cider'))
      for name, said in (('alike', (good, good)), ('apart', (good, poor))))
  one, same, other = (
      interval('bleu_1', each) for each in (alike[:1], alike, apart))
  assert one.value == pytest.approx(alike[0].scores['bleu_1'].value)
  assert one.low < one.value < one.high
  # Asking the same again makes nothing surer.
  assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.1)
  assert other.high - other.low > same.high - same.low


def test_a_log_of_another_model_is_refused(ask, tiny, random_params):
  ask(shots=(0,), baselines=())
  other = models.seeing(tiny, random_params, seed=1)
  with pytest.raises(ValueError, match='something else'):
    ask(shots=(0,), baselines=(), model=other)


def test_a_result_file_of_another_version_is_refused(ask, roots):
  _, output = ask(shots=(0,), baselines=())
  for name, call in (
      (RESULTS, lambda: results.read(output / RESULTS)),
      ('run.json', lambda: benchmark.rescore(roots[True], output))):
    found = json.loads((output / name).read_text())
    (output / name).write_text(json.dumps(found | {'version': 0}))
    with pytest.raises(ValueError, match='version 1; came version 0'):
      call()


def test_rescoring_an_empty_folder_says_what_is_lacking(tmp_path, roots):
  with pytest.raises(FileNotFoundError, match='an evaluation writes'):
    benchmark.rescore(roots[True], tmp_path)


def test_each_seed_draws_its_own_and_one_batch_as_well_as_another(ask):
  changes = dict(
      ranked=False, shots=(0,), texts_at_zero=0, baselines=(), seeds=(0, 1),
      temperature=0.9, top_k=50)
  rows, output = ask('a', **changes)
  assert [r['seed'] for r in rows] == [0, 1, None]
  assert {(r['temperature'], r['top_k'], r['top_p'], r['beams'])
          for r in rows} == {(0.9, 50, 1.0, None)}
  first, second = (
      [r['output'] for r in records(output)
       if json.loads(r['cell'])['seed'] == seed] for seed in (0, 1))
  assert first != second
  assert len(set(first)) > models.QUERIES // 2  # nor do all say the same
  _, other = ask('b', chunk=1, tokens_at_once=64, **changes)
  assert by_key(other) == by_key(output)


# What is in a result.


def test_zero_shots_with_two_texts_are_called_text_only(ask):
  rows, output = ask(ranked=False, shots=(0, 1), baselines=())
  assert [(r['shots'], r['text_only']) for r in rows] == [(0, True), (1, False)]
  zero = [r for r in records(output) if json.loads(r['cell'])['shots'] == 0]
  assert {len(r['demonstrations']) for r in zero} == {2}
  rows, output = ask(
      'none', ranked=False, shots=(0,), baselines=(), texts_at_zero=0)
  assert [r['text_only'] for r in rows] == [False]
  assert {len(r['demonstrations']) for r in records(output)} == {0}


def test_baselines_stand_beside_the_scores(ask):
  rows, output = ask(shots=(0, 2))
  assert [(r['baseline'], r['shots']) for r in rows] == [
      (None, 0), (None, 2), ('majority', 0), ('nearest_centroid', 2),
      ('text_only', 0), ('text_only', 2)]
  for record in records(output):
    if json.loads(record['cell'])['baseline'] == 'majority':
      assert record['output'] == 'wren'  # 5 of 13; 4 are the others
      assert record['scores'] == [5.0, 4.0, 4.0]


def test_nearest_centroid_finds_the_demonstration_that_looks_the_same():
  wren, robin, query = (
      benchmarks.Item(
          id=answer, image=(answer,), answer=answer, references=(answer,),
          candidates=models.BIRDS) for answer in ('wren', 'robin', '?'))
  features = {'wren': [1.0, 0.1], 'robin': [0.1, 1.0], '?': [0.3, 3.0]}
  asked = harness.Asked(benchmarks.Choice(items=(wren, robin)), query)
  (scores,) = harness.baselines.nearest_centroid(
      [asked], lambda items: np.array([features[i.image[0]] for i in items]))
  assert np.argmax(scores) == 1
  assert scores[2] == -1  # no wren tit was shown


def test_rows_of_several_seeds_have_their_mean_beside_them(ask):
  rows, _ = ask(shots=(2,), seeds=(0, 1, 2), baselines=())
  assert [r['seed'] for r in rows] == [0, 1, 2, None]
  assert rows[3]['value'] == pytest.approx(
      np.mean([r['value'] for r in rows[:3]]))
  assert rows[3]['low'] <= rows[3]['value'] <= rows[3]['high']


def test_what_chance_has_no_part_in_is_asked_once(ask):
  rows, _ = ask(
      shots=(0, 2), seeds=(0, 1), choices=('random', 'rices_image'),
      controls=('blank_query', 'shuffled_labels'), baselines=())
  found = {
      (r['shots'], r['choice'], r['control'], r['seed']) for r in rows
      if r['seed'] is not None}
  assert found == {
      (0, 'random', None, 0), (0, 'random', 'blank_query', 0),
      *((2, 'random', control, seed)
        for control in (None, 'blank_query', 'shuffled_labels')
        for seed in (0, 1)),
      (2, 'rices_image', None, 0), (2, 'rices_image', 'blank_query', 0),
      (2, 'rices_image', 'shuffled_labels', 0),
      (2, 'rices_image', 'shuffled_labels', 1)}


def test_the_result_tells_all_it_depends_on(ask):
  _, output = ask(shots=(2,), baselines=())
  found = results.read(output / RESULTS)
  assert found.keys() == {
      'version', 'identity', 'config', 'versions', 'templates', 'rows'}
  assert found['config']['tasks'] == ['birds']
  assert found['identity'].keys() == {
      'model', 'dtype', 'version', 'data birds'}
  text = found['templates']['birds']
  assert text.count('<image>Question: which bird is it, ') == 3
  assert text.endswith('? Answer:')
  assert text.count('<EOC>') == 2
  (row,) = found['rows']
  assert row.keys() >= {
      'task', 'split', 'shots', 'seed', 'choice', 'text_only', 'control',
      'template', 'metric', 'value', 'stderr', 'low', 'high', 'n', 'dropped',
      'missing', 'baseline'}


def test_examples_scores_are_written_beside(ask):
  rows, output = ask(shots=(2,), baselines=())
  lines = [
      json.loads(line)
      for line in (output / 'examples.jsonl').read_text().splitlines()]
  assert [line['score'] for line in lines] == [
      r['score'] for r in sorted(records(output), key=lambda r: r['id'])]
  assert np.mean([line['score'] for line in lines]) == rows[0]['value']


def test_all_cells_of_a_family_are_asked_when_one_is_lacking(ask):
  _, first = ask('few', shots=(0,), baselines=())
  ask('few', shots=(0, 2), baselines=())
  _, whole = ask('all', shots=(0, 2), baselines=())
  few, every = by_key(first), by_key(whole)
  assert few.keys() == every.keys()
  for key in every:
    np.testing.assert_allclose(
        few[key]['scores'], every[key]['scores'], atol=1e-4, rtol=0)


# Bad input.


@pytest.mark.parametrize('changes, match', [
    (dict(controls=('blank',)), "controls.*'blank'"),
    (dict(choices=('rice',)), "choices.*'rice'"),
    (dict(baselines=('chance',)), "baselines.*'chance'"),
    (dict(seeds=()), 'at least one of seeds'),
    (dict(shots=(-1,)), 'from 0; came -1'),
    (dict(template='otter'), "template is 'otter'"),
    (dict(likelihood='max'), "likelihood is 'max'"),
    (dict(beams=0), 'beams is 0'),
    (dict(temperature=-1.0), 'temperature=-1.0; expected a positive'),
    (dict(temperature=0.7, top_p=0.0), 'top_p=0.0; expected more than 0'),
    (dict(temperature=0.7, beams=3), 'beams=3 searches'),
    (dict(top_k=40), 'top_k=40.*at a temperature of 0 none is drawn'),
    (dict(tasks=('bird',)), "no benchmark 'bird'"),
    (dict(rows=dict(bird=dict(pool=1))), "config.rows.bird.*'birds'"),
    (dict(rows=dict(birds=dict(pol=1))), "rows.birds.pol.*'pool'"),
    (dict(own=(dict(name='b', query='q', templat='qa'),)), 'templat'),
    (dict(max_length=20), 'alone has'),
    (dict(shots=(14,)), 'Expected 14 demonstrations'),
    (dict(development=True), 'chose its design on'),
])
def test_what_cannot_be_asked_is_said_at_once(ask, changes, match):
  with pytest.raises(ValueError, match=match):
    ask(**changes)


def test_a_metric_of_texts_is_refused_for_ranked_answers(ask):
  with pytest.raises(ValueError, match="'vqa_accuracy' is one of text"):
    ask(rows=dict(birds=dict(metric='vqa_accuracy')))


def test_an_answer_that_is_no_candidate_is_refused(ask, tmp_path):
  models.birds(tmp_path, ranked=True)
  path = tmp_path / 'birds/query.jsonl'
  path.write_text(path.read_text().replace(
      '"answer": "robin"', '"answer": "crow"'))
  with pytest.raises(ValueError, match="example query 1.*'crow'"):
    ask(root=tmp_path)


@pytest.mark.parametrize('tag', ['<image>', '<EOC>'])
def test_a_text_with_a_tag_in_it_is_refused_by_its_example(ask, tmp_path, tag):
  models.birds(tmp_path, ranked=True)
  path = tmp_path / 'birds/query.jsonl'
  path.write_text(path.read_text().replace('which bird', f'which {tag}'))
  with pytest.raises(ValueError, match=f'Example query 0.*{tag}'):
    ask(root=tmp_path)


def test_a_missing_image_is_left_out_and_counted(ask, tmp_path):
  models.birds(tmp_path, ranked=True)
  (tmp_path / 'birds/query/4.png').unlink()
  (tmp_path / 'birds/support/3.png').unlink()
  rows, output = ask(root=tmp_path, shots=(11,), baselines=('majority',))
  assert [(r['n'], r['missing']) for r in rows] == [(10, 1), (10, 1)]
  assert 'query 4' not in {r['id'] for r in records(output)}
  shown = {d for r in records(output) for d in r['demonstrations']}
  assert 'support 3' not in shown


def test_a_corrupt_image_is_named(ask, tmp_path):
  models.birds(tmp_path, ranked=True)
  (tmp_path / 'birds/query/4.png').write_bytes(b'no picture')
  with pytest.raises(ValueError, match='birds/query/4.png of example query 4'):
    ask(root=tmp_path, shots=(0,))


def test_a_model_without_eyes_is_refused(loaded, ask):
  blind = dataclasses.replace(
      loaded, model=loaded.model.clone(vision=None))
  with pytest.raises(ValueError, match='no vision encoder'):
    ask(model=blind)
