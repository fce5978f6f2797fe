"""The report of an evaluation: one file that hides neither error nor doubt."""

import base64
import io
import json
import re

import benchmark_models as models
from benchmark_runs import birds_row, cell, half, right, write_run, wrong
from experiments import benchmark_config, benchmark_story
from experiments.configs import benchmarks as config_lib
from flamingo.eval.harness import figures
from flamingo.eval.harness import results
from flamingo.eval.harness.report import write_report
from flamingo.eval.harness.runs import read_run
from flamingo.eval.harness.shown import most_telling
from html_page import Page
import numpy as np
from PIL import Image
import pytest


@pytest.fixture(name='root', scope='module')
def _root(tmp_path_factory):
  root = tmp_path_factory.mktemp('data')
  models.birds(root, ranked=True)
  return root


@pytest.fixture(name='opened', scope='module')
def _opened(tmp_path_factory):
  root = tmp_path_factory.mktemp('open')
  models.birds(root, ranked=False)
  return root


def _config():
  return benchmark_config.plain(config_lib.get_config())


def _telling(root, tmp_path, said, row=None, **limits):
  (scored,) = write_run(tmp_path / 'run', root, said, row=row)
  records = read_run(tmp_path / 'run').records[scored.cell.key]
  return most_telling(
      root, row or birds_row(), scored, records,
      **dict(wrong=4, right=2) | limits)


def _tell(root, tmp_path, said, row=None, **more) -> Page:
  row = row or birds_row()
  output = tmp_path / 'run'
  scored = write_run(output, root, said, row=row, config=_config(), **more)
  head = results.read(output / 'results.json')
  rows = head.pop('rows')
  run = read_run(output)
  benchmark_story.tell(
      output / 'report.html', root=root, output=output, head=head, rows=rows,
      benchmarks={row.name: row}, scored=scored, records=run.records.get)
  return Page((output / 'report.html').read_text())


def _cells():
  plain = {cell(shots=s, seed=i): right for s in (0, 1, 2) for i in (0, 1)}
  return plain | {
      cell(shots=2, control='shuffled_labels'): half,
      cell(shots=2, choice='rices_image'): half,
      cell(shots=2, baseline='nearest_centroid'): half,
      cell(shots=2, baseline='text_only'): wrong,
      cell(shots=0, baseline='majority'): half}


def test_the_file_loads_nothing(root, tmp_path):
  page = _tell(root, tmp_path, _cells())
  tags = {tag for tag, _, _ in page.attributes}
  assert not tags & {'script', 'link', 'iframe', 'object', 'embed', 'base'}
  for source in page.values('src'):
    assert source.startswith('data:image/jpeg;base64,')
  assert not re.search(r'https?:|url\(|@import', page.source)


def test_every_link_within_the_page_leads_somewhere(root, tmp_path):
  page = _tell(root, tmp_path, _cells())
  assert set(page.values('href')) == {f'#{name}' for name in page.values('id')}
  assert len(set(page.values('href'))) == 8


def test_every_number_is_there_in_full(root, tmp_path):
  page = _tell(root, tmp_path, _cells())
  rows = results.read(tmp_path / 'run/results.json')['rows']
  exact = page.values('value')
  for row in rows:
    assert str(row['value']) in exact
  assert f'{len(rows)} results' in page.text


def test_a_table_has_baselines_and_controls_in_their_columns(root, tmp_path):
  write_run(tmp_path / 'run', root, _cells())
  rows = figures.main_rows(results.read(tmp_path / 'run/results.json')['rows'])
  table = Page(figures.table(rows))
  lines = table.rows()
  assert lines[0] == [
      'shots', 'demonstrations', 'n', 'ours', 'commonest answer',
      'nearest centroid', 'no image at all', 'labels shuffled']
  by_name = {tuple(line[:2]): line[3:] for line in lines[1:]}
  assert by_name['0', 'none'][2:] == ['', '', '']
  ours, commonest, centroid, blind, labels = by_name['2', 'random']
  assert ours == '100.0 [100.0, 100.0]'
  assert labels.startswith('45.5 [') and centroid == labels == commonest
  assert blind == '0.0 [0.0, 0.0]'
  assert by_name['2', 'RICES by image'][0].startswith('45.5 [')


