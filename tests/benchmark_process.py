"""One process of an evaluation of birds, for tests that start and kill some.

  python benchmark_process.py FOLDER OUTPUT PROCESS PROCESSES STOP

FOLDER holds what `write_job` wrote. After STOP pieces the process says so and
waits to be killed; 0 lets it go on to its end.
"""

import json
import os
import pathlib
import pickle
import subprocess
import sys
import time

import benchmark_models as models
from experiments import benchmark
from experiments import benchmark_config as config_lib
from flamingo import hardware
from flamingo.eval.evaluate import Log
from flamingo.eval.harness import Share
import jax

WAITING = 'waiting to be killed'


def write_job(folder: pathlib.Path, loaded) -> None:
  """Writes a tiny model and the birds, to be ranked and to be named."""
  models.birds(folder, ranked=True)
  params = jax.device_get(loaded.params)
  (folder / 'model.pkl').write_bytes(pickle.dumps((loaded.model, params)))


def start(
    folder: pathlib.Path, output: pathlib.Path, *, process: int = 0,
    processes: int = 1, stop: int = 0, devices: int = 1, **changes,
) -> subprocess.Popen:
  """Starts a process whose config has these changes."""
  output.mkdir(parents=True, exist_ok=True)
  config = models.config_of(output / 'latents', **changes)
  birds = config['own'][0]
  config.update(
      own=(birds, dict(birds, name='named', open_ended=True)),
      tasks=('birds', 'named'))
  (output / 'config.json').write_text(json.dumps(config))
  env = os.environ | {
      'JAX_PLATFORMS': 'cpu',
      # What one has compiled the next need not.
      'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} '
                   f'--xla_force_host_platform_device_count={devices}'}
  return subprocess.Popen(
      [sys.executable, __file__, folder, output, str(process), str(processes),
       str(stop)],
      env=env, cwd=pathlib.Path(__file__).parent.parent,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main(folder, output, process, processes, stop):
  hardware.spare_threads()
  folder, output = pathlib.Path(folder), pathlib.Path(output)
  model, params = pickle.loads((folder / 'model.pkl').read_bytes())
  config = json.loads((output / 'config.json').read_text())
  if int(stop):
    _stop_after(int(stop))
  benchmark.evaluate(
      config, models.loaded(model, params), folder, output,
      share=Share(int(process), int(processes)),
      mesh=config_lib.mesh_of(config))


def _stop_after(pieces: int) -> None:
  add, done = Log.add, []

  def counted(self, records):
    if len(done) == pieces:
      print(WAITING, flush=True)
      time.sleep(600)
    add(self, records)
    done.append(1)

  Log.add = counted


if __name__ == '__main__':
  main(*sys.argv[1:])
