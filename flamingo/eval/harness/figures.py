"""A benchmark's scores as a chart and as a table beside what papers report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flamingo.eval import charts
from flamingo.eval import pages
from flamingo.eval.benchmarks import BENCHMARKS
from flamingo.eval.benchmarks.published import Figure, published
from flamingo.eval.charts import COLORS, MARKERS, Series
from flamingo.eval.figures import show, shots_axis
from flamingo.eval.markup import Markup, tag

Row = Mapping[str, Any]  # of results.json

BASELINES = {
    'majority': 'commonest answer', 'nearest_centroid': 'nearest centroid',
    'text_only': 'no image at all'}
CONTROLS = {
    'blank_images': 'images blank', 'shuffled_images': 'images shuffled',
    'no_images': 'no images', 'shuffled_labels': 'labels shuffled',
    'random_labels': 'labels random', 'blank_query': 'query blank'}
CHOICES = {
    'random': 'random', 'rices_image': 'RICES by image',
    'rices_text': 'RICES by text', 'rices_both': 'RICES by both'}
_LINES = {
    'majority': 'dotted', 'nearest_centroid': 'dashed', 'text_only': 'dotted'}
_COLORS = {'majority': charts.SOFT, 'nearest_centroid': charts.SOFT,
           'text_only': COLORS[5]}


def main_rows(rows: Iterable[Row]) -> list[Row]:
  """One row of each cell: its main metric, over all seeds together."""
  metric, seeds = {}, {}
  for row in rows:
    name = row['task'], row['split']
    if metric.setdefault(name, row['metric']) != row['metric']:
      continue
    cell = tuple(
        (k, str(row[k])) for k in (
            'task', 'split', 'shots', 'texts', 'choice', 'balanced', 'control',
            'baseline', 'template'))
    if cell not in seeds or row['seed'] is None:
      seeds[cell] = row
  return list(seeds.values())


def label(row: Row) -> str:
  """What a row is, beside its task and shots."""
  if row['baseline'] == 'majority':
    return BASELINES['majority']
  parts = [CHOICES[row['choice']] + ', balanced' * bool(row['balanced'])]
  if row['baseline']:
    parts.append(BASELINES[row['baseline']])
  if row['control']:
    parts.append(CONTROLS[row['control']])
  return ', '.join(parts)


def curve(rows: Sequence[Row], *, name: str) -> Markup | None:
  """Scores of one benchmark against shots; None if there is no score.

  Args:
    rows: of `main_rows`.
    name: what the chart is called for those who hear it.
  """
  rows = sorted(
      (r for r in rows if r['value'] is not None), key=lambda r: r['shots'])
  lines: dict[tuple, list[Row]] = {}
  for row in rows:
    lines.setdefault(_kind(row), []).append(row)
  if not lines:
    return None
  shots = sorted({row['shots'] for row in rows})
  choices = list(dict.fromkeys(row['choice'] for row in rows))
  order = sorted(lines, key=lambda kind: kind[2:] == (None, None))
  series = [_series(lines[kind], kind, choices, shots) for kind in order]
  top = max(max(s.y) + max(_above(s), default=0.0) for s in series)
  return charts.line_chart(
      series, name=name, pad=0.35,
      x_label='demonstrations'
      + ' of each class' * bool(rows[0].get('rounds')),
      x_ticks=[(shots_axis(s), str(s)) for s in shots],
      y_range=(min(0.0, *(min(s.y) for s in series)), top or 1.0),
      y_format=lambda y: f'{100 * y:.0f}'.replace('-', '−'))


def _kind(row):
  choice = None if row['baseline'] == 'majority' else row['choice']
  return choice, row['balanced'], row['control'], row['baseline']


def _series(rows, kind, choices, shots):
  choice, _, control, baseline = kind
  name = label(rows[0])
  x, y = [shots_axis(r['shots']) for r in rows], [r['value'] for r in rows]
  tips = [_tip(row, name) for row in rows]
  if baseline == 'majority':  # whatever the shots
    x, y = [shots_axis(s) for s in (shots[0], shots[-1])], [y[0], y[0]]
    return Series(
        label=tips[0], x=x, y=y, color=charts.SOFT, line='dotted',
        end='commonest')
  color = COLORS[choices.index(choice) % (len(COLORS) - 1)]
  if baseline:
    return Series(
        label=name, x=x, y=y, color=_COLORS[baseline], line=_LINES[baseline],
        marker='cross', tips=tips)
  if control:
    number = list(CONTROLS).index(control)
    return Series(
        label=name, color=color if number < len(MARKERS) else charts.INK,
        x=[place + 0.08 * (number - 2.5) for place in x], y=y, line=None,
        marker=MARKERS[number % len(MARKERS)], hollow=True, tips=tips)
  return Series(
      label=name, x=x, y=y, color=color, marker='circle', tips=tips,
      error=[_error(row) for row in rows], end=CHOICES[choice])


def _error(row) -> tuple[float, float] | None:
  if row['low'] is None or row['high'] is None:
    return None
  return row['value'] - row['low'], row['high'] - row['value']


def _above(series):
  return [error[1] for error in series.error if error]


def _tip(row, name):
  about = f'{row["shots"]} shots, {name}: {_value(row)}'
  return f'{about} (n = {row["n"]:,})'


def _value(row) -> str:
  """A value with its interval, times 100 as papers print it."""
  if row['value'] is None:
    return '–'
  text = _number(row['value'])
  if row['low'] is None:
    return text
  return f'{text} [{_number(row["low"])}, {_number(row["high"])}]'


def _number(value: float) -> str:
  return show(None, value).removesuffix(' %').replace('-', '−')


def legend(rows: Iterable[Row]) -> Markup:
  """How baselines and controls are drawn."""
  rows = list(rows)
  entries = [(charts.swatch(COLORS[0], 'circle', line='solid', bar=True),
              'as it is, with 95 % intervals over examples and seeds')]
  for name, text in BASELINES.items():
    if any(row['baseline'] == name for row in rows):
      entries.append((
          charts.swatch(
              _COLORS[name], None if name == 'majority' else 'cross',
              line=_LINES[name]), text))
  for number, (name, text) in enumerate(CONTROLS.items()):
    if any(row['control'] == name for row in rows):
      color = COLORS[0] if number < len(MARKERS) else charts.INK
      entries.append((
          charts.swatch(color, MARKERS[number % len(MARKERS)], hollow=True),
          f'control: {text}'))
  return tag('ul', *(tag('li', *entry) for entry in entries), class_='legend')


def table(rows: Sequence[Row]) -> Markup:
  """Ours at each number of shots, with baselines and controls, and papers'.

  Papers' figures stand where benchmark, metric, shots and choice agree.

  Args:
    rows: of one benchmark, of `main_rows`.
  """
  plain = [r for r in rows if not r['control'] and not r['baseline']]
  theirs = [
      {figure.label: figure for figure in _published(row)} for row in plain]
  models = dict.fromkeys(name for figures in theirs for name in figures)
  beside = {
      words[name]: some for field, words in (
          ('baseline', BASELINES), ('control', CONTROLS)) for name in words
      if (some := [row for row in rows if row[field] == name])}
  least = [name for name in BASELINES.values() if name in beside]
  changed = [name for name in CONTROLS.values() if name in beside]
  names = ['shots', 'demonstrations', 'n', 'ours', *least, *models, *changed]
  body = []
  for row, figures in zip(plain, theirs):
    cells = [
        str(row['shots']), _demonstrations(row), f'{row["n"]:,}', _value(row),
        *(_beside(row, beside[name]) for name in least),
        *(_number(figures[name].value) if name in figures else ''
          for name in models),
        *(_beside(row, beside[name]) for name in changed)]
    body.append(tag('tr', *(
        tag('td', text, class_=None if i == 1 else 'number')
        for i, text in enumerate(cells))))
  return pages.scrolling(
      names, body, [i for i in range(len(names)) if i != 1])


def _published(row) -> list[Figure]:
  known = BENCHMARKS.get(row['task'])
  if known is None or known.metric != row['metric']:
    return []  # of one's own, or scored in a way of one's own
  return published(row['task'], shots=row['shots'], choice=row['choice'])


def _demonstrations(row) -> str:
  if row['text_only']:
    return f'{row["texts"]} without images, {CHOICES[row["choice"]]}'
  if not row['shots']:
    return 'none'
  return label(row)


def _beside(row, some) -> str:
  for other in some:
    same = all(other[k] == row[k] for k in ('shots', 'choice', 'balanced'))
    if same or other['baseline'] == 'majority':
      return _value(other)
  return ''
