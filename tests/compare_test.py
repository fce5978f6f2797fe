"""Two evaluations are compared: what differs first, and who is better."""

import json
import re

import benchmark_models as models
from benchmark_runs import birds_row, cell, edit, half, right, write_run, wrong
from experiments import compare
from experiments.configs import benchmarks as config_lib
from flamingo.eval.benchmarks import Item
from flamingo.eval.evaluate import Log
from flamingo.eval.harness import compare as compare_lib
from flamingo.eval.harness import differences
from flamingo.eval.harness import whole
from flamingo.eval.harness.runs import read_run
import pytest


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('data')
  models.birds(root, ranked=True)
  return root


@pytest.fixture(name='write')
def _write(root, tmp_path):
  """(name, said, **more) to the folder of a run."""
  def write(name, said, **more):
    write_run(tmp_path / name, root, said, **more)
    return tmp_path / name
  return write


def _compared(a, b):
  a, b = read_run(a), read_run(b)
  return [
      compare_lib.compare_cells(a, b, pair)
      for pair in compare_lib.common_cells(a, b)]


def _text(a, b):
  return '\n'.join(compare.lines(read_run(a), read_run(b)))


def test_a_run_is_the_same_as_itself(write):
  a = write('a', {cell(): half})
  text = _text(a, a)
  for name in ('config', 'templates', 'prompts', 'data, model', 'versions'):
    assert f'{name:13s}same' in text
  (one,) = _compared(a, a)
  assert one.first == one.second == pytest.approx(5 / 11)
  assert one.comparison.difference.value == 0
  assert one.comparison.p_value == 1
  assert (one.examples, one.only_first, one.only_second) == (11, 0, 0)


def test_the_better_run_is_better_by_its_examples(write):
  a, b = write('a', {cell(): right}), write('b', {cell(): half})
  (one,) = _compared(a, b)
  assert (one.first, one.second) == (1, pytest.approx(5 / 11))
  difference = one.comparison.difference
  assert difference.value == pytest.approx(6 / 11)
  assert 0 < difference.low < difference.value < difference.high < 1
  # Six examples differ, all to one side: of the 64 ways to exchange those, two
  # are as great.
  assert one.comparison.p_value == pytest.approx(2 / 64)
  assert '1 of 1 differences have p < 0.05' in _text(a, b)
  (other,) = _compared(b, a)
  assert other.comparison.difference.value == -difference.value
  assert other.comparison.p_value == one.comparison.p_value


def test_examples_of_one_run_alone_are_counted_and_left_out(write):
  a = write('a', {cell(): wrong}, queries=range(2, 11))
  b = write('b', {cell(): half}, queries=range(7))
  (one,) = _compared(a, b)
  assert (one.examples, one.only_first, one.only_second) == (5, 4, 2)
  assert (one.first, one.second) == (0, pytest.approx(2 / 5))


def test_no_common_example_is_said_and_not_tested(write):
  a = write('a', {cell(): right}, queries=range(4))
  b = write('b', {cell(): right}, queries=range(4, 11))
  (one,) = _compared(a, b)
  assert (one.examples, one.only_first, one.only_second) == (0, 4, 7)
  assert one.comparison is None
  assert 'no common example' in _text(a, b)
  assert 'No cell could be tested.' in _text(a, b)


def test_seeds_are_one_cell(write):
  a = write('a', {cell(seed=s): right for s in (0, 1, 2)})
  b = write('b', {cell(seed=s): (wrong if s else right) for s in (0, 2, 3)})
  (one,) = _compared(a, b)
  assert len(one.pair.first) == 2  # 0 and 2
  assert (one.first, one.second) == (1, 0.5)
  assert one.comparison.difference.low < 0.5 < one.comparison.difference.high


