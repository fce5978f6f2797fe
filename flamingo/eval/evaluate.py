"""Evaluation as a list of cells, each logged example by example.

A cell is one number of the result table. Its examples are predicted in chunks,
and a chunk is logged when it is done; a killed evaluation repeats at most one
chunk of one cell, with the same batches, so its results are the same bit for
bit. Metrics are computed from the log, without a model.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import zlib

import numpy as np
import tqdm

from flamingo.data.encode import Example
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval import metrics
from flamingo.eval.decode import Predictor
from flamingo.eval.fewshot import candidate_tokens, to_prompt, Trial

Row = dict[str, object]

# Controls that no model is asked for.
BASELINES = ('nearest_centroid', 'chance')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """One number of the result table: fields of its row, and how to get it.

  Fields that do not apply are None.

  Attributes:
    task: name of the task.
    split: of the data.
    ways: classes to choose from.
    shots: demonstrations a class.
    style: 'same' or 'colour_to_line'.
    control: what was changed, see `fewshot.CONTROLS`; or 'nearest_centroid' or
      'chance', which no model is asked for.
    names: kind of made-up names.
    metric: 'accuracy' (ranking), 'generation_accuracy' or 'loss'.
    seed: of the trials.
    beams: of generation.
    trials: draws the trials.
  """

  task: str
  split: str
  ways: int | None = None
  shots: int | None = None
  style: str | None = None
  control: str | None = None
  names: str | None = None
  metric: str = 'accuracy'
  seed: int = 0
  beams: int = 1
  trials: Callable[[], list[Trial]] = dataclasses.field(compare=False)

  def fields(self) -> dict[str, object]:
    """What names the cell."""
    return {
        f.name: getattr(self, f.name) for f in dataclasses.fields(self)
        if f.compare and f.name != 'beams'} | (
            {'beams': self.beams} if self.beams > 1 else {})

  @property
  def key(self) -> str:
    """The fields as one line of text."""
    return json.dumps(self.fields(), sort_keys=True)


class Log:
  """Predictions, one JSON line an example, in a file that only grows.

  Lines of one chunk are written at once, the last of them marked as its end; on
  opening, a chunk that has no end is dropped.

  Args:
    path: the file.
    identity: what the predictions depend on besides the cells: the checkpoint
      and the data. A log of another identity is refused.
  """

  def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, str]):
    self._path = pathlib.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._records: dict[str, dict[int, dict]] = {}
    head = json.dumps({'identity': dict(identity)}, sort_keys=True)
    lines = self._path.read_text().splitlines() if self._path.exists() else []
    if len(lines) == 1 and head.startswith(lines[0]):
      lines = []  # cut within its first line
    if lines and lines[0] != head:
      raise ValueError(
          f'{self._path} holds predictions of something else:\n  {lines[0]}\n'
          f'than what is evaluated now:\n  {head}\nMove it away, or give '
          'another --output.')
    whole = [head, *_finished(lines[1:])]
    partial = self._path.with_suffix('.partial')
    partial.write_text(''.join(line + '\n' for line in whole))
    partial.replace(self._path)
    for line in whole[1:]:
      self._keep(json.loads(line))
    self._file = self._path.open('a')

  def _keep(self, record: dict) -> None:
    self._records.setdefault(record['cell'], {})[record['id']] = record

  def of(self, cell: str) -> dict[int, dict]:
    """Records of a cell by example id."""
    return self._records.get(cell, {})

  def add(self, records: Sequence[dict]) -> None:
    """Writes a chunk."""
    lines = []
    for i, record in enumerate(records):
      record = record | {'end': i == len(records) - 1}
      lines.append(json.dumps(record) + '\n')
      self._keep(record)
    self._file.write(''.join(lines))
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self) -> None:
    self._file.close()


def _finished(lines: Sequence[str]) -> list[str]:
  """Lines of chunks that have their end."""
  whole, pending = [], []
  for line in lines:
    try:
      record = json.loads(line)
    except json.JSONDecodeError:
      break
    pending.append(line)
    if record['end']:
      whole += pending
      pending = []
  return whole


def read_log(
    path: str | os.PathLike[str]
) -> tuple[dict[str, str], dict[str, dict]]:
  """The identity of a log, and its records by cell and id; it stays as it is.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is no log.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(
        f'Expected the log {path}, which an evaluation writes; there is none.')
  lines = path.read_text().splitlines()
  try:
    identity = json.loads(lines[0])['identity']
  except (IndexError, KeyError, TypeError, json.JSONDecodeError) as error:
    raise ValueError(
        f'{path}: expected a log that begins with what was evaluated; came '
        f'{lines[:1]}. Evaluate again, into another folder.') from error
  records: dict[str, dict] = {}
  for line in _finished(lines[1:]):
    record = json.loads(line)
    records.setdefault(record['cell'], {})[record['id']] = record
  return identity, records


