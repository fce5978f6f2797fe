"""results.json: the numbers of a run, and all that they depend on."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from typing import Any

from flamingo.eval.harness.cell import Cell
from flamingo.eval.harness.score import interval, Scored, stderr

VERSION = 1
_PACKAGES = (
    'flamingo', 'jax', 'jaxlib', 'numpy', 'pycocoevalcap', 'tokenizers')


def rows_of(scored: Sequence[Scored]) -> list[dict[str, Any]]:
  """Rows of the table: each cell's, then the mean over the seeds of several.

  A mean has None as its seed. A cell has a row for each of its scores.
  """
  seeds: dict[Cell, list[Scored]] = {}
  for each in scored:
    seeds.setdefault(
        dataclasses.replace(each.cell, seed=0), []).append(each)
  rows = [row for each in scored for row in _rows([each], each.cell.seed)]
  for several in seeds.values():
    if len(several) > 1 and all(each.scores for each in several):
      rows += _rows(several, None)
  return rows


def _rows(several, seed):
  first = several[0]
  cell = first.cell
  fields = dataclasses.asdict(cell)
  common = {
      **{name: fields.pop(name) for name in ('task', 'split', 'shots')},
      'seed': seed, 'choice': fields.pop('choice'),
      'text_only': bool(cell.texts) and cell.baseline in (None, 'text_only'),
      'control': fields.pop('control'), 'template': fields.pop('template')}
  rest = {
      'n': len(first.items),
      'dropped': sum(each.dropped for each in several),
      'missing': fields.pop('missing'), 'baseline': fields.pop('baseline'),
      **{k: v for k, v in fields.items() if k not in ('seed', 'metric')}}
  if not first.scores:
    return [{
        **common, 'metric': cell.metric, 'value': None, 'stderr': None,
        'low': None, 'high': None, **rest, 'why': first.why}]
  rows = []
  for name, score in first.scores.items():
    found = interval(name, several)
    error = stderr(score) if len(several) == 1 else math.nan
    rows.append({
        **common, 'metric': name, 'value': _number(found.value),
        'stderr': _number(error), 'low': _number(found.low),
        'high': _number(found.high), **rest})
  return rows


def _number(value: float) -> float | None:
  return None if math.isnan(value) else float(value)


def versions() -> dict[str, str]:
  """Of Python and of the packages that numbers may depend on."""
  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def write(
    path: str | os.PathLike[str], head: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]] | None = None,
) -> None:
  """Writes a result file, whole or not at all.

  Args:
    path: the file.
    head: identity, config, versions and templates.
    rows: of the table; none yet where predictions are still to be made.
  """
  path = pathlib.Path(path)
  body = {'version': VERSION, **head}
  text = json.dumps(body, indent=1, sort_keys=True)
  if rows is not None:
    lines = ',\n'.join('  ' + json.dumps(row) for row in rows)
    text = f'{text[:-2]},\n "rows": [\n{lines}\n ]\n}}'
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  partial.write_text(text + '\n')
  partial.replace(path)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads what `write` wrote.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is of another version, or no such file.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(
        f'Expected {path}, which an evaluation writes; there is none. Give the '
        '--output of an evaluation.')
  try:
    found = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(
        f'{path}: expected a result file; came something that is no JSON '
        f'({error}). Evaluate again, or compute it from the log: --rescore.'
    ) from error
  version = found.get('version') if isinstance(found, dict) else None
  if version != VERSION:
    raise ValueError(
        f'{path}: expected a result file of version {VERSION}; came version '
        f'{version!r}. Read it with the release that wrote it, or evaluate '
        'again.')
  return found


def write_examples(
    path: str | os.PathLike[str], scored: Sequence[Scored]
) -> None:
  """Writes each example's main score, one line each, where it has one.

  Those of CIDEr depend on all examples together, so they are in no log.
  """
  path = pathlib.Path(path)
  partial = path.with_suffix('.partial')
  with partial.open('w') as file:
    for each in scored:
      name, score = next(iter(each.scores.items()), (None, None))
      if score is None or len(score.examples) != len(each.items):
        continue
      for item, value in zip(each.items, score.examples):
        file.write(json.dumps({
            'cell': each.cell.key, 'id': item.id, 'metric': name,
            'score': float(value)}) + '\n')
  partial.replace(path)