@pytest.mark.parametrize('changes, common', [
    (dict(template='idefics'), True), (dict(choice='rices_image'), True),
    (dict(data='d2'), True), (dict(max_length=7), True), (dict(seed=5), True),
    (dict(shots=1), True), (dict(task='bees'), False),
    (dict(split='support'), False), (dict(control='no_images'), False),
    (dict(baseline='text_only'), False),
])
def test_what_a_run_holds_fixed_may_differ(write, root, changes, common):
  a = read_run(write('a', {cell(): right}))
  b = write('b', {cell(): half})
  # The key is in log, results and scores alike.
  for path in (b / 'predictions.jsonl', b / 'examples.jsonl'):
    path.write_text(path.read_text().replace(
        json.dumps(cell().key), json.dumps(cell(**changes).key)))
  b = read_run(b)
  if common:
    assert len(compare_lib.common_cells(a, b)) == 1
    return
  with pytest.raises(ValueError, match='cell in common.*(\n.*)*shots'):
    compare_lib.common_cells(a, b)


def test_what_a_run_varies_must_agree(write):
  a = write('a', {cell(shots=s): right for s in (0, 1, 2)})
  b = write('b', {cell(shots=s): half for s in (1, 2, 4)})
  assert [one.pair.fields['shots'] for one in _compared(a, b)] == [1, 2]
  c = write('c', {
      cell(choice=c): right for c in ('random', 'rices_image')})
  d = write('d', {cell(choice='rices_image'): half})
  (one,) = _compared(c, d)
  assert one.pair.fields['choice'] == 'rices_image'


def test_nothing_shown_is_chosen_in_no_way(write):
  a = write('a', {cell(shots=0): right, cell(shots=2): right})
  b = write('b', {
      cell(shots=s, choice='rices_image'): half for s in (0, 2)})
  c = write('c', {cell(shots=0): right} | {
      cell(shots=2, choice=c): right for c in ('random', 'rices_image')})
  assert len(_compared(a, b)) == 2
  assert [one.pair.fields['shots'] for one in _compared(c, b)] == [0, 2]


def test_the_first_difference_is_said_with_both_values(write):
  a = write('a', {cell(): right})
  b = write(
      'b', {cell(): right}, identity={'model': 'm2'},
      config={'shots': [2], 'template': 'idefics', 'chunk': 9},
      templates={'birds': '<image>Question: what? Answer:'})
  text = _text(a, b)
  for words in (
      "config       template\n               A: 'flamingo'\n"
      "               B: 'idefics'",
      'and then chunk',  # on which nothing depends, so it is last
      "which? Answer:'", "what? Answer:'",
      "data, model  model\n               A: 'm1'\n               B: 'm2'",
      'prompts      same'):
    assert words in text


def test_a_key_that_one_config_lacks_differs(write):
  a = write('a', {cell(): right}, config={'rows': {'coco': {'shots': 4}}})
  b = write('b', {cell(): right}, config={'rows': {}})
  found = differences.config_difference(read_run(a), read_run(b))
  assert (found.where, found.first, found.second, found.others) == (
      'rows.coco.shots', 4, differences.ABSENT, ('rows',))


def test_the_first_prompt_that_differs_is_named(write):
  a = write('a', {cell(): right})
  b = write(
      'b', {cell(): right},
      prompt=lambda item: 'q' if item.id in ('query 3', 'query 7') else
      f'p {item.id}')
  text = _text(a, b)
  assert "example query 3, prompt\n               A: 'p query 3'" in text
  assert '2 of 11 common prompts differ' in text


def test_demonstrations_tell_more_than_a_digest(write):
  a = write('a', {cell(shots=2): right})
  b = write('b', {cell(shots=1): right}, prompt=lambda item: 'q')
  assert (
      "example query 0, demonstrations\n               A: ['support 0', "
      "'support 1']\n               B: ['support 0']") in _text(a, b)