def test_seeds_are_one_point_with_an_interval_over_both(root, tmp_path):
  write_run(tmp_path / 'run', root, {
      cell(seed=0): right, cell(seed=1): wrong})
  (row,) = figures.main_rows(
      results.read(tmp_path / 'run/results.json')['rows'])
  assert (row['seed'], row['value']) == (None, 0.5)
  assert row['low'] < 0.5 < row['high']
  assert '2 shots, random: 50.0 [' in Page(
      figures.curve([row], name='birds')).text


def test_a_curve_has_a_point_for_each_number_of_shots(root, tmp_path):
  write_run(tmp_path / 'run', root, _cells())
  rows = figures.main_rows(results.read(tmp_path / 'run/results.json')['rows'])
  text = Page(figures.curve(rows, name='birds')).text
  for shots in (0, 1, 2):
    assert f'{shots} shots, random: 100.0 [' in text
  for name in ('nearest centroid', 'no image at all', 'labels shuffled'):
    assert f'2 shots, random, {name}: ' in text
  assert 'commonest answer: 45.5' in text


def test_whiskers_reach_as_far_as_the_interval_does(root, tmp_path):
  write_run(tmp_path / 'run', root, {cell(): half})
  (row,) = results.read(tmp_path / 'run/results.json')['rows']
  row |= dict(value=0.5, low=0.4, high=0.8)
  chart = Page(figures.curve([row], name='x'))
  heights = [
      (float(a['y1']), float(a['y2'])) for tag, a in chart.elements
      if tag == 'line' and a['stroke'] == figures.COLORS[0]]
  ((low, high),) = heights
  (middle,) = [
      float(a['transform'].split(',')[1].rstrip(')'))
      for tag, a in chart.elements if 'transform' in a]
  assert (low - middle) * 3 == pytest.approx(middle - high, rel=0.02)


def test_figures_of_papers_stand_where_task_shots_and_choice_agree(
    root, tmp_path):
  write_run(tmp_path / 'run', root, {
      cell(shots=s, choice=c): half for s, c in (
          (4, 'random'), (4, 'rices_image'), (5, 'random'))})
  rows = [
      row | dict(task='okvqa', metric='vqa_accuracy')
      for row in figures.main_rows(
          results.read(tmp_path / 'run/results.json')['rows'])]
  head, *lines = Page(figures.table(rows)).rows()
  found = {
      tuple(line[:2]): dict(zip(head, line)) for line in lines}
  assert found['4', 'random']['Flamingo-9B'] == '49.3'
  assert found['4', 'random']['OpenFlamingo-9B'] == '40.1'
  assert found['4', 'random']['IDEFICS-80B'] == '52.4'
  assert found['4', 'RICES by image']['OpenFlamingo-9B'] == '42.0'
  assert found['4', 'RICES by image']['Flamingo-9B'] == ''
  assert not any(list(found['5', 'random'].values())[4:])
  # Another metric cannot be set beside theirs.
  other = [row | dict(metric='top1') for row in rows]
  assert Page(figures.table(other)).rows()[0][-1] == 'ours'


def test_another_split_than_the_papers_is_said(tmp_path):
  row = dict(
      task='vqav2', split='val', shots=4, seed=0, choice='random', texts=0,
      text_only=False, control=None, baseline=None, template='flamingo',
      metric='vqa_accuracy', value=0.5, low=0.4, high=0.6, n=9, dropped=3,
      missing=2, balanced=False)
  write_report(
      tmp_path / 'r.html', rows=[row], gallery={}, commands=[], head=dict(
          identity={}, config={}, versions={}, templates={}))
  text = Page((tmp_path / 'r.html').read_text()).text
  assert 'Flamingo reports test-dev; ours is val' in text
  assert 'Flamingo-80B 82.0' in text
  assert '3 demonstrations were left out' in text
  assert '2 examples of vqav2 lack an image' in text


