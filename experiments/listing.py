"""Says which benchmarks are below a data root, and how to get the others."""

from collections.abc import Mapping
import pathlib
import textwrap

from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import Benchmark

_MISSING_SHOWN = 3


def lines(
    root: str | pathlib.Path, rows: Mapping[str, Benchmark] | None = None
) -> list[str]:
  """What `--list` prints.

  Args:
    root: data root.
    rows: benchmarks by name; all of the table by default.
  """
  found = [f'Benchmarks below {pathlib.Path(root).absolute()}:', '']
  there, absent = [], []
  for name, presence in benchmarks.present(root, rows).items():
    if not presence.missing:
      there.append(f'  present  {name}')
      continue
    state = 'partly' if presence.found else 'missing'
    shown = list(presence.missing[:_MISSING_SHOWN])
    if len(presence.missing) > _MISSING_SHOWN:
      shown.append(f'and {len(presence.missing) - _MISSING_SHOWN} more')
    absent += [
        f'  {state:7s}  {name}',
        *textwrap.wrap(
            f'needs {", ".join(shown)}', 78, initial_indent=' ' * 11,
            subsequent_indent=' ' * 11, break_long_words=False),
        *textwrap.wrap(
            presence.source, 78, initial_indent=' ' * 11,
            subsequent_indent=' ' * 11, break_long_words=False,
            break_on_hyphens=False)]
  return found + there + absent
