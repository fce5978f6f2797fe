"""Compares two evaluations: where they first differ, then who is better.

  python -m experiments.compare A B

A and B are outputs of experiments.benchmark, or checkpoints that
experiments.evaluate has evaluated. Says the first difference in config, in
prompts, in data and model, then of each cell that both have both scores, the
difference with its interval of 95 % over the same examples and seeds, and how
often one as great would come by chance.
"""

import dataclasses
import pathlib
import sys

from absl import app

from flamingo.eval.figures import show
from flamingo.eval.harness import compare as compare_lib
from flamingo.eval.harness.compare import Difference, Paired
from flamingo.eval.harness.runs import read_run, Run
from flamingo.train.checkpoint import read_meta

_LEVEL = 0.05
_LONG = 200  # characters of a value


def main(argv):
  if len(argv) != 3:
    raise app.UsageError('Give two folders: python -m experiments.compare A B')
  try:
    print('\n'.join(lines(*(read_run(path) for path in argv[1:]))))
  except (FileNotFoundError, ValueError) as error:
    sys.exit(str(error))


def lines(first: Run, second: Run) -> list[str]:
  """What is to be said about two runs.

  Raises:
    ValueError: they have no cell in common.
  """
  first, second = with_config(first), with_config(second)
  pairs = compare_lib.common_cells(first, second)
  written = [f'A  {first.path}', f'B  {second.path}', '']
  for name, both, found in (
      ('config', (first.config, second.config),
       compare_lib.config_difference(first, second)),
      ('templates', (first.templates, second.templates),
       compare_lib.template_difference(first, second))):
    written += _said(name, all(both), found)
  found, differ, total = compare_lib.prompt_difference(first, second, pairs)
  written += _said('prompts', total, found)
  if differ:
    written.append(f'{"":13s}  {differ} of {total} common prompts differ')
  for name, both, found in (
      ('data, model', (first.identity, second.identity),
       compare_lib.identity_difference(first, second)),
      ('versions', (first.versions, second.versions),
       compare_lib.version_difference(first, second))):
    written += _said(name, all(both), found)
  paired = [compare_lib.compare_cells(first, second, pair) for pair in pairs]
  return written + [''] + _table(paired) + [''] + _verdict(paired)


def with_config(run: Run) -> Run:
  """The run, with the config of its training where it was a checkpoint's."""
  checkpoints = pathlib.Path(run.path) / 'checkpoints'
  if run.config or not checkpoints.is_dir():
    return run
  return dataclasses.replace(run, config=read_meta(checkpoints)['config'])


def _said(name, known, found: Difference | None) -> list[str]:
  if not known:
    return [f'{name:13s}not written down']
  if found is None:
    return [f'{name:13s}same']
  written = [f'{name:13s}{found.where}']
  for run, value in (('A', found.first), ('B', found.second)):
    text = repr(value)
    if len(text) > _LONG:
      text = f'{text[:_LONG]} ...'
    written.append(f'{"":13s}  {run}: {text}')
  if found.others:
    written.append(f'{"":13s}  and then {", ".join(found.others)}')
  return written


def _table(paired: list[Paired]) -> list[str]:
  head = ('cell', 'A', 'B', 'A - B', '95 % interval', 'p', 'n', 'only A',
          'only B')
  rows = [head]
  for each in paired:
    fields = ' '.join(
        f'{k} {v}' if k in ('shots', 'ways', 'beams') else str(v)
        for k, v in each.pair.fields.items()
        if v is not None and k != 'metric')
    of = lambda value, m=each.metric: show(m, value).replace('-', '−')
    difference, interval, p = '–', 'no example scores', '–'
    if each.comparison is not None:
      found = each.comparison.difference
      difference = of(found.value)
      interval = f'{of(found.low)} to {of(found.high)}'
      p = f'{each.comparison.p_value:.2g}'
    elif not each.examples:
      interval = 'no common example'
    rows.append((
        f'{fields} {each.metric}', of(each.first), of(each.second), difference,
        interval, p, f'{each.examples:,}', f'{each.only_first:,}',
        f'{each.only_second:,}'))
  wide = [max(len(row[i]) for row in rows) for i in range(len(head))]
  return [
      '  '.join(
          text.ljust(w) if i == 0 else text.rjust(w)
          for i, (text, w) in enumerate(zip(row, wide))).rstrip()
      for row in rows]


def _verdict(paired: list[Paired]) -> list[str]:
  tested = [p for p in paired if p.comparison is not None]
  if not tested:
    return ['No cell could be tested.']
  low = sum(p.comparison.p_value < _LEVEL for p in tested)
  return [
      f'{low} of {len(tested)} differences have p < {_LEVEL}; '
      f'{_LEVEL * len(tested):.1f} would by luck alone.']


if __name__ == '__main__':
  app.run(main)