@pytest.fixture(name='hateful')
def _hateful(tmp_path):
  """Two runs whose score is an area under a curve, and their data root."""
  models.birds(tmp_path, ranked=True)
  lines = [
      json.loads(line) for line in
      (tmp_path / 'birds/query.jsonl').read_text().splitlines()]
  for i, line in enumerate(lines):
    line |= {'candidates': ['no', 'yes'], 'answer': ['no', 'yes'][i % 2],
             'references': [i % 2]}
  (tmp_path / 'birds/query.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines))
  config = config_lib.get_config().to_dict() | {
      'tasks': ['birds'], 'own': [dict(
          name='birds', query='birds/query.jsonl',
          support='birds/support.jsonl', template='qa', metric='roc_auc',
          open_ended=False)]}
  for name, said in (
      ('a', lambda item, i: [0.0, float(i % 2 or i == 0)]),
      ('b', lambda item, i: [0.0, float(i < 6)])):
    write_run(
        tmp_path / name, tmp_path, {cell(metric='roc_auc'): said},
        row=birds_row(metric='roc_auc'), config=config)
  return tmp_path


def test_a_metric_without_scores_of_examples_is_shown_and_not_tested(hateful):
  (one,) = _compared(hateful / 'a', hateful / 'a')
  # One of six negatives ties with all positives.
  assert one.first == pytest.approx(1 - 1 / 12)
  assert (one.comparison, one.examples) == (None, 11)
  text = _text(hateful / 'a', hateful / 'a')
  assert 'no example scores' in text
  assert 'roc_auc is of all examples together. With --root=DATA' in text


def test_with_the_data_it_is_tested_on_resampled_examples(hateful):
  a, b = read_run(hateful / 'a'), read_run(hateful / 'b')
  items = {
      item.id: item
      for item in birds_row(metric='roc_auc').items(hateful, 'query')}
  (pair,) = compare_lib.common_cells(a, b)
  one = compare_lib.compare_cells(a, b, pair, items)
  assert one.first == pytest.approx(1 - 1 / 12)
  # Of five positives three are above three of six negatives, and tie with
  # three; two tie with three and are below three.
  assert one.second == pytest.approx((3 * (3 + 1.5) + 2 * 1.5) / 30)
  difference = one.comparison.difference
  assert difference.value == pytest.approx(one.first - one.second)
  assert difference.low < difference.value < difference.high
  assert 0 < one.comparison.p_value < 0.2
  same = compare_lib.compare_cells(a, a, pair, items)
  assert same.comparison.p_value == 1
  text = '\n'.join(compare.lines(a, b, root=hateful))
  assert '1 differences have' in text and 'With --root' not in text


def test_with_the_data_a_metric_of_examples_comes_out_the_same(write, root):
  a, b = write('a', {cell(): right}), write('b', {cell(): half})
  (one,) = _compared(a, b)
  items = {item.id: item for item in birds_row().items(root, 'query')}
  assert compare_lib.compare_cells(
      read_run(a), read_run(b), one.pair, items) == one


@pytest.mark.original
def test_captions_of_other_examples_are_said_to_weigh_each_other(tmp_path):
  pytest.importorskip('pycocoevalcap', reason='captions: make parity')
  models.birds(tmp_path, ranked=False)
  row = birds_row(ranked=False, metric='cider')
  said = {cell(metric='cider', open_ended=True, max_tokens=5):
          lambda item, i: item.answer if i % 2 else 'an owl'}
  for name, queries in (('a', range(9)), ('b', range(3, 11))):
    write_run(tmp_path / name, tmp_path, said, row=row, queries=queries)
  a, b = read_run(tmp_path / 'a'), read_run(tmp_path / 'b')
  assert 'and the runs have others' in '\n'.join(compare.lines(a, b))
  items = {item.id: item for item in row.items(tmp_path, 'query')}
  (pair,) = compare_lib.common_cells(a, b)
  one = compare_lib.compare_cells(a, b, pair, items)
  # The same answers to the same examples: no difference, whatever the others.
  assert one.first == one.second > 0
  assert (one.examples, one.comparison.p_value) == (6, 1)


def test_groups_that_are_not_complete_are_left_out():
  items = {
      f'{i}': Item(
          id=f'{i}', image=(), answer='a', references=('a',),
          group=f'g{i // 2}') for i in range(6)}
  common = ['0', '1', '2', '4', '5']
  kept = whole.whole_groups('winoground', common, items)
  assert [item.id for item in kept] == ['0', '1', '4', '5']
  assert len(whole.whole_groups('roc_auc', common, items)) == 5


def test_checkpoints_that_were_evaluated_are_compared_too(tmp_path):
  for name, correct in (('a', 7), ('b', 4)):
    _checkpoint(tmp_path / name, correct)
  a, b = tmp_path / 'a', tmp_path / 'b'
  one, loss = _compared(a, b)
  assert (one.first, one.second, one.examples) == (0.7, 0.4, 10)
  assert one.comparison.difference.value == pytest.approx(0.3)
  assert loss.metric == 'loss'
  assert (loss.first, loss.second) == (pytest.approx(0.3), pytest.approx(0.6))
  text = _text(a, b)
  assert 'config       not written down' in text
  assert 'data, model  step' in text


def _checkpoint(path, correct):
  log = Log(path / 'evaluation/predictions.jsonl', {'step': str(correct)})
  rows = []
  for metric in ('accuracy', 'loss'):
    fields = dict(
        task='toy', split='test', ways=2, shots=1, style='same', control=None,
        names='single', metric=metric, seed=0)
    key = json.dumps(fields, sort_keys=True)
    log.add([
        {'cell': key, 'id': i, 'prompt': i, 'images': [i], 'answer': 0,
         'tokens': 2, 'scores': [-2.0 * (i >= correct), -1.0]
         if metric == 'accuracy' else [-2.0 * (i >= correct)]}
        for i in range(10)])
    rows.append(fields | {'value': 0.5, 'stderr': 0.1, 'n': 10})
  log.close()
  (path / 'results.json').write_text(json.dumps(rows))


def test_the_program_prints_what_is_to_be_said(write, capsys):
  a, b = write('a', {cell(): right}), write('b', {cell(): half})
  compare.main([str(a), str(b)])
  printed = capsys.readouterr().out
  assert printed == _text(a, b) + '\n'
  assert re.search(r'birds query top1 +100.0 % +45.5 % +54.5 %', printed)
  assert re.search(r'0.031 +11 +0 +0\n', printed)


# Bad input.


def test_the_program_says_what_is_wrong_and_no_more(write, tmp_path):
  a = write('a', {cell(): right})
  with pytest.raises(SystemExit, match='Give what was its --output'):
    compare.main([str(a), str(tmp_path / 'b')])


def test_a_checkpoint_has_no_data_root(tmp_path):
  _checkpoint(tmp_path, 3)
  run = read_run(tmp_path)
  with pytest.raises(ValueError, match='Leave --root out'):
    compare.lines(run, run, root=tmp_path)


def test_no_folder_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match='--output'):
    read_run(tmp_path / 'nowhere')


