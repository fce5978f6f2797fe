"""How long one waits from the command to the first step, cold and cached."""

from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from experiments.bench import clock
from experiments.bench.quickstart import Quickstart
from experiments.bench.result import Ratio, result

ABOUT = 'From the command to the first step, without and with a compile cache'
COST = 60


def run(quickstart: Quickstart) -> dict:
  """Starts the config's training twice; the pictures are encoded before."""
  quickstart.pictures  # noqa: B018, encodes them if they are not
  return measure([
      sys.executable, '-m', 'experiments.train', f'--config={quickstart.path}',
      f'--config.data.directory={quickstart.config.data.directory}',
      '--config.log_every=1'])


def measure(command: Sequence[str], *, limit: float = 300.0) -> dict:
  """Times a training from its start to its first line of metrics.

  Args:
    command: of a training that logs every step; gets `--workdir=...`.
    limit: seconds after which it is taken for dead.

  Raises:
    RuntimeError: it ended or took too long before its first step.
  """
  with tempfile.TemporaryDirectory() as directory:
    home = pathlib.Path(directory)
    seconds = {
        name: first_step(command, home / name, home / 'cache', limit)
        for name in ('cold', 'cached')}
    cache = sum(f.stat().st_size for f in (home / 'cache').rglob('*')
                if f.is_file()) if (home / 'cache').exists() else 0
  return result(
      seconds, [Ratio('cold over cached', 'cold', 'cached')],
      {'command': ' '.join(command[1:]), 'cache_megabytes': cache / 1e6,
       'threads': clock.cores()},
      ['The time ends with the first line of metrics.jsonl, when the first '
       'update is done. Pictures were encoded before.'])


def first_step(
    command: Sequence[str], workdir: pathlib.Path, cache: pathlib.Path,
    limit: float,
) -> float:
  """Seconds up to the first line of a training's metrics; then it is killed."""
  workdir.mkdir()
  metrics = workdir / 'metrics.jsonl'
  with (workdir / 'output').open('w+') as output:
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, f'--workdir={workdir}'], stdout=output,
        stderr=subprocess.STDOUT,
        env=os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)})
    try:
      while not (metrics.exists() and metrics.read_text().endswith('\n')):
        waited = time.perf_counter() - began
        if process.poll() is not None or waited > limit:
          output.seek(0)
          how = (
              f'after {waited:.0f} s it goes on'
              if process.returncode is None
              else f'it ended with {process.returncode}')
          raise RuntimeError(
              f'The training {" ".join(command)} came to no first step: {how}. '
              f'It said:\n{output.read()[-2000:]}')
        time.sleep(0.02)
      return time.perf_counter() - began
    finally:
      process.kill()
      process.wait()
