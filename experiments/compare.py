"""Compares two evaluations: where they first differ, then who is better.

  python -m experiments.compare A B [--root=DATA]

A and B are outputs of experiments.benchmark, or checkpoints that
experiments.evaluate has evaluated. Says the first difference in config, in
prompts, in data and model, then of each cell that both have both scores, the
difference with its interval of 95 % over the same examples and seeds, and how
often one as great would come by chance. With the data root, scores are computed
anew on the examples that both have: an area under a curve is of no single one.
"""

import argparse
import dataclasses
import pathlib
import sys

from experiments import benchmark_config
from flamingo.eval.benchmarks import Item
from flamingo.eval.figures import show
from flamingo.eval.harness import compare as compare_lib
from flamingo.eval.harness import differences
from flamingo.eval.harness.compare import Paired
from flamingo.eval.harness.differences import Difference
from flamingo.eval.harness.metrics import METRICS
from flamingo.eval.harness.runs import read_run, Run
from flamingo.train.checkpoint import read_meta

_LEVEL = 0.05
_LONG = 200  # characters of a value


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, prog='python -m experiments.compare',
      formatter_class=argparse.RawDescriptionHelpFormatter)
  for name in ('A', 'B'):
    parser.add_argument(name, help='folder of an evaluation')
  parser.add_argument(
      '--root', help='folder with the benchmarks, to compute scores anew')
  args = parser.parse_args(argv)
  try:
    print('\n'.join(lines(read_run(args.A), read_run(args.B), root=args.root)))
  except (FileNotFoundError, ValueError) as error:
    sys.exit(str(error))


def lines(
    first: Run, second: Run, *, root: str | pathlib.Path | None = None
) -> list[str]:
  """What is to be said about two runs.

  Args:
    first: called A.
    second: called B.
    root: data root, to compute scores anew.

  Raises:
    FileNotFoundError: annotations are missing below the root.
    ValueError: they have no cell in common.
  """
  first, second = with_config(first), with_config(second)
  pairs = compare_lib.common_cells(first, second)
  written = [f'A  {first.path}', f'B  {second.path}', '']
  for name, both, found in (
      ('config', (first.config, second.config),
       differences.config_difference(first, second)),
      ('templates', (first.templates, second.templates),
       differences.template_difference(first, second))):
    written += _said(name, all(both), found)
  found, differ, total = differences.prompt_difference(first, second, pairs)
  written += _said('prompts', total, found)
  if differ:
    written.append(f'{"":13s}  {differ} of {total} common prompts differ')
  for name, both, found in (
      ('data, model', (first.identity, second.identity),
       differences.identity_difference(first, second)),
      ('versions', (first.versions, second.versions),
       differences.version_difference(first, second))):
    written += _said(name, all(both), found)
  items = {} if root is None else _items(first, pairs, root)
  paired = [
      compare_lib.compare_cells(
          first, second, pair,
          items.get((pair.fields['task'], pair.fields['split'])))
      for pair in pairs]
  return written + [''] + _table(paired) + [''] + _verdict(paired, root)


def _items(run: Run, pairs, root) -> dict[tuple[str, str], dict[str, Item]]:
  """Examples of each task and split by id."""
  if 'rows' not in run.config:
    raise ValueError(
        f'{run.path} is a checkpoint that was evaluated, not a run on '
        'benchmarks: its log has all scores. Leave --root out.')
  rows = {
      row.name: row for row in benchmark_config.rows_of(run.config, root)}
  found = {}
  for pair in pairs:
    task, split = pair.fields['task'], pair.fields['split']
    if (task, split) not in found:
      found[task, split] = {
          item.id: item for item in rows[task].items(root, split)}
  return found


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


def _verdict(paired: list[Paired], root) -> list[str]:
  said = []
  tested = [p for p in paired if p.comparison is not None]
  if tested:
    low = sum(p.comparison.p_value < _LEVEL for p in tested)
    said.append(
        f'{low} of {len(tested)} differences have p < {_LEVEL}; '
        f'{_LEVEL * len(tested):.1f} would by luck alone.')
  else:
    said.append('No cell could be tested.')
  if root is None:
    said += sorted({
        f'{p.metric} is of all examples together'
        + (', and the runs have others.' if p.comparison else '.')
        + ' With --root=DATA it is computed on those that both have.'
        for p in paired if _is_whole(p)})
  return said


def _is_whole(paired: Paired) -> bool:
  """Whether files alone do not tell a cell's scores on common examples."""
  metric = METRICS.get(paired.pair.fields['metric'])
  if metric is None or metric.alone or not paired.examples:
    return False
  return paired.comparison is None or bool(
      paired.only_first or paired.only_second)


if __name__ == '__main__':
  main()
