"""Charts as inline SVG: lines, bars, and a strip of standard errors.

They know numbers and labels, nothing of what was measured. All are drawn 380
units wide, so that their text can be read on a phone.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math

from flamingo.eval.markup import join, Markup, tag

# Told apart with the common colour blindnesses, and dark enough for text.
COLORS = ('#1d5b8f', '#b3591c', '#5d6e1c', '#7d3c86', '#0f766e', '#8a1c3b')
INK, SOFT, LINE = '#1f2730', '#5d6875', '#dfe3e8'
MARKERS = ('circle', 'square', 'triangle', 'diamond')

_WIDTH = 380
_DASHES = {'solid': None, 'dashed': '6 4', 'dotted': '1.5 3.5'}
_SHAPES = {
    'circle': 'M-3.2,0a3.2,3.2 0 1,0 6.4,0a3.2,3.2 0 1,0 -6.4,0z',
    'square': 'M-3,-3h6v6h-6z',
    'triangle': 'M0,-3.9L3.9,3H-3.9z',
    'diamond': 'M0,-4.2L4.2,0L0,4.2L-4.2,0z',
    'cross': 'M-3.2,-3.2L3.2,3.2M-3.2,3.2L3.2,-3.2',
}
_BAND = 1.96  # standard errors of a 95 % interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
  """Points of a line chart, and how they are drawn.

  Attributes:
    label: what they are.
    x: positions on the axis.
    y: values.
    color: of line, markers and text.
    error: half widths of intervals, as many as points, or how far each reaches
      below and above; None where unknown.
    marker: one of `MARKERS`, 'cross', or None.
    hollow: whether markers are outlines.
    line: 'solid', 'dashed', 'dotted' or None.
    end: text at the last point.
    tips: tooltips of the points.
  """

  label: str
  x: Sequence[float]
  y: Sequence[float]
  color: str
  error: Sequence[float | tuple[float, float] | None] = ()
  marker: str | None = None
  hollow: bool = False
  line: str | None = 'solid'
  end: str = ''
  tips: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
  """A labelled value with the half width of its interval, if known."""

  label: str
  value: float
  error: float | None
  text: str
  color: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dot:
  """A value as its distance from a reference, in its own standard errors.

  Attributes:
    group: what the value is of; written at the first dot of several alike.
    label: which of the group.
    z: the distance.
    text: written behind it.
    strong: whether it stands out.
    tip: tooltip.
  """

  group: str
  label: str
  z: float
  text: str
  strong: bool
  tip: str


def line_chart(
    series: Sequence[Series],
    *,
    name: str,
    x_label: str,
    x_ticks: Sequence[tuple[float, str]],
    y_format: Callable[[float], str],
    y_range: tuple[float, float] | None = None,
    pad: float = 0.0,
) -> Markup:
  """Lines over a common axis, each with its name at its end.

  Args:
    series: with a point each at least; later ones are drawn on top.
    name: what the chart shows, for those who hear it.
    x_label: what the horizontal axis is.
    x_ticks: positions on it and what they are called.
    y_format: writes a value of the vertical axis.
    y_range: of the vertical axis; as the values need if None.
    pad: room left and right of the outermost points, in units of x.
  """
  longest = max(len(s.end) for s in series)
  left, right, top, bottom = 44, _WIDTH - 12 - min(6 * longest, 130), 10, 216
  xs = [x for s in series for x in s.x] + [x for x, _ in x_ticks]
  low_x, high_x = min(xs) - pad, max(xs) + pad
  ticks = nice_ticks(*(y_range or _extent(series)))
  low_y, high_y = ticks[0], ticks[-1]

  def at_x(x):
    return left + (right - left) * (x - low_x) / ((high_x - low_x) or 1.0)

  def at_y(y):
    return bottom - (bottom - top) * (y - low_y) / (high_y - low_y)

  drawn = []
  for tick in ticks:
    drawn += [
        _segment(left, at_y(tick), right, at_y(tick), LINE),
        _text(left - 7, at_y(tick) + 4, y_format(tick), 'end')]
  for x, label in x_ticks:
    drawn += [
        _segment(at_x(x), bottom, at_x(x), bottom + 4, SOFT),
        _text(at_x(x), bottom + 17, label, 'middle')]
  drawn.append(_text((left + right) / 2, bottom + 34, x_label, 'middle'))
  for s in series:
    points = [(at_x(x), at_y(y)) for x, y in zip(s.x, s.y)]
    if s.line and len(points) > 1:
      drawn.append(_path(points, s))
    elif s.line and not s.marker:  # a single point would not be seen
      (x, y), = points
      drawn.append(_path([(x - 9, y), (x + 9, y)], s))
    for i, (x, y) in enumerate(points):
      if i < len(s.error) and s.error[i]:
        ends = [at_y(min(max(end, low_y), high_y)) for end in _reach(s, i)]
        drawn.append(_segment(x, ends[0], x, ends[1], s.color, 1.4))
      if s.marker:
        tip = s.tips[i] if i < len(s.tips) else s.label
        drawn.append(_mark(s.marker, x, y, s.color, s.hollow, tip))
  ends = [(at_y(s.y[-1]), s.end, s.color) for s in series if s.end]
  drawn += _end_labels(ends, right + 8, top + 6, bottom)
  return _svg(256, name, drawn)


def bar_chart(bars: Sequence[Bar], *, name: str) -> Markup:
  """Horizontal bars from zero with whiskers, a number behind each."""
  left, right, step = 118, _WIDTH - 108, 26
  most = max(bar.value + (bar.error or 0) for bar in bars) or 1.0
  drawn = []
  for i, bar in enumerate(bars):
    y = 4 + i * step
    end = left + (right - left) * max(bar.value, 0) / most
    drawn += [
        _text(left - 8, y + 13, bar.label, 'end'),
        tag('rect', x=left, y=y + 1, width=max(end - left, 1.0), height=17,
            rx=2, fill=bar.color, fill_opacity=0.75),
        _text(right + 10, y + 13, bar.text, 'start', 'strong')]
    if bar.error:
      reach = (right - left) * bar.error / most
      low = max(end - reach, float(left))
      drawn.append(_segment(low, y + 9.5, end + reach, y + 9.5, INK, 1.4))
      drawn += [_segment(x, y + 6, x, y + 13, INK, 1.4)
                for x in (low, end + reach)]
  drawn.append(_segment(left, 2, left, 4 + len(bars) * step - 6, SOFT))
  return _svg(len(bars) * step + 4, name, drawn)


def error_strip(dots: Sequence[Dot], *, name: str, reference: str) -> Markup:
  """Dots with 95 % intervals, in standard errors from a reference.

  Where the reference lies in a dot's interval, the dot lies in the grey band.
  Beyond the axis a dot becomes an arrow head.
  """
  left, right, limit = 92, _WIDTH - 104, 6.0
  middle, unit = (left + right) / 2, (right - left) / 2 / limit
  drawn, y, group = [], 0, None
  for dot in dots:
    if dot.group != group:
      y, group = y + 22, dot.group
      drawn.append(_text(0, y, group, 'start', 'strong'))
    y += 17
    x = middle + unit * min(max(dot.z, -limit), limit)
    color = COLORS[1] if dot.strong else INK
    ends = [min(max(middle + unit * (dot.z + d), left), right)
            for d in (-_BAND, _BAND)]
    drawn += [
        _segment(ends[0], y - 4, ends[1], y - 4, color, 1.4),
        _text(left - 8, y, dot.label, 'end'),
        _text(right + 10, y, dot.text, 'start',
              'strong' if dot.strong else None)]
    if abs(dot.z) > limit:
      turn = 90 if dot.z > 0 else -90
      drawn.append(_mark('triangle', x, y - 4, color, False, dot.tip, turn))
    else:
      drawn.append(_mark('circle', x, y - 4, color, not dot.strong, dot.tip))
  bottom = y + 8
  ground = [
      tag('rect', x=middle - _BAND * unit, y=0, width=2 * _BAND * unit,
          height=bottom, fill='#eef0f3'),
      _segment(middle, 0, middle, bottom, SOFT)]
  for tick in (-4, 0, 4):
    label = f'{tick:+d}'.replace('-', '−') if tick else reference
    ground.append(_text(middle + tick * unit, bottom + 13, label, 'middle'))
  return _svg(bottom + 18, name, ground + drawn)


def swatch(
    color: str, marker: str | None = None, *, hollow: bool = False,
    line: str | None = None, bar: bool = False,
) -> Markup:
  """A sample of how something is drawn, for a legend."""
  drawn = []
  if line:
    drawn.append(_segment(0, 7, 26, 7, color, 2.0, _DASHES[line]))
  if bar:
    drawn.append(_segment(13, 1, 13, 13, color, 1.4))
  if marker:
    drawn.append(_mark(marker, 13.0, 7.0, color, hollow, None))
  return tag('svg', *drawn, viewBox='0 0 26 14', aria_hidden='true')


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round numbers, about `count`, the outermost of them around the range."""
  if high <= low:
    spread = abs(low) * 0.05 or 0.5
    low, high = low - spread, high + spread
  rough = (high - low) / count
  power = 10.0 ** math.floor(math.log10(rough))
  step = power * next(
      m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
  first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
  return [round(i * step, 12) for i in range(first, last + 1)]


def _extent(series):
  reach = [
      end for s in series for i in range(len(s.y)) for end in _reach(s, i)]
  return min(reach), max(reach)


def _reach(series, i):
  """Both ends of a point's interval."""
  error = (series.error[i] if i < len(series.error) else None) or 0.0
  below, above = error if isinstance(error, tuple) else (error, error)
  return series.y[i] - below, series.y[i] + above


def _svg(height, name, drawn):
  return tag('svg', tag('title', name), join(drawn), class_='chart', role='img',
             viewBox=f'0 0 {_WIDTH} {height}')


def _segment(x1, y1, x2, y2, color, width=1.0, dashes=None):
  return tag('line', x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2),
             stroke=color, stroke_width=width, stroke_dasharray=dashes)


