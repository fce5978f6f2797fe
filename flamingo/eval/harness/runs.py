"""What an evaluation has left in its folder, read without a model or data."""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

from flamingo.eval import evaluate
from flamingo.eval.harness import results
from flamingo.eval.harness.cell import Cell

_LOG = 'predictions.jsonl'
_RESULTS = 'results.json'
_EXAMPLES = 'examples.jsonl'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """An evaluation, as its files have it.

  Attributes:
    path: its folder.
    config: what was asked; empty where it is not in the folder.
    templates: a prompt of each task, as people read it.
    identity: fingerprints of model and data.
    versions: of Python and of packages.
    cells: fields of each cell by its key, in the order of the log.
    records: lines of the log by key and by example.
    scores: of single examples by key and by example; none of a cell whose
      metric has none.
    values: each cell's main metric and its value by key, where results have it.
  """

  path: pathlib.Path
  config: Mapping[str, Any]
  templates: Mapping[str, str]
  identity: Mapping[str, str]
  versions: Mapping[str, str]
  cells: Mapping[str, Mapping[str, Any]]
  records: Mapping[str, Mapping[Any, Mapping[str, Any]]]
  scores: Mapping[str, Mapping[Any, float]]
  values: Mapping[str, tuple[str, float | None]]


def read_run(path: str | os.PathLike[str]) -> Run:
  """Reads the folder of `experiments.benchmark` or `experiments.evaluate`.

  Raises:
    FileNotFoundError: a file is missing; says which and how to get it.
    ValueError: the results are of another version, or no results.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise FileNotFoundError(
        f'Expected the folder of an evaluation; {path} is none. Give what was '
        'its --output, or the --checkpoint of experiments.evaluate.')
  if _begins_a_list(path / _RESULTS):
    return _of_a_checkpoint(path)
  head = results.read(path / _RESULTS)
  logged, records = evaluate.read_log(path / _LOG)
  if not logged.items() <= head['identity'].items():
    raise ValueError(
        f'{path / _LOG} holds predictions of {logged}, and {_RESULTS} tells of '
        f'{head["identity"]}. Compute it from the log: --rescore.')
  cells = {key: dataclasses.asdict(Cell.parse(key)) for key in records}
  return Run(
      path=path, config=head['config'], templates=head['templates'],
      identity=head['identity'], versions=head['versions'], cells=cells,
      records=records, scores=_scores(path / _EXAMPLES),
      values={key: _value(fields, head['rows'])
              for key, fields in cells.items()})


def _begins_a_list(path: pathlib.Path) -> bool:
  """Whether results are rows and nothing else, those of a checkpoint."""
  if not path.exists():
    return False
  with path.open() as file:
    return file.read(1) == '['


def _scores(path: pathlib.Path) -> dict[str, dict[Any, float]]:
  if not path.exists():
    raise FileNotFoundError(
        f'Expected {path}, the scores of single examples; there is none. '
        'Compute it from the log: --rescore.')
  scores: dict[str, dict[Any, float]] = {}
  for line in path.read_text().splitlines():
    record = json.loads(line)
    scores.setdefault(record['cell'], {})[record['id']] = record['score']
  return scores


def _value(fields, rows) -> tuple[str, float | None]:
  """The main metric of a cell comes first among its rows."""
  own = {k: v for k, v in fields.items() if k != 'metric'}
  for row in rows:
    if own.items() <= row.items():
      return row['metric'], row['value']
  return fields['metric'], None


def _of_a_checkpoint(path: pathlib.Path) -> Run:
  logs = sorted(path.glob(f'*/{_LOG}'))
  if len(logs) != 1:
    raise FileNotFoundError(
        f'Expected one log below {path}, as evaluation/{_LOG}; there are '
        f'{len(logs)}. Evaluate the checkpoint with one config.')
  identity, records = evaluate.read_log(logs[0])
  cells = {key: json.loads(key) for key in records}
  values = {}
  for row in json.loads((path / _RESULTS).read_text()):
    for key, fields in cells.items():
      if fields.items() <= row.items():
        values.setdefault(key, (fields['metric'], row['value']))
  return Run(
      path=path, config={}, templates={}, identity=identity, versions={},
      cells=cells, records=records, values=values,
      scores={
          key: {name: _score(cells[key], record)
                for name, record in several.items()}
          for key, several in records.items()})


def _score(fields, record) -> float:
  """The score of one example: that of a cell with no other."""
  cell = evaluate.Cell(
      task=fields['task'], split=fields['split'], metric=fields['metric'],
      trials=list)
  return float(evaluate.score(cell, [record])['value'])
