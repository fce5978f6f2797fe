"""The two sides of a sweep, and how the time of a whole one follows from parts.

A whole sweep takes hours on the other side, so some queries of each cell are
timed. Theirs costs the same for each query. Ours does not: an image is encoded
and resampled once however often it is shown, and a shape compiled once. These
are timed apart, and their numbers in the whole sweep counted.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import tempfile

import numpy as np

from experiments.bench import clock
from experiments.bench import peer_needs
from experiments.bench.result import Ratio, result
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.decode import Predictor
from flamingo.eval.evaluate import BASELINES, Cell, evaluate, Log
from flamingo.eval.fewshot import candidate_tokens, to_prompt, Trial

_AT_ONCE = 32  # pictures encoded, as the feature cache does


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """What is asked.

  Attributes:
    cells: of a seed, with so many queries each; baselines are left out.
    queries: of a cell in the whole sweep.
    seeds: of the whole sweep.
    ours: queries of a cell that ours is timed on.
    theirs: likewise; OpenFlamingo's batch is of 8.
  """

  cells: Callable[[int, int], Sequence[Cell]]
  queries: int
  seeds: int = 3
  ours: int = 32
  theirs: int = 8

  def asked(self, seed: int, n: int) -> list[Cell]:
    """Cells that a model is asked."""
    return [c for c in self.cells(seed, n) if c.control not in BASELINES]

  def shown(self) -> set[int]:
    """Rows of all pictures in the whole sweep."""
    rows = set()
    for seed in range(self.seeds):
      cells = self.asked(seed, self.queries)
      most = max(cell.shots for cell in cells)  # these show what fewer show
      for cell in cells:
        if cell.shots == most:
          rows |= _rows(cell.trials())
    return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ours:
  """Our side: a predictor, and how pictures become features."""

  predictor: Predictor
  tokenizer: Tokenizer
  features: Callable[[np.ndarray], np.ndarray]
  encode: Callable[[np.ndarray], object]
  pixels: Callable[[int], np.ndarray]

  def time_pictures(self, rows: Sequence[int]) -> tuple[float, float]:
    """Seconds a picture, to encode and to resample it."""
    rows = list(rows)
    some = (rows * _AT_ONCE)[:_AT_ONCE]
    pixels = np.stack([self.pixels(row) for row in some])
    encode = clock.fastest(self.encode, pixels, repeats=3) / _AT_ONCE
    self.predictor.latents(rows[:1])  # compiles
    seconds = clock.once(lambda: self.predictor.latents(rows))
    # Batches of 64 are filled up: the last one is as dear as a full one.
    batches = -(-(len(rows) - 1) // 64)
    return encode, seconds / max(64 * batches, 1)

  def evaluate(self, cells: Sequence[Cell]) -> None:
    """The evaluation as it is, with its log."""
    with tempfile.TemporaryDirectory() as directory:
      log = Log(pathlib.Path(directory) / 'predictions.jsonl', {})
      evaluate(cells, self.predictor, self.tokenizer, self.features, log)
      log.close()


class Peer:
  """OpenFlamingo's side.

  Args:
    of: the module experiments.bench.openflamingo.
    make: builds the model, in float32, with its encoder an `of.Timed`.
    tokenizer: of the prompts.
    pixels: of a picture: uint8 [H W 3].
    precisions: that are tried.
  """

  def __init__(self, of, make, tokenizer: Tokenizer, pixels, precisions=None):
    self.of, self._tokenizer, self._pixels = of, tokenizer, pixels
    self._make, self.model = make, make()
    self._kept: dict[int, np.ndarray] = {}
    self.precision = 'fp32'
    self.precisions = precisions or peer_needs.PRECISIONS

  def load(self, cells: Sequence[Cell], n: int) -> None:
    """Draws the pictures of some queries: that is not timed."""
    for cell in cells:
      for row in _rows(cell.trials()[:n]) - self._kept.keys():
        self._kept[row] = self._pixels(row).transpose(2, 0, 1)

  def choose(self, cell: Cell, n: int) -> dict[str, float]:
    """Takes the fastest precision; returns seconds of one batch by each."""
    times = {}
    for precision in self.precisions:
      self.precision = precision
      if precision == 'bf16':
        self.model.to(self.of.torch.bfloat16)
      times[precision] = clock.medians(
          {'it': lambda: self.evaluate([cell], n)}, rounds=1)['it']
    self.precision = min(times, key=times.get)
    if self.precision != 'bf16' and 'bf16' in times:
      self.model = self._make()  # what was rounded stays so
    return times

  def evaluate(self, cells: Sequence[Cell], n: int) -> list[np.ndarray]:
    """The first n queries of each cell, as one batch of its evaluation."""
    return [self.rank(cell.trials()[:n]) for cell in cells]

  def rank(self, trials: Sequence[Trial]) -> np.ndarray:
    """Mean log-likelihood a token of each candidate [B K]."""
    prompts = [to_prompt(trial, self._tokenizer) for trial in trials]
    most = max(len(prompt.images) for prompt in prompts)
    first = self._kept[int(prompts[0].images[0])]
    pictures = np.zeros((len(prompts), most, 1, *first.shape), first.dtype)
    for row, prompt in enumerate(prompts):
      for k, image in enumerate(prompt.images):
        pictures[row, k, 0] = self._kept[int(image)]
    return self.of.rank(
        self.model, [prompt.tokens for prompt in prompts],
        self.of.torch.from_numpy(pictures),
        [candidate_tokens(t.candidates, self._tokenizer) for t in trials],
        pad_id=self._tokenizer.pad_id, precision=self.precision)

  @property
  def encoding(self) -> float:
    """Seconds that its encoder has taken so far."""
    return self.model.vision_encoder.seconds


def time_sweep(
    sweep: Sweep, ours: Ours, peer: Peer, *, rounds: int = 2,
) -> dict:
  """Times both sides in turns on some queries of one seed, then scales."""
  mine, theirs = sweep.asked(0, sweep.ours), sweep.asked(0, sweep.theirs)
  peer.load(theirs, sweep.theirs)
  with peer.of.threads(clock.cores()):
    difference = _difference(ours, peer, theirs[0])
    tried = peer.choose(theirs[len(theirs) // 2], sweep.theirs)
    rows = sorted(set().union(*(_rows(cell.trials()) for cell in mine)))
    encode, resample = ours.time_pictures(rows)
    first = clock.once(lambda: ours.evaluate(mine))
    encoding = peer.encoding
    times = clock.medians(
        {'ours': lambda: ours.evaluate(mine),
         'OpenFlamingo': lambda: peer.evaluate(theirs, sweep.theirs)},
        rounds=rounds, warm=0)
    encoding = (peer.encoding - encoding) / rounds
  shown = len(sweep.shown())
  repeat = lambda n: sweep.seeds * sweep.queries / n
  seconds = {
      'ours, read': times['ours'],
      'ours, compile': max(first - times['ours'], 0),
      'ours, encode a picture': encode, 'ours, resample a picture': resample,
      'OpenFlamingo': times['OpenFlamingo'],
      'OpenFlamingo, of that encoding': encoding}
  seconds |= {
      f'OpenFlamingo, {kind}, first look': t for kind, t in tried.items()}
  given = (seconds['ours, compile'] + shown * resample
           + times['ours'] * repeat(sweep.ours))
  seconds |= {
      'ours, whole sweep, features given': given,
      'ours, whole sweep': given + shown * encode,
      'OpenFlamingo, whole sweep': times['OpenFlamingo'] * repeat(sweep.theirs),
      'OpenFlamingo, whole sweep, features given':
          (times['OpenFlamingo'] - encoding) * repeat(sweep.theirs)}
  return result(
      seconds,
      [Ratio('whole sweep', 'OpenFlamingo, whole sweep', 'ours, whole sweep',
             10.0),
       Ratio('whole sweep, features given',
             'OpenFlamingo, whole sweep, features given',
             'ours, whole sweep, features given')],
      {'cells': len(mine), 'seeds': sweep.seeds, 'queries': sweep.queries,
       'queries timed': {'ours': sweep.ours, 'OpenFlamingo': sweep.theirs},
       'pictures in the whole sweep': shown, 'precision': peer.precision,
       'largest difference of a log-likelihood': difference,
       'threads': clock.cores()},
      [f'Timed on the first {sweep.ours} and {sweep.theirs} queries of each '
       f'cell of one seed; the whole sweep is {sweep.queries} of each and '
       f'{sweep.seeds} seeds. Ours adds compiling, and encoding and resampling '
       'each of its pictures once.',
       'OpenFlamingo gets its pictures drawn and in memory.'])


def _difference(ours: Ours, peer: Peer, cell: Cell) -> float:
  """How far apart the two sides' mean log-likelihoods are, in float32 there."""
  trials = cell.trials()[:2]
  came = ours.predictor.rank([[(
      to_prompt(trial, ours.tokenizer),
      candidate_tokens(trial.candidates, ours.tokenizer))] for trial in trials])
  lengths = [
      [len(ids) for ids in candidate_tokens(t.candidates, ours.tokenizer)]
      for t in trials]
  mean = np.stack([c[0] for c in came]) / np.array(lengths)
  return float(np.abs(mean - peer.rank(trials)).max())


def _rows(trials: Sequence[Trial]) -> set[int]:
  return {
      shot.image for trial in trials for shot in (*trial.support, trial.query)}
