"""The report: one file that loads nothing, tells all, and hides no failure."""

import base64
import html.parser
import io
import math
import re

from flamingo.eval import charts, markup, report
from flamingo.eval.report import Exhibit, Goal, Look
import numpy as np
from PIL import Image
import pytest

_NOTHING = dict(
    summary=[], results=[], metrics=[], goals=[], exhibits=[], looks=[],
    facts={}, commands=[])
_LINE = dict(task='openmoji_binding', style='colour_to_line', names='single')
_LOADING = ('src', 'srcset', 'data', 'action', 'poster', 'background')
_UNCLOSED = ('meta', 'img')


class _Page(html.parser.HTMLParser):
  """Text, attributes and nesting of a report."""

  def __init__(self, text):
    super().__init__()
    self.source, self.attributes, self.open, self.parts = text, [], [], []
    self.feed(text)
    assert not self.open, f'not closed: {self.open}'

  def handle_starttag(self, tag, attrs):
    self.attributes += [(tag, *attribute) for attribute in attrs]
    if tag not in _UNCLOSED:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] != ['style']:
      self.parts.append(data)

  @property
  def text(self):
    return ' '.join(' '.join(self.parts).split())

  def values(self, name):
    return [value for _, key, value in self.attributes if key == name]


@pytest.fixture
def write(tmp_path):
  """(**parts of a report) to the page that was written."""

  def write(**parts):
    path = tmp_path / 'new' / 'report.html'
    report.write_report(path, **(dict(title='A report') | _NOTHING | parts))
    assert [p.name for p in path.parent.iterdir()] == ['report.html']
    return _Page(path.read_text(encoding='utf-8'))

  return write


def _row(**fields):
  return dict(
      task=None, split='test', ways=None, shots=None, style=None, control=None,
      names=None, metric='accuracy', value=None, stderr=None, n=400, seed=0
  ) | fields


def _results():
  """Like a real table: no two values are alike."""
  values = iter(np.arange(211, 990, 3) / 1000)

  def row(**fields):
    value = float(next(values))
    return _row(**dict(value=value, stderr=value / 57) | fields)

  rows = []
  for ways in (2, 5):
    rows += [row(ways=ways, shots=shots, **_LINE) for shots in (0, 1, 4, 8)]
    rows += [
        row(ways=ways, shots=4, control=control, **_LINE)
        for control in ('shuffled_labels', 'shuffled_images', 'blank_images',
                        'blank_query', 'nearest_centroid')]
    rows.append(row(ways=ways, shots=4, control='chance', value=1 / ways,
                    stderr=None, **_LINE))
    rows.append(row(ways=ways, shots=1, metric='generation_accuracy', **_LINE))
    rows.append(row(ways=ways, shots=1, **_LINE | dict(names='multi')))
  rows += [
      row(task='openmoji_captions', shots=0, control=control, metric='loss')
      for control in (None, 'shuffled_images', 'blank_images')]
  rows += [row(task='easy_vqa', shots=0, control=control)
           for control in (None, 'blank_images', 'chance')]
  return rows


def _metrics():
  rows = []
  for step in range(10, 3010, 10):
    rows.append({'step': step, 'loss/binding': 1 + math.exp(-step / 500)})
    for layer in range(3):
      for gate in ('attn_gate', 'ff_gate'):
        rows[-1][f'gate/xattn_{layer}/{gate}'] = layer * step / 1e4
    if step % 500 == 0:
      rows[-1] |= {'held_out/with_images': 2.0, 'held_out/without_images': 2.5}
  return rows


def _picture(shade=40, size=12):
  return np.full((size, size, 3), shade, np.uint8)


def _exhibit(**fields):
  return Exhibit(**dict(
      title='two names', shots=[(_picture(), 'blicket'), (_picture(), 'dax')],
      query=_picture(), question='', answer='dax',
      scores={'blicket': -2.0, 'dax': -1.0}) | fields)


def _everything():
  return dict(
      summary=['It works.', 'Mostly.'],
      results=_results(), metrics=_metrics(),
      goals=[Goal(text='binding', value=0.9, target=0.8, met=True)],
      exhibits=[_exhibit()],
      looks=[Look(picture=_picture(), words=['a', 'fox'],
                  maps=np.ones((2, 3, 3), np.float32))],
      facts={'Steps': '3000'},
      commands=[('make more', 'Train for longer.')])


def test_the_file_loads_nothing(write):
  page = write(**_everything())
  tags = {tag for tag, _, _ in page.attributes}
  assert not tags & {'script', 'link', 'iframe', 'object', 'embed', 'base'}
  for _, name, value in page.attributes:
    if name in _LOADING:
      assert value.startswith('data:image/png;base64,')
    if name in ('href', 'xlink:href'):
      assert value.startswith('#')
  assert not re.search(r'https?:|url\(|@import', page.source)


