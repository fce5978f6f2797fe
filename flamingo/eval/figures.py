"""Which charts the rows of an evaluation make, and what each of them says.

A figure that has no rows is a sentence saying so.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
import numbers

from flamingo.eval import charts
from flamingo.eval.charts import Bar, COLORS, Dot, MARKERS, Series
from flamingo.eval.markup import figure, grid, join, Markup, missing, tag

Row = Mapping[str, object]  # what `evaluate.evaluate` returns

TASKS = {
    'openmoji_binding': 'New names for emoji',
    'openmoji_binding_subgroup': 'New names for emoji that look alike',
    'openmoji_category': 'New names for kinds of emoji',
    'openmoji_captions': 'Names of emoji never seen',
    'easy_vqa': 'Questions about shapes (easy-VQA)',
}
STYLES = {
    'same': 'all in colour',
    'colour_to_line': 'colour, asked as line art',
}
NAMES = {'single': 'one-token names', 'multi': 'several-token names'}
CONTROLS = {
    'shuffled_labels': 'labels shuffled',
    'shuffled_images': 'pictures shuffled',
    'blank_images': 'pictures blank',
    'blank_query': 'query blank',
}
_SOFT = charts.SOFT
_DEFAULTS = dict(task=None, control=None, shots=None, metric='accuracy')
_FACET = ('task', 'split', 'style', 'names')


def show(metric: object, value: object) -> str:
  """A value of a metric as it is written: per cent, or nats with 3 decimals."""
  if not _finite(value):
    return '–'
  return f'{value:.3f}' if metric == 'loss' else f'{100 * value:.1f} %'


def interval(row: Row) -> float | None:
  """Half the width of the 95 % interval, if there is a standard error."""
  return 1.96 * row['stderr'] if _finite(row.get('stderr')) else None


def few_shot(results: Sequence[Row]) -> Markup:
  """Accuracy against demonstrations: a chart per task, style and names."""
  rows = [r for r in _pooled(results) if _is_few_shot(r)]
  facets = _facets(r for r in rows if r['control'] is None)
  if not facets:
    return missing(
        'There are no few-shot results, so accuracy against demonstrations is '
        'left out.')
  positions = sorted({r['shots'] for r in rows if r['shots'] is not None})
  cards = []
  for facet, (title, about) in facets.items():
    # Baselines know no names or styles of prompts: None stands for any.
    mine = [r for r in rows
            if all(r.get(f) in (None, v) for f, v in zip(_FACET, facet))]
    cards.append(figure(title, about, charts.line_chart(
        _few_shot_series(mine),
        name=f'{title}, {about}: accuracy against demonstrations',
        x_label='demonstrations of each class',
        x_ticks=[(shots_axis(s), str(s)) for s in positions],
        y_range=(0.0, 1.0), y_format=lambda y: f'{100 * y:.0f} %', pad=0.35)))
  return join([_few_shot_legend(rows), grid(cards)])


def _few_shot_series(rows):
  kinds = [('nearest centroid', 'nearest_centroid', 'accuracy',
            dict(line='dashed'))]
  kinds += [
      (label, control, 'accuracy',
       dict(line=None, marker=marker, hollow=True, shift=0.13 * (k - 1.5)))
      for k, ((control, label), marker) in enumerate(
          zip(CONTROLS.items(), MARKERS))]
  kinds += [
      ('answers generated', None, 'generation_accuracy',
       dict(line=None, marker='cross')),
      ('model', None, 'accuracy', {})]
  rows = sorted((r for r in rows if r['shots'] is not None),
                key=lambda r: r['shots'])
  series = []
  for i, ways in enumerate(sorted({r['ways'] for r in rows})):
    color = COLORS[i % len(COLORS)]
    chance = _chance(rows, ways)
    series.append(Series(
        label=f'{ways}-way, chance {show(None, chance)}', line='dotted',
        x=[shots_axis(rows[k]['shots']) for k in (0, -1)], y=[chance, chance],
        color=color, end='chance'))
    for label, control, metric, drawn in kinds:
      points = [r for r in rows if (r['ways'], r['control'], r['metric'])
                == (ways, control, metric)]
      if label == 'model':
        drawn = dict(marker=MARKERS[i % len(MARKERS)], end=f'{ways}-way',
                     error=[interval(r) for r in points])
      if points:
        series.append(_line(points, label, color, **drawn))
  return series


def _line(rows, label, color, shift=0.0, **drawn):
  return Series(
      label=f'{rows[0]["ways"]}-way, {label}', color=color,
      y=[r['value'] for r in rows],
      x=[shots_axis(r['shots']) + shift for r in rows],
      tips=[_tip(r, label) for r in rows], **drawn)


def _few_shot_legend(rows):
  there = {r['control'] for r in rows}
  entries = [
      (charts.swatch(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)],
                     line='solid', bar=True), f'model, {ways}-way')
      for i, ways in enumerate(sorted({r['ways'] for r in rows}))]
  if any(r['metric'] == 'generation_accuracy' for r in rows):
    entries.append((charts.swatch(_SOFT, 'cross'), 'answers generated'))
  if 'nearest_centroid' in there:
    entries.append((charts.swatch(_SOFT, line='dashed'), 'nearest centroid'))
  entries.append((charts.swatch(_SOFT, line='dotted'), 'chance'))
  entries += [
      (charts.swatch(_SOFT, MARKERS[k], hollow=True), f'control: {label}')
      for k, (control, label) in enumerate(CONTROLS.items())
      if control in there]
  return tag('ul', *(tag('li', *entry) for entry in entries), class_='legend')


def controls(results: Sequence[Row]) -> Markup:
  """Every few-shot control against chance, in its own standard errors."""
  rows = [r for r in _pooled(results) if _is_few_shot(r)]
  chosen = [
      r for r in rows
      if r['control'] in CONTROLS or (r['control'] is None and r['shots'] == 0)]
  known = [r for r in chosen if (interval(r) or 0) > 0]
  if not known:
    return missing(
        'There are no controls with standard errors, so their distances from '
        'chance are left out.')
  order = [None, *CONTROLS]
  known.sort(
      key=lambda r: (order.index(r['control']), r['ways'], r['shots'] or 0))
  cards, outside = [], 0
  for facet, (title, about) in _facets(known).items():
    dots = [_dot(r, rows) for r in known if _facet(r) == facet]
    outside += sum(dot.strong for dot in dots)
    cards.append(figure(title, about, charts.error_strip(
        dots, name=f'{title}, {about}: controls', reference='chance')))
  lead = (
      f'Of {len(known)} controls {outside} lie outside the band; '
      f'{len(known) / 20:.1f} would by luck alone.')
  if left := len(chosen) - len(known):
    lead += f' Without a standard error, and left out: {left}.'
  return join([tag('p', lead), grid(cards)])


def _dot(row, rows):
  chance = _chance([r for r in rows if r['task'] == row['task']], row['ways'])
  z = (row['value'] - chance) / row['stderr']
  verdict = 'at chance' if abs(z) <= 1.96 else 'above' if z > 0 else 'below'
  label = CONTROLS.get(row['control'], 'no demonstrations')
  shots = f' {row["shots"]}-shot' if row['shots'] else ''
  return Dot(
      group=label, label=f'{row["ways"]}-way{shots}', z=z,
      text=f'{show(None, row["value"])} {verdict}',
      strong=verdict != 'at chance',
      tip=f'{_tip(row, label)}; {z:+.1f} standard errors from chance')


def zero_shot(results: Sequence[Row]) -> Markup:
  """Captions and questions: with the picture, without it, and by chance."""
  groups: dict[tuple, list[Row]] = {}
  for r in _pooled(results):
    if r.get('ways') is None:
      key = (r['task'], r.get('split'), r['metric'], r.get('shots'))
      groups.setdefault(key, []).append(r)
  if not groups:
    return missing(
        'There are no captions or questions, so what a picture is worth is '
        'left out.')
  labels = {None: 'right picture', 'shuffled_images': 'another picture',
            'blank_images': 'blank picture', 'chance': 'commonest answer'}
  cards = []
  for (task, split, metric, _), rows in groups.items():
    rows.sort(key=lambda r: [*labels, r['control']].index(r['control']))
    bars = [
        Bar(label=labels.get(r['control']) or str(r['control']),
            value=r['value'], error=interval(r),
            color=COLORS[0] if r['control'] is None else '#8b95a1',
            text=_with_interval(r))
        for r in rows]
    unit = ('nats per token, less is better' if metric == 'loss'
            else f'{str(metric).replace("_", " ")}, more is better')
    title = TASKS.get(task, task)
    cards.append(figure(
        title, _list((unit, f'{split} split' if split else None)),
        charts.bar_chart(bars, name=f'{title}: {metric}')))
  return grid(cards)


def _pooled(results: Sequence[Row]) -> list[Row]:
  """Rows that differ in the seed alone as one: each is a draw of trials."""
  groups: dict[tuple, list[Row]] = {}
  for row in results:
    if _finite(row.get('value')):
      row = _DEFAULTS | dict(row)
      key = tuple(sorted(
          (k, str(v)) for k, v in row.items()
          if k not in ('seed', 'value', 'stderr', 'n')))
      groups.setdefault(key, []).append(row)
  return [_pool(rows) for rows in groups.values()]


def _pool(rows):
  if len(rows) == 1:
    return rows[0]
  counts = [row.get('n') or 1 for row in rows]
  n = sum(counts)
  errors = [row.get('stderr') for row in rows]
  return rows[0] | {
      'n': n, 'value': sum(c * r['value'] for c, r in zip(counts, rows)) / n,
      'stderr': math.hypot(*(c * e for c, e in zip(counts, errors))) / n
      if all(map(_finite, errors)) else None}


def _is_few_shot(row):
  return row.get('ways') is not None and row['metric'] != 'loss'


def _chance(rows: Iterable[Row], ways: int) -> float:
  measured = [r['value'] for r in rows
              if r['control'] == 'chance' and r['ways'] == ways]
  return measured[0] if measured else 1 / ways


def shots_axis(shots: int) -> float:
  """Each doubling is a step; none at all is a step left of one."""
  return 1 + math.log2(shots) if shots else 0.0


def _tip(row, label):
  return (
      f'{row["ways"]}-way {row["shots"]}-shot, {label}: '
      f'{_with_interval(row)}'
      + (f' (n = {row["n"]:,})' if row.get('n') else ''))


def _with_interval(row):
  value, half = show(row['metric'], row['value']), interval(row)
  if half is None:
    return value
  return f'{value.removesuffix(" %")} ± {show(row["metric"], half)}'


def _facet(row):
  return tuple(row.get(f) for f in _FACET)


def _facets(rows: Iterable[Row]) -> dict[tuple, tuple[str, str]]:
  """Title and description of each chart: what they share is not repeated."""
  facets = dict.fromkeys(map(_facet, rows))
  differ = [len(set(values)) > 1 for values in zip(*facets)]
  for facet in facets:
    task, split, style, names = facet
    words = (STYLES.get(style, style), f'{split} split' if split else None,
             NAMES.get(names, names))
    facets[facet] = TASKS.get(task, task), _list(
        word for word, tell in zip(words, (True, *differ[1::2])) if tell)
  return facets


def _finite(value: object) -> bool:
  return isinstance(value, numbers.Real) and math.isfinite(value)


def _list(words) -> str:
  return ', '.join(str(word) for word in words if word)