def test_the_worst_errors_come_first_and_the_easiest_last(root, tmp_path):
  shown = _telling(root, tmp_path, {cell(): half})
  # At odd numbers it is right, and at even ones the further in the file the
  # more confidently wrong; ids are sorted as text.
  assert [one.id for one in shown[:4]] == [
      'query 10', 'query 8', 'query 6', 'query 4']
  assert [one.score for one in shown] == [0, 0, 0, 0, 1, 1]
  assert all(one.graded for one in shown)


def test_all_right_means_no_errors_are_shown(root, tmp_path):
  shown = _telling(root, tmp_path, {cell(): right})
  assert [one.score for one in shown] == [1, 1]


def test_a_prompt_is_shown_with_its_pictures_in_order(root, tmp_path):
  (one,) = _telling(root, tmp_path, {cell(): wrong}, wrong=1, right=0)
  assert one.id == 'query 10'
  assert [part.text.split('Answer:')[1] for part in one.parts] == [
      ' robin', ' wren tit', '']
  row = birds_row()
  (asked,) = [i for i in row.items(root, 'query') if i.id == 'query 10']
  assert one.parts[-1].text == f'Question: {asked.fields["question"]} Answer:'
  for part, path in zip(one.parts, ('support/10', 'support/11', 'query/10')):
    with Image.open(root / f'birds/{path}.png') as picture:
      assert np.array_equal(part.pictures[0], np.asarray(picture))


def test_of_many_demonstrations_those_nearest_to_the_query_are_shown(
    root, tmp_path):
  (one,) = _telling(
      root, tmp_path, {cell(shots=7): wrong}, wrong=1, right=0)
  answers = [part.text.split('Answer:')[1] for part in one.parts]
  # Supports 10 to 12 and 0 to 3 in turn; the last of them are 0 to 3.
  assert answers == [' wren', ' robin', ' wren tit', ' wren', '']
  assert one.earlier == 3
  page = _tell(root, tmp_path / 'b', {cell(shots=7): wrong})
  assert '3 more demonstrations come before these' in page.text


def test_demonstrations_without_images_are_shown_without(root, tmp_path):
  (one,) = _telling(
      root, tmp_path, {cell(shots=0, texts=2): wrong}, wrong=1, right=0)
  assert [len(part.pictures) for part in one.parts] == [0, 0, 1]
  assert one.parts[0].absent == 'text alone'


def test_what_is_generated_is_shown_with_what_is_right(opened, tmp_path):
  row = birds_row(ranked=False)
  asked = cell(open_ended=True, max_tokens=5, likelihood=None)
  page = _tell(
      opened, tmp_path,
      {asked: lambda item, i: item.answer if i % 2 else 'an <EOC> owl'}, row)
  assert 'the model says “an <EOC> owl”' in page.text
  assert '✗ wrong — right is “' in page.text
  assert '✓ right — right is “' in page.text


@pytest.mark.original
def test_a_score_that_is_no_grade_is_a_number(opened, tmp_path):
  pytest.importorskip('pycocoevalcap', reason='captions: make parity')
  row = birds_row(ranked=False, metric='cider')
  asked = cell(open_ended=True, metric='cider', max_tokens=5)
  shown = _telling(
      opened, tmp_path,
      {asked: lambda item, i: 'an owl' if i < 6 else item.answer}, row=row)
  last = shown[-1]
  assert not last.graded
  assert [one.score for one in shown[:4]] == sorted(
      one.score for one in shown[:4])
  assert last.score > shown[0].score == 0
  text = _tell(opened, tmp_path / 'b', {asked: lambda item, i: 'an owl'},
               row).text
  assert 'cider 0.00 — right is' in text
  assert '✗ wrong' not in text


