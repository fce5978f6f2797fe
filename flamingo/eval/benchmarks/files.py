"""JSON, JSON lines and CSV, with errors that name the file and the place."""

from collections.abc import Iterator, Sequence
import csv
import io
import json
import pathlib
from typing import Any


class Entry(dict):
  """Fields of one entry of a file; asking for one it lacks says where it is."""

  __slots__ = ('_inside', '_place')

  def __init__(self, fields: Any, place: str, inside: 'Entry | str' = ''):
    """Names the fields of an object.

    Args:
      fields: the object.
      place: of the entry: a file and a line, or a number in a list.
      inside: the entry that the list is in, or the file.
    """
    # Put together only when asked for: there are millions of entries.
    self._place, self._inside = place, inside
    if not isinstance(fields, dict):
      raise ValueError(
          f'{self.where}: expected an object with named fields; came '
          f'{str(fields)[:60]!r}. Fetch the file again.')
    super().__init__(fields)

  @property
  def where(self) -> str:
    """The file and the place in it, for messages."""
    inside = self._inside
    if isinstance(inside, Entry):
      return f'{inside.where}, {self._place}'
    return f'{inside}{self._place}'

  def __missing__(self, name: str):
    raise ValueError(
        f'{self.where}: expected the field {name!r}; it has {sorted(self)}. '
        'Fetch the official file, or rename its fields.')

  def number(self, name: str) -> float:
    """The number in the field `name`, which tables hold as text."""
    try:
      return float(self[name])
    except (TypeError, ValueError) as error:
      if name not in self:
        raise
      raise ValueError(
          f'{self.where}: expected a number in {name!r}; came '
          f'{self[name]!r}. Fetch the file again.') from error

  def entries(self, name: str) -> Iterator['Entry']:
    """Entries of the list in the field `name`."""
    return entries(self[name], self, name)


def entries(
    values: Any, inside: Entry | str, name: str = ''
) -> Iterator[Entry]:
  """Entries of a list, numbered from 0.

  Args:
    values: the list.
    inside: the entry that it is in, or the file.
    name: of its field, if it is in an entry.

  Raises:
    ValueError: it is no list, or holds something else than objects.
  """
  if not isinstance(values, list):
    raise ValueError(
        f'{Entry({}, name, inside).where}: expected a list; came '
        f'{str(values)[:60]!r}. Fetch the official file.')
  for i, value in enumerate(values):
    yield Entry(value, f'{name}[{i}]', inside)


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
