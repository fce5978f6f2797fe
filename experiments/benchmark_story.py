"""Tells an evaluation on benchmarks as a report."""

from collections.abc import Callable, Mapping, Sequence
import pathlib
import shlex
from typing import Any

from experiments import benchmark_config
from experiments.configs import benchmarks as default
from flamingo.eval.benchmarks import Benchmark
from flamingo.eval.harness import Cell, Scored
from flamingo.eval.harness import figures
from flamingo.eval.harness import findings
from flamingo.eval.harness.report import write_report
from flamingo.eval.harness.shown import most_telling, Shown

WRONG, RIGHT = 6, 3  # prompts of each benchmark that are shown


def tell(
    path: str | pathlib.Path,
    *,
    root: str | pathlib.Path,
    output: str | pathlib.Path,
    head: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    benchmarks: Mapping[str, Benchmark],
    scored: Sequence[Scored],
    records: Callable[[str], Mapping[str, Mapping[str, Any]]],
) -> None:
  """Writes the report.

  Args:
    path: of the HTML file.
    root: data root, for pictures and demonstrations.
    output: folder of the log.
    head: of results.json.
    rows: of results.json.
    benchmarks: that were asked, by name.
    scored: cells.
    records: from a cell's key to its log by id.
  """
  write_report(
      path, head=head, rows=rows,
      gallery=_gallery(root, benchmarks, scored, records),
      says=findings.sentences(findings.find(scored)),
      commands=commands(head['config'], root, output))


def _gallery(root, benchmarks, scored, records):
  gallery: dict[tuple[str, str], list[Shown]] = {}
  shown: dict[tuple[str, str], Scored] = {}
  for each in scored:
    cell = each.cell
    if cell.control or cell.baseline or not each.items:
      continue
    where = cell.task, cell.split
    if where not in shown or cell.shots > shown[where].cell.shots:
      shown[where] = each
  for (task, _), each in shown.items():
    if each.scores:  # else nobody knows what is right
      gallery[task, _about(each.cell)] = most_telling(
          root, benchmarks[task], each, records(each.cell.key), wrong=WRONG,
          right=RIGHT)
  return gallery


def _about(cell: Cell) -> str:
  if cell.texts:
    return f'{cell.texts} demonstrations without images'
  if not cell.shots:
    return 'no demonstrations'
  return (
      f'{cell.shots} demonstrations{" of each class" * cell.rounds}, '
      f'{figures.CHOICES[cell.choice]}, seed {cell.seed}')


def commands(
    config: Mapping[str, Any], root: str | pathlib.Path,
    output: str | pathlib.Path,
) -> list[tuple[str, str]]:
  """How to do it again, and what can be done with it."""
  usual = benchmark_config.plain(default.get_config())
  # Nested keys are no single value: they stand in the config below.
  flat = {
      k: v for k, v in config.items()
      if v != usual.get(k) and not isinstance(v, dict) and k != 'own'}
  changes = ' '.join(
      shlex.quote(f'--config.{key}={_value(value)}')
      for key, value in flat.items())
  nested = [
      key for key in ('own', 'rows', 'splits') if config[key] != usual[key]]
  again = 'Evaluate the same way; what is in the log is not asked again.'
  if nested:
    again += f' With a config that has {", ".join(nested)} as above.'
  run = 'python -m experiments.benchmark'
  place = f'--root={shlex.quote(str(root))} --output={shlex.quote(str(output))}'
  return [
      (f'{run} --config=experiments/configs/benchmarks.py --model=MODEL '
       f'{place} {changes}'.rstrip(), again),
      (f'{run} --rescore {place}',
       'Compute all numbers and this report from the log, without a model.'),
      (f'python -m experiments.compare {shlex.quote(str(output))} OTHER',
       'Compare with another evaluation.'),
  ]


def _value(value: object) -> str:
  if isinstance(value, list):
    return str(tuple(value))
  return str(value)