def _text(x, y, text, anchor, class_=None, color=None):
  return tag('text', text, x=float(x), y=float(y), text_anchor=anchor,
             class_=class_, style=f'fill:{color}' if color else None)


def _path(points, series):
  d = 'M' + 'L'.join(f'{x:.1f},{y:.1f}' for x, y in points)
  return tag(
      'path', tag('title', series.label), d=d, fill='none', stroke=series.color,
      stroke_width=1.8, stroke_linejoin='round', stroke_linecap='round',
      stroke_dasharray=_DASHES[series.line])


def _mark(shape, x, y, color, hollow, tip, turn=0):
  return tag(
      'path', tip and tag('title', tip), d=_SHAPES[shape],
      transform=f'translate({x:.1f},{y:.1f})'
      + (f' rotate({turn})' if turn else ''),
      fill='#fff' if hollow else color, stroke=color, stroke_width=1.5)


def _end_labels(ends, x, top, bottom):
  """Pushes labels apart that would cover each other."""
  ends, places = sorted(ends), []
  for y, _, _ in ends:
    places.append(max(y + 4, places[-1] + 12 if places else top))
  places = [min(place, bottom - 12 * (len(places) - 1 - i))
            for i, place in enumerate(places)]
  return [
      _text(x, place, text, 'start', color=color)
      for place, (_, text, color) in zip(places, ends)]
