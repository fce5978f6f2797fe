"""Curves over the steps of training, from a run's metrics."""

from collections.abc import Mapping, Sequence
import math
import numbers

from flamingo.eval import charts
from flamingo.eval.charts import COLORS, Series
from flamingo.eval.markup import figure, grid, Markup, missing

_POINTS = 120  # of a curve
_LABELS = 12  # names for which there is room beside a chart


def curves(metrics: Sequence[Mapping[str, object]]) -> Markup:
  """Curves over training steps: losses, held-out captions, gates by layer."""
  keys = list(dict.fromkeys(
      k for row in metrics for k, v in row.items() if _finite(v)))
  losses = {k: k.removeprefix('loss/') for k in keys if k.startswith('loss/')}
  held_out = {f'held_out/{k}_images': f'{k} images'
              for k in ('with', 'without') if f'held_out/{k}_images' in keys}
  cards = [
      _curves(metrics, losses, 'Loss of each dataset', 'nats per token'),
      _curves(metrics, held_out, 'Held-out captions', 'nats per token')]
  for gate, title in (('attn_gate', 'Gates of cross-attention'),
                      ('ff_gate', 'Gates of feed-forward layers')):
    layers = sorted((_layer(k), k) for k in keys if k.endswith(f'/{gate}'))
    cards.append(_curves(
        metrics, {k: f'layer {i}' for i, k in layers}, title,
        'tanh of the gate; at 0 the layer is the bare language model',
        shade=True))
  return grid(cards)


def _curves(metrics, keys, title, unit, shade=False):
  if not keys:
    return missing(f'No metrics for “{title}”: its curves are left out.')
  every = -(-len(keys) // _LABELS)
  series = []
  for i, (key, label) in enumerate(keys.items()):
    x, y = _thinned([(row['step'], row[key]) for row in metrics
                     if _finite(row.get(key)) and _finite(row.get('step'))])
    if x:
      series.append(Series(
          label=label, x=x, y=y, end=label if i % every == 0 else '',
          color=_shade(i / max(len(keys) - 1, 1)) if shade
          else COLORS[i % len(COLORS)]))
  if not series:
    return _curves(metrics, {}, title, unit)
  ticks = charts.nice_ticks(0.0, float(max(s.x[-1] for s in series)), 4)
  chart = charts.line_chart(
      series, name=title, x_label='step',
      x_ticks=[(t, f'{t:,.0f}') for t in ticks],
      y_format=lambda y: f'{y:.4g}'.replace('-', '−'))
  return figure(title, unit, chart)


def _layer(key: str) -> int:
  """Number of the layer in 'gate/xattn_3/attn_gate'."""
  return int(''.join(filter(str.isdigit, key)) or 0)


def _thinned(points):
  """Means over neighbours, so that a long run makes no heavy page."""
  size = -(-len(points) // _POINTS) or 1
  parts = [points[i : i + size] for i in range(0, len(points), size)]
  mean = lambda values: sum(values) / len(values)
  return [[mean([p[k] for p in part]) for part in parts] for k in (0, 1)]


def _shade(depth: float) -> str:
  """From light blue, the first layer, to dark blue, the last."""
  pairs = zip((104, 152, 200), (12, 40, 76))
  return '#' + ''.join(f'{round(a + depth * (b - a)):02x}' for a, b in pairs)


def _finite(value: object) -> bool:
  return isinstance(value, numbers.Real) and math.isfinite(value)