def test_pictures_that_are_gone_are_said_to_be(tmp_path):
  models.birds(tmp_path, ranked=True)
  for i in range(models.QUERIES):
    (tmp_path / f'birds/query/{i}.png').unlink()
  text = _tell(tmp_path, tmp_path, {cell(): wrong}).text
  assert '(Expected the image birds/query/10.png' in text


def test_demonstrations_that_are_gone_are_named(tmp_path):
  models.birds(tmp_path, ranked=True)
  row, (scored,) = birds_row(), write_run(
      tmp_path / 'run', tmp_path, {cell(): wrong})
  records = read_run(tmp_path / 'run').records[cell().key]
  (tmp_path / 'birds/support.jsonl').unlink()
  (one,) = most_telling(tmp_path, row, scored, records, wrong=1, right=0)
  assert [part.text for part in one.parts[:-1]] == ['support 10', 'support 11']
  assert 'not among the data' in one.parts[0].absent


def test_thumbnails_are_small(tmp_path):
  models.birds(tmp_path, ranked=True)
  for i in range(models.QUERIES):
    Image.fromarray(np.zeros((700, 900, 3), np.uint8)).save(
        tmp_path / f'birds/query/{i}.png')
  page = _tell(tmp_path, tmp_path, {cell(): wrong})
  sizes = set()
  for source in page.values('src'):
    data = base64.b64decode(source.removeprefix('data:image/jpeg;base64,'))
    sizes.add(Image.open(io.BytesIO(data)).size)
  assert sizes == {(7, 5), (208, 162)}


def test_all_text_is_escaped(tmp_path):
  models.birds(tmp_path, ranked=False)
  bad = '<script>alert("&")</script>'
  for name in ('query', 'support'):
    path = tmp_path / f'birds/{name}.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(''.join(
        json.dumps(line | {'question': bad, 'answer': bad}) + '\n'
        for line in lines))
  page = _tell(
      tmp_path, tmp_path,
      {cell(open_ended=True, max_tokens=3): lambda item, i: bad + str(i)},
      birds_row(ranked=False), templates={'birds': bad},
      identity={'model': bad})
  assert '<script' not in page.source
  assert page.text.count(bad) > 20


def test_answers_on_a_server_make_a_report_that_says_so(tmp_path):
  row = dict(
      task='vizwiz', split='test', shots=4, seed=0, choice='random', texts=0,
      text_only=False, control=None, baseline=None, template='flamingo',
      metric='vqa_accuracy', value=None, low=None, high=None, n=9, dropped=0,
      missing=0, balanced=False, why='The answers are on a server.')
  write_report(
      tmp_path / 'r.html', rows=[row], gallery={}, commands=[], head=dict(
          identity={}, config={}, versions={}, templates={}))
  text = Page((tmp_path / 'r.html').read_text()).text
  assert 'No score. The answers are on a server.' in text
  assert '34.9' in text  # Flamingo-9B


def test_no_numbers_at_all_make_a_report(tmp_path):
  write_report(
      tmp_path / 'r.html', rows=[], gallery={}, commands=[], head=dict(
          identity={}, config={}, versions={}, templates={}))
  assert 'Nothing has been scored yet.' in (tmp_path / 'r.html').read_text()


def test_commands_name_what_is_not_as_usual():
  config = _config() | {'tasks': ['coco'], 'shots': [4], 'beams': 1}
  config['rows'] = {'coco': {'max_tokens': 30}}
  (run, about), (again, _), (other, _) = benchmark_story.commands(
      config, 'my data', 'runs/x')
  assert run == (
      'python -m experiments.benchmark '
      '--config=experiments/configs/benchmarks.py --model=MODEL '
      "--root='my data' --output=runs/x --config.beams=1 '--config.shots=(4,)' "
      "'--config.tasks=('\"'\"'coco'\"'\"',)'")
  assert 'has rows as above' in about
  assert again.endswith("--rescore --root='my data' --output=runs/x")
  assert other == 'python -m experiments.compare runs/x OTHER'
