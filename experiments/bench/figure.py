"""A benchmark's ratios against their goals, and its curves, as one SVG."""

from collections.abc import Mapping
import re

from flamingo.eval import charts
from flamingo.eval.charts import Bar, COLORS, Series
from flamingo.eval.markup import Markup, tag
from experiments.bench import table

_WIDTH, _GAP = 380, 30
_STYLE = (
    'text { font: 11px system-ui, sans-serif; fill: #5d6875 } '
    'text.strong, text.title { fill: #1f2730; font-weight: 600 }')


def svg(document: Mapping) -> str:
  """A picture of what was measured; what failed is not in it."""
  subjects = {
      name: one for name, one in document['subjects'].items()
      if 'error' not in one}
  panels = [
      panel for panel in (
          _goals(subjects), _images(subjects), _depth(subjects)) if panel]
  drawn, y = [], 8
  for title, chart in panels:
    height = float(re.search(r'viewBox="0 0 \S+ ([\d.]+)"', chart)[1])
    drawn += [
        tag('text', title, x=4, y=y + 10, class_='title'),
        tag('svg', chart, x=0, y=y + 20, width=_WIDTH, height=height)]
    y += 20 + height + _GAP
  return tag(
      'svg', tag('style', Markup(_STYLE)),
      tag('rect', width=_WIDTH, height=float(y), fill='#fff'), *drawn,
      xmlns='http://www.w3.org/2000/svg', viewBox=f'0 0 {_WIDTH} {y:g}',
      width=2 * _WIDTH) + '\n'


def _goals(subjects):
  bars = []
  for name, one in subjects.items():
    for ratio in one['ratios'].values():
      if ratio['goal'] is None:
        continue
      attained = ratio['value'] / ratio['goal']
      if ratio['at_most']:
        attained = 1 / attained if attained else 2.0
      bars.append(Bar(
          label=f'{name} {sum(b.label.split()[0] == name for b in bars) + 1}',
          value=min(attained, 2.0), error=None,
          text=f'{table.quotient(ratio)} ({ratio["goal"]:g})',
          color=COLORS[2 if ratio['met'] else 1]))
  if not bars:
    return None
  return (
      'How much of each goal is reached, up to twice; measured (goal)',
      charts.bar_chart(bars, name='goals reached'))


def _images(subjects):
  series = _curves(subjects.get('images'), r'(.+), (\d+) images?')
  series = [s for s in series if len(s.x) > 1]
  return series and ('Seconds against images in a row', charts.line_chart(
      series, name='seconds against images', x_label='images in a row',
      x_ticks=_ticks(series), y_format=lambda y: f'{y:g} s'))


def _depth(subjects):
  series = _curves(
      subjects.get('depth'), r'(compile), (\d+) layers, (scanned|unrolled)')
  return series and ('Seconds to compile an update', charts.line_chart(
      series, name='compile time against depth', x_label='layers',
      x_ticks=_ticks(series), y_format=lambda y: f'{y:g} s'))


def _curves(one, pattern) -> list[Series]:
  """Times whose names differ in a number, as lines over that number."""
  points: dict[str, dict[int, float]] = {}
  for name, seconds in (one or {'seconds': {}})['seconds'].items():
    if match := re.fullmatch(pattern, name):
      label = match[3] if len(match.groups()) > 2 else match[1]
      points.setdefault(label, {})[int(match[2])] = seconds
  return [
      Series(
          label=label, x=sorted(by), y=[by[x] for x in sorted(by)],
          color=COLORS[i % len(COLORS)], marker='circle', end=label)
      for i, (label, by) in enumerate(points.items())]


def _ticks(series):
  return [(x, str(x)) for x in sorted({x for s in series for x in s.x})]