@pytest.mark.parametrize('name, words', [
    ('results.json', 'which an evaluation writes'),
    ('predictions.jsonl', 'Expected the log'),
    ('examples.jsonl', '--rescore')])
def test_a_missing_file_is_an_error_that_names_it(write, name, words):
  a = write('a', {cell(): right})
  (a / name).unlink()
  with pytest.raises(FileNotFoundError, match=words) as error:
    read_run(a)
  assert str(a / name) in str(error.value)


@pytest.mark.parametrize('version', [0, 2, '1', None])
def test_results_of_another_version_are_refused(write, version):
  a = write('a', {cell(): right})
  edit(a / 'results.json', lambda content: content.update(version=version))
  with pytest.raises(ValueError, match='expected a result file of version 1'):
    read_run(a)


def test_a_log_of_another_model_than_the_results_is_refused(write):
  a = write('a', {cell(): right})
  edit(a / 'results.json',
       lambda content: content['identity'].update(model='m3'))
  with pytest.raises(ValueError, match='--rescore'):
    read_run(a)


def test_cells_of_another_version_are_refused(write):
  a = write('a', {cell(): right})
  path = a / 'predictions.jsonl'
  path.write_text(path.read_text().replace('max_length', 'longest'))
  with pytest.raises(ValueError, match='cell of this version'):
    read_run(a)


def test_a_checkpoint_with_two_logs_is_refused(tmp_path):
  _checkpoint(tmp_path, 3)
  (tmp_path / 'more').mkdir()
  (tmp_path / 'more/predictions.jsonl').write_text('{"identity": {}}\n')
  with pytest.raises(FileNotFoundError, match='there are 2'):
    read_run(tmp_path)