def test_every_link_within_the_page_leads_somewhere(write):
  page = write(**_everything())
  targets = {f'#{name}' for name in page.values('id')}
  assert len(targets) == 10
  assert set(page.values('href')) == targets


def test_every_result_is_there_in_full_and_as_text(write):
  rows = _results()
  page = write(results=rows)
  exact = [
      value for tag, name, value in page.attributes
      if (tag, name) == ('data', 'value')]
  assert exact[::2] == [str(row['value']) for row in rows]
  assert exact[1::2] == [str(row['stderr']) for row in rows]
  for row in rows:
    shown = (f'{row["value"]:.3f}' if row['metric'] == 'loss'
             else f'{100 * row["value"]:.1f} %')
    assert shown in page.text


def test_nothing_at_all_makes_a_page_that_says_so(write):
  text = write().text
  assert 'no few-shot results' in text
  assert 'no controls' in text
  assert 'no captions or questions' in text
  assert text.count('No metrics for') == 4


@pytest.mark.parametrize('missing', [*_NOTHING])
def test_any_part_may_be_missing(write, missing):
  write(**_everything() | {missing: _NOTHING[missing]})


@pytest.mark.parametrize('number', range(len(_results())))
def test_any_single_row_makes_a_report(write, number):
  write(results=[_results()[number]])


@pytest.mark.parametrize('value', [None, math.nan, math.inf])
def test_values_that_are_no_numbers_are_dashes(write, value):
  rows = [row | dict(value=value, stderr=value) for row in _results()]
  metrics = [{'step': 1, 'loss/binding': value}]
  text = write(results=rows, metrics=metrics).text
  assert '–' in text
  assert 'no few-shot results' in text
  assert 'No metrics for “Loss of each dataset”' in text


def test_a_row_may_lack_fields_that_do_not_apply(write):
  write(results=[dict(task='easy_vqa', metric='accuracy', value=0.5)])


def test_a_perfect_score_has_no_interval_and_no_place_in_the_strip(write):
  row = _row(**_LINE, ways=2, shots=4, control='blank_query', value=1.0,
             stderr=0.0)
  other = _row(**_LINE, ways=2, shots=4, control='blank_images', value=0.5,
               stderr=0.02)
  text = write(results=[row, other]).text
  assert 'Of 1 controls 0 lie outside the band' in text
  assert 'Without a standard error, and left out: 1' in text


@pytest.mark.parametrize(
    'value, verdict',
    [(0.50, 'at chance'), (0.53, 'at chance'), (0.56, 'above'), (0.9, 'above'),
     (0.42, 'below')])  # fmt: skip
def test_a_control_is_told_in_words(write, value, verdict):
  row = _row(**_LINE, ways=2, shots=4, control='blank_query', value=value,
             stderr=0.02)
  assert f'{100 * value:.1f} % {verdict}' in write(results=[row]).text


def test_seeds_are_drawn_as_one_sample(write):
  rows = [
      _row(**_LINE, ways=2, shots=4, control='blank_query', value=value,
           stderr=stderr, n=n, seed=seed)
      for seed, (value, stderr, n) in enumerate(
          [(0.4, 0.06, 100), (0.6, 0.03, 300)])]
  text = write(results=rows).text
  # The mean over all 400, with the standard error hypot(100 * 0.06, 300 * 0.03)
  # / 400, that is 0.027; alone the second seed were above chance.
  assert '55.0 % at chance' in text
  assert '55.0 ± 5.3 % (n = 400)' in text


def test_baselines_without_names_stand_in_every_chart(write):
  rows = [
      _row(**_LINE | dict(names=names), ways=2, shots=1, value=0.8, stderr=0.01)
      for names in ('single', 'multi')]
  rows.append(_row(task='openmoji_binding', ways=2, shots=1, value=0.7,
                   control='nearest_centroid'))
  assert write(results=rows).text.count('2-way, nearest centroid') == 2


def test_all_text_is_escaped(write):
  bad = '<script>alert("&")</script>'
  parts = dict(
      title=bad, summary=[bad],
      results=[_row(task=bad, style=bad, names=bad, split=bad, ways=2, shots=1,
                    value=0.5, stderr=0.1),
               _row(task=bad, metric='loss', value=0.5, control=bad)],
      metrics=[{'step': 1, f'loss/{bad}': 1.0}],
      goals=[Goal(text=bad, value=0.1, target=0.2, met=False)],
      exhibits=[_exhibit(title=bad, question=bad, answer=bad,
                         shots=[(_picture(), bad)], scores={bad: -1.0})],
      looks=[Look(picture=_picture(), words=[bad],
                  maps=np.ones((1, 2, 2), np.float32))],
      facts={bad: bad}, commands=[(bad, bad)])
  page = write(**parts)
  assert '<script' not in page.source
  assert page.text.count(bad) > 15


