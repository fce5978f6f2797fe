"""Plans side by side, as a table for docs/scaling.md.

  python -m experiments.plan.table plans/*.json

of what `python -m experiments.plan ... --json=plans/NAME.json` wrote.
"""

from collections.abc import Mapping
import json
import sys
from typing import Any

COLUMNS = (
    'parameters', 'target', 'data x fsdp x tensor', 'given', 'GB a device',
    'estimated', 'sent, GB: gathered, summed, other', 'step, s', 'MFU',
    'limit', 'compiled, s')


def row(plan: Mapping[str, Any]) -> tuple[str, ...]:
  """One plan's cells, in the order of `COLUMNS`."""
  compiled, bound = plan['compiled'], plan['bound']
  total = sum(plan['parameters'].values())
  estimate = sum(plan['bytes']['always'].values()) + sum(
      plan['bytes']['within'].values())
  memory, sent, seconds = 'not compiled', '-', '-'
  if compiled:
    memory = (
        f"{compiled['total'] / 1e9:.1f} of {plan['limit'] / 1e9:.1f}, "
        f"{'fits' if plan['fits'] else 'does not fit'}")
    seconds = f"{compiled['seconds']:.0f}"
  if compiled and compiled['collectives'] is not None:
    sums = dict(gathered=0.0, summed=0.0, other=0.0)
    for kind, of in compiled['collectives'].items():
      name = {
          'all-gather': 'gathered', 'all-reduce': 'summed',
          'reduce-scatter': 'summed'}.get(kind, 'other')
      sums[name] += of['sent'] / 1e9
    sent = ', '.join(f'{value:.1f}' for value in sums.values())
  parts = ''
  if plan['micro_batches'] > 1:
    parts = f", {plan['micro_batches']} parts"
  return (
      f'{total / 1e9:.1f}B', plan['target'],
      ' x '.join(str(size) for size in plan['mesh'].values()) + parts,
      plan['given'], memory, f'{estimate / 1e9:.1f}', sent,
      f"{bound['seconds']:.2f} to {bound['seconds_in_turn']:.2f}",
      f"{bound['mfu']:.0%} to {bound['mfu_in_turn']:.0%}", bound['limit'],
      seconds)


def table(plans: list[Mapping[str, Any]]) -> str:
  """A Markdown table of plans."""
  rows = [COLUMNS, ('---',) * len(COLUMNS), *map(row, plans)]
  return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in rows)


def main(paths: list[str]) -> None:
  plans = []
  for path in paths:
    with open(path, encoding='utf-8') as file:
      plans.append(json.load(file))
  print(table(plans))


if __name__ == '__main__':
  main(sys.argv[1:])
