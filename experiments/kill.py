"""Kills a training again and again, and compares it with one left in peace.

  python -m experiments.kill --kills=50
  python -m experiments.kill --kills=9 -- python -m experiments.train \
      --config=experiments/configs/quickstart.py --config.steps=30 \
      --config.checkpoint_every=5

A process that trains gets SIGKILL at a random moment (of its start, of its
training, or of a save) and is started again, until it is done. Then parameters,
optimizer, average and logged numbers must be those of a run that nobody killed,
bit for bit, and each start must have gone on from the newest checkpoint that
was whole. Kills go on, with new runs, until there were enough; a table says
where they struck. Exits with 1 if anything differs.

Cost: 10 to 25 s a kill on two busy cores, with the small model of
`experiments.tiny`, which is trained unless a command is given.
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging
import numpy as np

from flamingo.train.checkpoint import read_arrays
from flamingo.train.meter import TIMES
from flamingo.train.writer import read_metrics

KILLS = flags.DEFINE_integer('kills', 50, 'Number of kills.')
SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')
FOLDER = flags.DEFINE_string(
    'folder', None, 'Where to train; by default a temporary folder.')

TINY = (sys.executable, '-m', 'experiments.tiny')
# Moments: any of the training twice as often as saves or the start.
_AIMS, _CHANCES = ('training', 'save', 'start'), (0.5, 0.4, 0.1)
_TIMEOUT = 600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill:
  """Where a kill struck.

  Attributes:
    aim: what was aimed at.
    logged: last step in the metrics.
    torn: whether a line was cut.
    saving: name of the checkpoint that was being written, if any.
    whole: newest step that was saved, or 0.
  """

  aim: str
  logged: int
  torn: bool
  saving: str
  whole: int


class Victim:
  """A training in a folder, as processes that come and go.

  Args:
    command: trains when `--workdir=...` is added.
    workdir: the folder.
    compiled: folder of compiled programs, which all processes share.
  """

  def __init__(
      self, command: Sequence[str], workdir: pathlib.Path,
      compiled: pathlib.Path,
  ):
    self.workdir = workdir
    self._command = [*command, f'--workdir={workdir}']
    self._environment = os.environ | {
        'JAX_COMPILATION_CACHE_DIR': str(compiled),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    self._process = None

  @property
  def saves(self) -> pathlib.Path:
    return self.workdir / 'checkpoints'

  def start(self) -> None:
    """Starts a process; `wait_until` says when it trains."""
    self._log = (self.workdir.with_suffix('.log')).open('w+')
    self._process = subprocess.Popen(
        self._command, stdout=self._log, stderr=subprocess.STDOUT, text=True,
        env=self._environment)

  def wait_until(self, happened) -> bool:
    """Waits for something to happen; False if the process ends before."""
    until = time.monotonic() + _TIMEOUT
    while not happened():
      if self._process.poll() is not None:
        return False
      if time.monotonic() > until:
        raise TimeoutError(f'Waited {_TIMEOUT} s for {happened.__name__}.')
      time.sleep(0.002)
    return True

  def trains(self) -> bool:
    """Whether the process holds its folder."""
    lock = self.saves / 'lock'
    return lock.exists() and lock.read_text().startswith(
        f'process {self._process.pid} ')

  def being_saved(self) -> list[str]:
    """Names of checkpoints that are not whole yet."""
    if not self.saves.exists():
      return []
    return sorted(p.name for p in self.saves.iterdir() if 'tmp' in p.name)

  def saved(self) -> list[int]:
    """Steps of the checkpoints."""
    if not self.saves.exists():
      return []
    return sorted(int(p.name) for p in self.saves.iterdir() if p.name.isdigit())

  def kill(self) -> bool:
    """Kills it; False if it has ended before."""
    self._process.send_signal(signal.SIGKILL)
    return self._process.wait() == -signal.SIGKILL

  def said(self) -> str:
    self._log.seek(0)
    return self._log.read()

  def went_on_from(self) -> int | None:
    """Step that the process began at; None if it has not said."""
    said = re.search(r'(?:Resuming at|Beginning at|is done:) step (\d+)',
                     self.said())
    return int(said[1]) if said else None

  def finish(self) -> None:
    """Waits for its end.

    Raises:
      RuntimeError: it went wrong; with what it said.
    """
    if self._process.wait(_TIMEOUT):
      raise RuntimeError(f'{self.workdir} went wrong:\n{self.said()}')


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.ERROR)
  command = argv[1:] or TINY
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(FOLDER.value or temporary)
    kills, problems = run(command, folder, KILLS.value, SEED.value)
  print(table(kills))
  print(*problems, sep='\n')
  print(f'{len(kills)} kills, {sum(bool(k.saving) for k in kills)} of them '
        f'while saving, {sum(k.torn for k in kills)} in a line of metrics: '
        + ('all ended as the run in peace did, bit for bit.' if not problems
           else f'{len(problems)} differences.'))
  sys.exit(bool(problems))


def run(
    command: Sequence[str], folder: pathlib.Path, count: int, seed: int,
    *, rehearse: bool = True,
) -> tuple[list[Kill], list[str]]:
  """Kills so many times; where they struck, and what then went wrong.

  Args:
    command: trains when `--workdir=...` is added.
    folder: of all the runs.
    count: of kills.
    seed: of the moments.
    rehearse: run in peace twice, so that the time it takes, over which moments
      are spread, is that of a process that compiles nothing.
  """
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  peace = Victim(command, folder / 'peace', folder / 'compiled')
  for _ in range(2 if rehearse else 1):
    shutil.rmtree(peace.workdir, ignore_errors=True)
    began = time.monotonic()
    peace.start()
    peace.wait_until(peace.trains)
    started = time.monotonic()
    peace.finish()
  starting, training = started - began, time.monotonic() - started
  kills, problems, number = [], [], 0
  while len(kills) < count:
    victim = Victim(command, folder / f'victim{number}', folder / 'compiled')
    number += 1
    whole = 0
    done = False
    while not done:
      aim = choose_aim(rng) if len(kills) < count else None
      victim.start()
      done = aim is None or not _strike(victim, aim, starting, training, rng)
      if done:
        victim.finish()
      if victim.went_on_from() not in ({whole} if done else {whole, None}):
        problems.append(
            f'{victim.workdir.name} went on from {victim.went_on_from()}, not '
            f'from {whole}, which was whole.')
      if not done:
        kills.append(_look(victim, aim))
        whole = kills[-1].whole
        print(f'{len(kills)}: {kills[-1]}', file=sys.stderr, flush=True)
    problems += differences(peace.workdir, victim.workdir)
  return kills, problems


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """What two finished runs differ in: arrays, steps, logged numbers."""
  (step, arrays), (other_step, others) = (
      read_arrays(folder / 'checkpoints') for folder in (one, other))
  found = []
  if (step, arrays.keys()) != (other_step, others.keys()):
    return [f'{other.name} holds other arrays, or is at {other_step}.']
  for path in arrays:
    if arrays[path].tobytes() != others[path].tobytes():
      found.append(f'{other.name}: {path} differs.')
  lines, other_lines = (
      [{k: v for k, v in row.items() if k not in TIMES}
       for row in read_metrics(folder)] for folder in (one, other))
  if lines != other_lines:
    found.append(f'{other.name}: its metrics differ.')
  if any('damaged' in path.name for path in (other / 'checkpoints').iterdir()):
    found.append(f'{other.name}: a checkpoint was left damaged.')
  return found


def table(kills: Sequence[Kill]) -> str:
  """One line a kill."""
  head = f'{"aim":>9} {"logged":>7} {"torn":>5} {"whole":>6}  being saved'
  return '\n'.join([head] + [
      f'{kill.aim:>9} {kill.logged:>7} {"yes" if kill.torn else "":>5} '
      f'{kill.whole:>6}  {kill.saving}' for kill in kills])


def choose_aim(rng: np.random.Generator) -> str:
  """What the next kill is to interrupt."""
  return str(rng.choice(_AIMS, p=_CHANCES))


def _strike(victim, aim, starting, training, rng) -> bool:
  """Kills at a moment of a kind; False if the process has ended before."""
  if aim == 'start':
    time.sleep(rng.uniform(0, starting))
  elif not victim.wait_until(victim.trains):
    return False
  elif aim == 'training':
    time.sleep(rng.uniform(0, training))
  else:
    for _ in range(rng.integers(1, 4)):
      if not (victim.wait_until(lambda: not victim.being_saved())
              and victim.wait_until(victim.being_saved)):
        return False
    time.sleep(rng.exponential(0.1))
  return victim.kill()


def _look(victim, aim) -> Kill:
  rows, path = read_metrics(victim.workdir), victim.workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return Kill(
      aim=aim, logged=int(rows[-1]['step']) if rows else 0,
      torn=bool(text) and not text.endswith('\n'),
      saving=' '.join(victim.being_saved()),
      whole=max(victim.saved(), default=0))


if __name__ == '__main__':
  app.run(main)
