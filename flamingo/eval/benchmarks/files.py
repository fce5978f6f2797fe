"""JSON, JSON lines and CSV, with errors that name the file and the place."""

from collections.abc import Iterator, Sequence
import csv
import io
import json
import pathlib
from typing import Any


class Entry(dict):
  """Fields of one entry of a file; asking for one it lacks says where it is."""

  def __init__(self, fields: Any, where: str):
    if not isinstance(fields, dict):
      raise ValueError(
          f'{where}: expected an object with named fields; came '
          f'{str(fields)[:60]!r}. Fetch the file again.')
    super().__init__(fields)
    self.where = where

  def __missing__(self, name: str):
    raise ValueError(
        f'{self.where}: expected the field {name!r}; it has {sorted(self)}. '
        'Fetch the official file, or rename its fields.')

  def entries(self, name: str) -> Iterator['Entry']:
    """Entries of the list in the field `name`."""
    return entries(self[name], f'{self.where}, {name}')


def entries(values: Any, where: str) -> Iterator[Entry]:
  """Entries of a list, numbered from 0.

  Raises:
    ValueError: it is no list, or holds something else than objects.
  """
  if not isinstance(values, list):
    raise ValueError(
        f'{where}: expected a list; came {str(values)[:60]!r}. Fetch the '
        'official file.')
  for i, value in enumerate(values):
    yield Entry(value, f'{where}[{i}]')


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file.

  Raises:
    ValueError: malformed; names the file and the line.
  """
  try:
    return json.loads(path.read_text(encoding='utf-8-sig'))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(_malformed(path, error)) from error


def read_object(path: pathlib.Path) -> Entry:
  """Reads a JSON file that holds one object."""
  return Entry(read_json(path), str(path))


def read_list(path: pathlib.Path) -> Iterator[Entry]:
  """Reads a JSON file that holds a list of objects."""
  return entries(read_json(path), str(path))


def read_lines(path: pathlib.Path) -> Iterator[Entry]:
  """Reads a file with a JSON object on each line; empty lines are passed over.

  Raises:
    ValueError: malformed; names the file and the line.
  """
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    if not line.strip():
      continue
    try:
      fields = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
      raise ValueError(_malformed(path, error, number)) from error
    yield Entry(fields, f'{path}, line {number}')


def read_csv(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Entry]:
  """Reads a CSV file with a header.

  Args:
    path: of the file.
    columns: that must be there; there may be others.

  Raises:
    ValueError: a column is missing, or a line has too few values.
  """
  try:
    text = path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
        f'{path}: expected a table in UTF-8; came something else ({error}). '
        'Fetch the file again.') from error
  rows = csv.DictReader(io.StringIO(text, newline=''))
  missing = [c for c in columns if c not in (rows.fieldnames or ())]
  if missing:
    raise ValueError(
        f'{path}, line 1: expected the columns {list(columns)}; {missing} are '
        f'not among {rows.fieldnames}. Fetch the official file.')
  for row in rows:
    where = f'{path}, line {rows.line_num}'
    if any(row[column] is None for column in columns):
      raise ValueError(
          f'{where}: expected {len(rows.fieldnames)} values; came fewer. Fetch '
          'the file again.')
    yield Entry(row, where)


def folder_of(path: str) -> str:
  """The path up to the first part that has a brace in it.

  'coco/val2014/COCO_val2014_{:012d}.jpg' gives 'coco/val2014'; a path without
  braces is given back.
  """
  parts = []
  for part in path.split('/'):
    if '{' in part:
      break
    parts.append(part)
  return '/'.join(parts)


def _malformed(path, error, line=None):
  line = line or getattr(error, 'lineno', None)
  place = f', line {line}' if line else ''
  return (
      f'{path}{place}: expected JSON in UTF-8; came something else ({error}). '
      'Fetch the file again: it may be cut short, or a page that asks to log '
      'in.')
