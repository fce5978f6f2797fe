"""Whether a config fits on machines that need not be here, and how fast it is.

  python -m experiments.plan --config=experiments/configs/flamingo.py:80b \
      --target=v5p:8x8x16 [--config.mesh.tensor=16] [--compile] [--json=FILE]

From shapes alone: parameters, bytes on each device, FLOPs of a step, how each
parameter is split, and where it doesn't fit, what to change. With --compile,
the real step is compiled for the target: memory from the compiler, collectives
with their bytes, and a bound on the time of a step. docs/scaling.md says how to
install the compilers, and what the bound leaves out.
"""

import json

from absl import app
from absl import flags
from ml_collections import config_flags

from experiments.plan import report
from experiments.plan import target as target_lib

CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
TARGET = flags.DEFINE_string(
    'target', 'here', 'What to plan for: v5p:8x8x16, v5e:16x16, h100:64, here.')
COMPILE = flags.DEFINE_bool('compile', False, 'Compile the step, too.')
JSON = flags.DEFINE_string('json', None, 'Write the numbers there, too.')


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  target_lib.prepare(TARGET.value)
  try:
    plan = report.make(CONFIG.value, TARGET.value, COMPILE.value)
  except (ValueError, RuntimeError) as error:
    raise app.UsageError(str(error)) from error
  print(report.text(plan))
  if JSON.value:
    with open(JSON.value, 'w', encoding='utf-8') as file:
      json.dump(plan, file, indent=2)


if __name__ == '__main__':
  app.run(main)
