"""One HTML file that says what was trained and how well it does.

It loads nothing: pictures, charts and style are in it. Figures come first, the
numbers behind them after. No verdict is told by colour alone.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os

from flamingo.eval import figures
from flamingo.eval import pages
from flamingo.eval.curves import curves
from flamingo.eval.figures import Row
from flamingo.eval.gallery import Exhibit, Look, show_exhibits, show_looks
from flamingo.eval.markup import join, Markup, tag
from flamingo.eval.pages import introduced, write_page

# Fields of a row, and how the table calls them.
_COLUMNS = {
    field: field for field in (
        'task', 'split', 'ways', 'shots', 'style', 'names', 'control', 'metric',
        'value')
} | {'stderr': 'std. error', 'n': 'n', 'seed': 'seed'}
_SHORT = 40  # rows of a table that is shown unasked
_NUMBERS = ('ways', 'shots', 'value', 'stderr', 'n', 'seed')

_FEW_SHOT = (
    'Names are made up for every prompt and bound to pictures by its '
    'demonstrations alone, on emoji and names never trained on. Whiskers are '
    '95 % intervals. Nearest centroid compares the same frozen features and '
    'knows no language. Controls take away what the answer depends on; they '
    'should fall to chance.')
_CONTROLS = (
    'Where something is missing that the answer depends on, a model that does '
    'what is claimed can only guess. Distances from chance are in standard '
    'errors of each control, with 95 % intervals; the grey band is what chance '
    'gives 95 times in 100.')
_ZERO_SHOT = (
    'No demonstrations: the same text with its own picture, with another, with '
    'a blank one. What is reached with a blank picture, the text gives away.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
  """What was to be reached.

  Attributes:
    text: what is measured, as 'binding 2-way 4-shot, colour to line'.
    value: what came out, in the same unit as the target, mostly a fraction;
      None if it was not measured.
    target: what was asked for.
    met: whether it was reached.
  """

  text: str
  value: float | None
  target: float
  met: bool


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Sequence[str],
    results: Sequence[Row],
    metrics: Sequence[Mapping[str, object]],
    goals: Sequence[Goal],
    exhibits: Sequence[Exhibit],
    looks: Sequence[Look],
    facts: Mapping[str, str],
    commands: Sequence[tuple[str, str]],
) -> None:
  """Writes the report. What there is nothing of is said or left out.

  Args:
    path: of the HTML file; it is replaced at once or not at all.
    title: of the report.
    summary: paragraphs that say what came out.
    results: rows of `evaluate.evaluate`.
    metrics: lines of the run's `metrics.jsonl`.
    goals: what was to be reached.
    exhibits: prompts and answers.
    looks: attention maps.
    facts: what was trained, on what, for how long.
    commands: each with a sentence that says what it does.
  """
  sections = {
      'Goals': goals and _goals(goals),
      'Few-shot accuracy': introduced(_FEW_SHOT, figures.few_shot(results)),
      'Controls': introduced(_CONTROLS, figures.controls(results)),
      'What a picture is worth': introduced(
          _ZERO_SHOT, figures.zero_shot(results)),
      'Training': curves(metrics),
      'Prompts and answers': exhibits and show_exhibits(exhibits),
      'Where words look': looks and show_looks(looks),
      'All numbers': results and _table(results),
      'What was trained': facts and pages.facts(facts),
      'How to go on': commands and pages.commands(commands),
  }
  write_page(path, title=title, summary=summary, sections=sections)


def _goals(goals: Sequence[Goal]) -> Markup:
  rows = [
      tag('tr',
          tag('td', goal.text, class_='text'),
          tag('td', _verdict(goal)),
          tag('td', _plain(goal.value), class_='number'),
          tag('td', _plain(goal.target), class_='number'),
          tag('td', _meter(goal), class_='meter'))
      for goal in goals]
  met = sum(goal.met and goal.value is not None for goal in goals)
  return join([
      tag('p', f'{met} of {len(goals)} met. The upright stroke is the target.'),
      pages.scrolling(('', '', 'result', 'target', ''), rows, numbers=(2, 3))])


def _verdict(goal: Goal) -> Markup:
  if goal.value is None:
    return tag('span', '○ not measured', class_='verdict open')
  if goal.met:
    return tag('span', '✓ met', class_='verdict met')
  return tag('span', '✗ missed', class_='verdict missed')


def _plain(value: float | None) -> str:
  return '–' if value is None else f'{value:.3f}'.replace('-', '−')


def _meter(goal: Goal) -> Markup | None:
  """A fraction as a bar of the whole, its target as a stroke across it."""
  if not all(0 <= x <= 1 for x in (goal.value or 0.0, goal.target)):
    return None
  part = lambda fraction: f'{100 * fraction:.1f}%'
  drawn = [tag('rect', y=4, width='100%', height=8, rx=2, fill='#eef0f3')]
  if goal.value is not None:
    drawn.append(tag(
        'rect', y=4, width=part(goal.value), height=8, rx=2, fill_opacity=0.75,
        class_='met' if goal.met else 'missed'))
  drawn.append(tag(
      'line', x1=part(goal.target), x2=part(goal.target), y1=0, y2=16,
      stroke='#1f2730', stroke_width=2))
  return tag('svg', *drawn, width='100%', height=16, aria_hidden='true')


def _table(results: Sequence[Row]) -> Markup:
  rows = [
      tag('tr', *(
          tag('td', _written(row, field),
              class_='number' if field in _NUMBERS else None)
          for field in _COLUMNS))
      for row in results]
  numbers = [i for i, field in enumerate(_COLUMNS) if field in _NUMBERS]
  return tag(
      'details', tag('summary', f'{len(rows)} results'),
      pages.scrolling(_COLUMNS.values(), rows, numbers),
      open='' if len(rows) <= _SHORT else None)


def _written(row: Row, field: str) -> str | Markup:
  value = row.get(field)
  if field in ('value', 'stderr'):
    # The text is rounded, the element keeps all digits.
    text = figures.show(row.get('metric'), value)
    return tag('data', text, value=str(value))
  if field == 'metric' and row.get('beams'):
    return f'{value}, {row["beams"]} beams'
  if value is None:
    return ''
  return f'{value:,}' if isinstance(value, int) else str(value)
