"""Measures how fast it is, in ratios: against the machine, and OpenFlamingo.

  python -m experiments.bench [--only=step,peer] [--json=bench.json]
      [--markdown=bench.md] [--figure=bench.svg]

Files are written anew after every subject, so a run that is cut off leaves
what it has measured. A subject that fails says so in its place; the others go
on, and the run exits with 1. Times mean something on a machine that does
nothing else. docs/bench.md says what each subject measures.
"""

import json
import pathlib
import signal
import sys

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from experiments.bench import figure
from experiments.bench import subjects as subjects_lib
from experiments.bench import table
from experiments.bench.quickstart import Quickstart

_FILE = 'experiments/configs/quickstart.py'
CONFIG = config_flags.DEFINE_config_file('config', _FILE, lock_config=True)
ONLY = flags.DEFINE_list(
    'only', [], 'Subjects to measure; by default all: ' + '; '.join(
        f'{name} ({one.about}, about {one.cost} s)'
        for name, one in subjects_lib.SUBJECTS.items()))
JSON = flags.DEFINE_string('json', None, 'File for all numbers.')
MARKDOWN = flags.DEFINE_string('markdown', None, 'File for tables.')
FIGURE = flags.DEFINE_string('figure', None, 'File for an SVG.')


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  logging.set_verbosity(logging.WARNING)
  # By an exception, which ends the subject's process as well.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit('Terminated.'))
  try:
    chosen = subjects_lib.choose(ONLY.value)
  except ValueError as error:
    raise app.UsageError(str(error)) from None
  path = flags.FLAGS['config'].config_filename
  document = {'machine': subjects_lib.look_at_machine(), 'subjects': {}}
  print(
      f'Measuring {", ".join(chosen)}: about '
      f'{sum(one.cost for one in chosen.values()) / 60:.0f} minutes on two '
      'slow cores.', flush=True)
  for name, one in subjects_lib.measure(chosen, Quickstart(CONFIG.value, path)):
    document['subjects'][name] = one
    if 'error' in one:
      print(one['traceback'], file=sys.stderr)
    print('\n' + '\n'.join(table.lines(name, one)), flush=True)
    _write(document)
  failed = [
      name for name, one in document['subjects'].items() if 'error' in one]
  if failed:
    print(f'\nFailed: {", ".join(failed)}; see above.', file=sys.stderr)
    sys.exit(1)


def _write(document) -> None:
  for path, text in (
      (JSON.value, lambda: json.dumps(document, indent=2) + '\n'),
      (MARKDOWN.value, lambda: table.markdown(document)),
      (FIGURE.value, lambda: figure.svg(document))):
    if path is not None:
      file = pathlib.Path(path)
      partial = file.with_name(file.name + '.partial')
      partial.write_text(text(), encoding='utf-8')
      partial.replace(file)


if __name__ == '__main__':
  app.run(main)
