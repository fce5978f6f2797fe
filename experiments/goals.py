"""What the quickstart is meant to reach, checked against a result table."""

from collections.abc import Callable, Sequence

from flamingo.eval.report import Goal

_LINE = dict(task='openmoji_binding', style='colour_to_line', names='single')
_CATEGORY = dict(task='openmoji_category', style='same', names='single')

# (what, cell, least accuracy)
_ACCURACY = (
    ('binding, 2-way 4-shot, colour to line',
     _LINE | dict(ways=2, shots=4), 0.95),
    ('binding, 5-way 1-shot, colour to line',
     _LINE | dict(ways=5, shots=1), 0.88),
    ('binding, 5-way 1-shot, one style',
     _LINE | dict(style='same', ways=5, shots=1), 0.93),
    ('binding within a subgroup, 5-way 1-shot, colour to line',
     _LINE | dict(task='openmoji_binding_subgroup', ways=5, shots=1), 0.72),
    ('category, 2-way 4-shot', _CATEGORY | dict(ways=2, shots=4), 0.82),
    ('category, 5-way 4-shot', _CATEGORY | dict(ways=5, shots=4), 0.55),
)


def check(rows: Sequence[dict]) -> list[Goal]:
  """Every goal; its value is None where the table lacks its numbers."""
  find = lambda **cell: _find(rows, cell)
  goals = []

  def add(text: str, target: float, value: Callable[[], float]):
    try:
      got = value()
    except LookupError:  # this evaluation did not measure it
      goals.append(Goal(text=text, value=None, target=target, met=False))
    else:
      goals.append(Goal(text=text, value=got, target=target, met=got >= target))

  for text, cell, target in _ACCURACY:
    add(text, target, lambda cell=cell: find(**cell))
  line5 = _LINE | dict(ways=5)
  cat5 = _CATEGORY | dict(ways=5)
  add('category, 5-way: 4-shot above 1-shot', 0.06,
      lambda: find(**cat5, shots=4) - find(**cat5, shots=1))
  add('binding: 21 images against 6', -0.03,
      lambda: find(**line5, shots=4) - find(**line5, shots=1))
  add('free generation against ranking', -0.02,
      lambda: find(**line5, shots=1, metric='generation_accuracy')
      - find(**line5, shots=1))
  add('names of several tokens against one', -0.05,
      lambda: find(**line5 | dict(names='multi'), shots=1)
      - find(**line5, shots=1))
  for name, cell, least in (
      ('binding', _LINE, -0.08), ('category', _CATEGORY, -0.12)):
    add(f'{name}: furthest below nearest centroid', least,
        lambda cell=cell: min(_beside_centroid(rows, cell)))
  add('controls: furthest from chance, in standard errors (negative)', -2.5,
      lambda: -max(_controls(rows)))
  add('captions: nats a token that the true picture is worth', 0.3,
      lambda: find(task='openmoji_captions', control='shuffled_images',
                   metric='loss')
      - find(task='openmoji_captions', metric='loss'))
  add('easy-VQA: above a blank picture', 0.15,
      lambda: find(task='easy_vqa')
      - find(task='easy_vqa', control='blank_images'))
  return goals


def _matches(row: dict, cell: dict) -> bool:
  cell = dict(control=None, metric='accuracy') | cell
  return all(row[name] == value for name, value in cell.items())


def _find(rows: Sequence[dict], cell: dict) -> float:
  for row in rows:
    if _matches(row, cell):
      return row['value']
  raise LookupError(cell)


def _beside_centroid(rows: Sequence[dict], cell: dict) -> list[float]:
  differences = [
      row['value'] - _find(rows, cell | dict(
          ways=row['ways'], shots=row['shots'], control='nearest_centroid'))
      for row in rows if _matches(row, cell) and row['shots']]
  if not differences:
    raise LookupError(cell)
  return differences


def _controls(rows: Sequence[dict]) -> list[float]:
  """Distances from chance of every control, in standard errors."""
  distances = [
      # All right or all wrong, there is no error, and it is as far as can be.
      abs(row['value'] - 1 / row['ways']) / (row['stderr'] or 1e-9)
      for row in rows
      if row['ways'] and row['control'] in (
          'shuffled_labels', 'shuffled_images', 'blank_images', 'blank_query')]
  if not distances:
    raise LookupError('controls')
  return distances