def evaluate(
    cells: Sequence[Cell],
    predictor: Predictor,
    tokenizer: Tokenizer,
    features: Callable[[np.ndarray], np.ndarray],
    log: Log,
    *,
    chunk: int = 400,
    max_tokens: int = 8,
) -> list[Row]:
  """Predicts what the log lacks, and returns the row of each cell.

  Cells whose prompts begin alike (more shots, a blank query) are predicted
  together, so that what they share is read once.

  Args:
    cells: what to measure.
    predictor: the model.
    tokenizer: its tokenizer.
    features: rows of the feature store to features, for nearest centroid.
    log: predictions so far.
    chunk: examples of a family of cells predicted and logged together.
    max_tokens: most tokens of a generated answer.
  """
  asked = [cell for cell in cells if cell.control not in BASELINES]
  families: dict[tuple, list[Cell]] = {}
  for cell in asked:
    families.setdefault(_family(cell), []).append(cell)
  with tqdm.tqdm(total=len(asked), desc='evaluate', unit='cell') as bar:
    for family in families.values():
      first = family[0]
      bar.set_postfix_str(
          f'{first.task} {first.ways or ""} {first.control or first.metric}')
      _predict_family(
          family, predictor, tokenizer, log, chunk=chunk, max_tokens=max_tokens)
      bar.update(len(family))
  rows = []
  for cell in cells:
    trials = cell.trials()
    if cell.control == 'chance':
      rows.append(_chance(cell, trials))
    elif cell.control == 'nearest_centroid':
      correct = metrics.nearest_centroid(trials, features)
      rows.append(_row(cell, *metrics.mean_and_stderr(correct), len(correct)))
    else:
      done = log.of(cell.key)
      rows.append(score(cell, [done[t.id] for t in trials]))
  return rows


def _family(cell: Cell) -> tuple:
  """Cells of one family have prompts that begin alike."""
  changed = cell.control if cell.control != 'blank_query' else None
  return (cell.task, cell.split, cell.ways, cell.style, cell.names, cell.seed,
          changed, cell.metric, cell.beams)


def _predict_family(cells, predictor, tokenizer, log, *, chunk, max_tokens):
  trials = {cell.key: cell.trials() for cell in cells}
  most = max(map(len, trials.values()))
  for start in range(0, most, chunk):
    missing = [
        (cell, some) for cell in cells
        if (some := trials[cell.key][start : start + chunk])
        and not all(t.id in log.of(cell.key) for t in some)]
    if missing:
      predict = _generate if cells[0].metric == 'generation_accuracy' else _rank
      log.add(predict(missing, predictor, tokenizer, max_tokens))


def score(cell: Cell, records: Sequence[dict]) -> Row:
  """The row of a cell from its log."""
  weights = None
  if cell.metric == 'accuracy':
    values = [metrics.is_best(r['scores'], r['answer']) for r in records]
  elif cell.metric == 'generation_accuracy':
    values = [float(r['text'] == r['answer']) for r in records]
  elif cell.metric == 'loss':
    values = [-r['scores'][0] / r['tokens'] for r in records]
    weights = [r['tokens'] for r in records]
  else:
    raise ValueError(
        f'Unknown metric {cell.metric!r}; there are accuracy, '
        'generation_accuracy and loss.')
  return _row(cell, *metrics.mean_and_stderr(values, weights), len(values))


def _rank(missing, predictor, tokenizer, max_tokens) -> list[dict]:
  del max_tokens
  groups: dict[int, list] = {}  # what shares a trie, by example
  for cell, trials in missing:
    for trial in trials:
      answers = candidate_tokens(
          trial.candidates, tokenizer, close=cell.metric == 'loss')
      groups.setdefault(trial.id, []).append(
          (cell, trial, to_prompt(trial, tokenizer), answers))
  scores = predictor.rank(
      [[(prompt, answers) for _, _, prompt, answers in group]
       for group in groups.values()])
  return [
      _common(cell, trial, prompt) | {
          'scores': [float(x) for x in s],
          'answer': trial.candidates.index(trial.query.answer),
          'tokens': len(answers[0])}
      for group, group_scores in zip(groups.values(), scores)
      for (cell, trial, prompt, answers), s in zip(group, group_scores)]


def _generate(missing, predictor, tokenizer, max_tokens) -> list[dict]:
  records = []
  for cell, trials in missing:
    prompts = [to_prompt(trial, tokenizer) for trial in trials]
    said = predictor.generate(
        prompts, max_tokens=max_tokens, stop=tokenizer.stop_id,
        beams=cell.beams)
    records += [
        _common(cell, trial, prompt) | {
            'text': tokenizer.decode(g.tokens, follows='text').strip(),
            'answer': trial.query.answer}
        for trial, prompt, g in zip(trials, prompts, said)]
  return records


def _common(cell: Cell, trial: Trial, prompt: Example) -> dict:
  return {
      'cell': cell.key, 'id': trial.id,
      'prompt': zlib.crc32(prompt.tokens.tobytes()),
      'images': [shot.image for shot in (*trial.support, trial.query)]}


def _chance(cell: Cell, trials: Sequence[Trial]) -> Row:
  """Uniform guessing, or the commonest answer if candidates never change.

  The commonest answer is counted on the trials themselves, which flatters it.
  """
  if len({t.candidates for t in trials}) == 1:
    answers = [t.query.answer for t in trials]
    share = max(answers.count(a) for a in set(answers)) / len(answers)
    return _row(cell, share, None, len(trials))
  return _row(cell, 1 / cell.ways, None, len(trials))


def _row(cell, value, stderr, n) -> Row:
  return cell.fields() | {'value': value, 'stderr': stderr, 'n': n}
