"""One HTML file of an evaluation on benchmarks; it loads nothing."""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from flamingo.eval import benchmarks
from flamingo.eval import pages
from flamingo.eval.benchmarks.published import published
from flamingo.eval.harness import figures
from flamingo.eval.harness.figures import Row
from flamingo.eval.harness.gallery import show_prompts
from flamingo.eval.harness.shown import Shown
from flamingo.eval.markup import figure, grid, join, Markup, missing, tag

_CURVES = (
    'Scores are times 100, as papers print them. A curve that does not stand '
    'above the same prompts without any image owes nothing to images; one that '
    'stays where it is when labels are shuffled takes no answer from its '
    'demonstrations.')
_TABLES = (
    'Ours with the 95 % interval over examples and seeds, what it must beat, '
    'and what papers report for as many demonstrations, chosen alike. Theirs '
    'are other models, with their own prompts and decoding; see the notes.')
_PROMPTS = (
    'The worst first, then some of the best; examples, not a measure. Pictures '
    'stand in the order of the prompt, each with the text behind it; the '
    'framed one is asked about. Bars are shares of the probability among the '
    'candidates shown.')
_SHORT = 40  # rows of a table that is shown unasked
_COLUMNS = (
    'task', 'split', 'shots', 'seed', 'choice', 'text_only', 'control',
    'baseline', 'template', 'metric', 'value', 'low', 'high', 'n', 'dropped',
    'missing')
_NUMBERS = ('shots', 'seed', 'value', 'low', 'high', 'n', 'dropped', 'missing')

# Prompts of one cell, by benchmark and by how they were made.
Gallery = Mapping[tuple[str, str], Sequence[Shown]]


def write_report(
    path: str | os.PathLike[str],
    *,
    head: Mapping[str, Any],
    rows: Sequence[Row],
    gallery: Gallery,
    commands: Sequence[tuple[str, str]],
    says: Sequence[str] = (),
) -> None:
  """Writes the report, whole or not at all.

  Args:
    path: of the HTML file.
    head: identity, config, versions and templates, as in results.json.
    rows: of results.json.
    gallery: prompts to show.
    commands: each with a sentence that says what it does.
    says: what the numbers say, see `findings`.
  """
  best = figures.main_rows(rows)
  by_task: dict[tuple[str, str], list[Row]] = {}
  for row in best:
    by_task.setdefault((row['task'], row['split']), []).append(row)
  sections = {
      'Scores against demonstrations': pages.introduced(
          _CURVES, _curves(by_task)) if by_task else missing(
              'Nothing has been scored yet.'),
      'Beside the papers': by_task and pages.introduced(
          _TABLES, _tables(by_task)),
      'Prompts and answers': gallery and pages.introduced(
          _PROMPTS, _gallery(gallery, by_task)),
      'All numbers': rows and _all(rows),
      'Prompts as they are written': join(
          part for task, text in head['templates'].items()
          for part in (tag('h3', task), tag('pre', text))),
      'What was run': pages.facts(
          {**head['identity'], **head['versions']}),
      'Config': tag('pre', json.dumps(
          head['config'], indent=2, ensure_ascii=False)),
      'How to go on': commands and pages.commands(commands),
  }
  tasks = list(dict.fromkeys(row['task'] for row in rows))
  pages.write_page(
      path, title='Few-shot evaluation',
      summary=[*says, *_summary(tasks, rows)], sections=sections)


def _summary(tasks, rows) -> list[str]:
  dropped = sum(row['dropped'] for row in figures.main_rows(rows))
  absent = {row['task']: row['missing'] for row in rows if row['missing']}
  text = f'Evaluated: {", ".join(tasks) or "nothing"}. {len(rows)} numbers.'
  if dropped:
    text += (
        f' {dropped:,} demonstrations were left out of prompts that would '
        'have been too long.')
  for task, count in absent.items():
    text += f' {count:,} examples of {task} lack an image and were not asked.'
  return [text]


def _curves(by_task) -> Markup:
  cards = []
  for (task, split), rows in by_task.items():
    title = f'{task}, {rows[0]["metric"]}'
    chart = figures.curve(rows, name=f'{title} against demonstrations')
    if chart is None:
      why = next((row['why'] for row in rows if row.get('why')), '')
      chart = missing(f'No score. {why}')
    n = max(row['n'] for row in rows)
    cards.append(figure(title, f'{split} split, n = {n:,}', chart))
  rows = [row for some in by_task.values() for row in some]
  return join([figures.legend(rows), grid(cards)])


def _tables(by_task) -> Markup:
  parts = []
  for (task, split), rows in by_task.items():
    parts.append(tag('h3', f'{task}, {rows[0]["metric"]}, {split}'))
    if note := _note(task, split):
      parts.append(tag('p', note, class_='note'))
    parts.append(figures.table(rows))
  return join(parts)


def _note(task: str, split: str) -> str:
  """Where ours is not what papers report, and what they reach by training."""
  if task not in benchmarks.BENCHMARKS:
    return ''
  row, notes = benchmarks.benchmark(task), []
  if split != row.query:
    notes.append(
        f'Flamingo reports {row.query}; ours is {split}, so that the two are '
        'not of the same examples.')
  tuned = [
      f'{figure.model} {100 * figure.value:.1f}'
      for figure in published(task, shots=None)]
  if tuned:
    notes.append(f'Trained on the task: {", ".join(tuned)}.')
  return ' '.join(notes)


def _gallery(gallery: Gallery, by_task) -> Markup:
  metrics = {task: rows[0]['metric'] for (task, _), rows in by_task.items()}
  return join(
      show_prompts(shown, task=task, metric=metrics[task], about=about)
      for (task, about), shown in gallery.items())


def _all(rows: Sequence[Row]) -> Markup:
  body = [
      tag('tr', *(
          tag('td', _written(row[name]),
              class_='number' if name in _NUMBERS else None)
          for name in _COLUMNS))
      for row in rows]
  return tag(
      'details', tag('summary', f'{len(rows)} results'),
      pages.scrolling(
          _COLUMNS, body,
          [i for i, name in enumerate(_COLUMNS) if name in _NUMBERS]),
      open='' if len(rows) <= _SHORT else None)


def _written(value: object) -> str | Markup:
  if isinstance(value, float):
    # The text is rounded, the element keeps all digits.
    return tag('data', f'{value:.4f}'.replace('-', '−'), value=str(value))
  if value is None or isinstance(value, bool):
    return 'yes' if value else ''
  return f'{value:,}' if isinstance(value, int) else str(value)