@pytest.mark.parametrize(
    'goal, verdict',
    [(Goal(text='g', value=0.9, target=0.8, met=True), '✓ met'),
     (Goal(text='g', value=0.7, target=0.8, met=False), '✗ missed'),
     (Goal(text='g', value=-3.0, target=-2.5, met=False), '✗ missed'),
     (Goal(text='g', value=None, target=0.8, met=False), '○ not measured'),
     (Goal(text='g', value=None, target=0.8, met=True), '○ not measured')],
)  # fmt: skip
def test_a_goal_is_met_missed_or_not_measured_in_words(write, goal, verdict):
  text = write(goals=[goal]).text
  assert verdict in text
  assert f'{int("✓" in verdict)} of 1 met' in text


@pytest.mark.parametrize(
    'scores, sign, bars',
    [({'blicket': -2.0, 'dax': -1.0}, '✓ right',
      'blicket 27 % dax 73 % ◂ model, truth'),
     ({'blicket': -1.0, 'dax': -2.0}, '✗ wrong',
      'blicket 73 % ◂ model dax 27 % ◂ truth'),
     ({'blicket': -1.0, 'dax': -1.0}, '≈ tied',
      'blicket 50 % ◂ model dax 50 % ◂ model, truth'),
     ({'blicket': -1.0}, '✗ wrong', 'blicket 100 % ◂ model'),
     ({}, '○ no candidates', '')],
)  # fmt: skip
def test_an_answer_is_right_or_wrong_in_words(write, scores, sign, bars):
  text = write(exhibits=[_exhibit(scores=scores)]).text
  assert sign in text
  assert bars in text
  assert 'the truth is “dax”' in text


def test_an_exhibit_shows_its_prompt_in_order(write):
  shots = [(_picture(30, 500), 'blicket'), (_picture(90, 500), 'dax')]
  page = write(exhibits=[_exhibit(
      shots=shots, query=_picture(200, 500), question='What is this?')])
  images = [_decode(source) for source in page.values('src')]
  assert [image.getpixel((0, 0))[0] for image in images] == [30, 90, 200]
  assert max(images[2].size) < 500  # no finer than it is shown
  assert 'blicket dax What is this? ?' in page.text


def test_a_look_is_reddest_where_its_map_is_greatest(write):
  maps = np.zeros((2, 4, 4), np.float32)
  maps[0, 0, 3] = 2.0
  maps[1, 3, 0] = 1.0
  page = write(looks=[Look(
      picture=_picture(255), words=['a', 'fox'], maps=maps)])
  _, one, other = [
      np.asarray(_decode(source), np.float32) for source in page.values('src')]
  redness = [image[..., 0] - image[..., 2] for image in (one, other)]
  size = len(redness[0])
  for red, (y, x) in zip(redness, ((0, size - 1), (size - 1, 0))):
    assert red[y, x] == red.max() > 0
    assert red[x, y] == 0
  # One scale for both words.
  assert redness[0].max() == pytest.approx(2 * redness[1].max(), abs=2)


def test_a_look_at_nothing_is_no_error(write):
  write(looks=[Look(picture=_picture(), words=['a'],
                    maps=np.zeros((1, 2, 2), np.float32))])


def test_words_and_maps_must_be_as_many():
  with pytest.raises(ValueError, match='1 words and 2 maps'):
    Look(picture=_picture(), words=['a'], maps=np.ones((2, 2, 2), np.float32))


def test_a_long_run_is_thinned(write):
  metrics = [{'step': i, 'loss/binding': float(i % 2)} for i in range(10_000)]
  page = write(metrics=metrics)
  assert len(page.source) < 30_000


@pytest.mark.parametrize(
    'low, high',
    [(0.0, 1.0), (2.81, 3.9), (-0.3, 0.2), (0.0, 0.0), (5.0, 5.0), (0.0, 3e6)],
)  # fmt: skip
def test_ticks_are_few_and_around_the_range(low, high):
  ticks = charts.nice_ticks(low, high)
  assert 3 <= len(ticks) <= 9
  assert ticks[0] <= low and high <= ticks[-1]
  assert np.ptp(np.diff(ticks)) < 1e-6 * (ticks[-1] - ticks[0])


def test_markup_is_not_escaped_twice():
  inner = markup.tag('b', 'a < b')
  assert markup.tag('p', inner, ' & c', None, class_='x"y') == (
      '<p class="x&quot;y"><b>a &lt; b</b> &amp; c</p>')


def _decode(source):
  data = base64.b64decode(source.removeprefix('data:image/png;base64,'))
  return Image.open(io.BytesIO(data)).convert('RGB')
