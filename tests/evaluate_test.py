"""An evaluation may be killed at any moment, and its numbers are the same."""

import dataclasses
import functools
import json
import zlib

from flamingo.data.tokenizer import Tokenizer
from flamingo.eval import metrics
from flamingo.eval.beam import Generation
from flamingo.eval.evaluate import Cell, evaluate, Log, score
from flamingo.eval.fewshot import controlled, Shot, to_prompt, Trial
import numpy as np
import pytest

TOKENIZER = Tokenizer.bytes()
IDENTITY = {'step': '7', 'lm': 'abc'}
FEATURES = np.random.default_rng(0).normal(size=(40, 3, 5))
N = 7


def draw(shots=2, ways=3, n=N):
  """Trials whose fewer shots are the beginning of more."""
  trials = []
  for i in range(n):
    rng = np.random.default_rng(i)
    names = tuple(rng.permutation(['dax', 'wug', 'fep', 'zup'])[:ways].tolist())
    asked = int(rng.integers(ways))
    support = tuple(
        Shot(image=int(rng.integers(1, 30)), answer=name)
        for _ in range(4) for name in names)
    trials.append(Trial(
        id=i, support=support[: shots * ways], candidates=names,
        query=Shot(image=30 + i, answer=names[asked])))
  return trials


def make(shots=2, control=None, metric='accuracy', trials=None, **fields):
  trials = trials or functools.partial(draw, shots)
  fields = dict(task='toy', split='test', ways=3, style='same') | fields
  return Cell(
      shots=shots, control=control, metric=metric, **fields,
      trials=lambda: trials() if control in ('chance', 'nearest_centroid')
      else controlled(trials(), control, seed=0, blank=0))


def captions():
  return [
      Trial(id=i, support=(), candidates=(word,),
            query=Shot(image=i, text='Output:', answer=word))
      for i, word in enumerate(['a', 'bird', 'cc', 'dog'])]


CELLS = (
    make(1), make(2), make(2, 'blank_query'), make(2, 'shuffled_labels'),
    make(2, 'chance'), make(2, 'nearest_centroid'),
    make(1, metric='generation_accuracy'),
    make(0, metric='loss', task='captions', trials=captions))


class Answers:
  """Stands for a model: answers are a function of prompt and pictures.

  Attributes:
    calls: of `rank`, cells of each group; of `generate`, prompts.
    patience: calls before it is killed.
  """

  def __init__(self, patience=10**9):
    self.calls, self.patience = [], patience

  def _count(self, n):
    if len(self.calls) == self.patience:
      raise KeyboardInterrupt
    self.calls.append(n)

  def rank(self, groups):
    self._count([len(group) for group in groups])
    return [
        [np.array([-self._number(prompt, ids) for ids in candidates])
         for prompt, candidates in group]
        for group in groups]

  def generate(self, prompts, *, max_tokens, stop, beams=1):
    del max_tokens, stop, beams
    self._count(len(prompts))
    said = [['dax', 'wug'][int(10 * self._number(p, ())) % 2] for p in prompts]
    return [
        Generation(tuple(TOKENIZER.encode(f' {word} ')), -1.0) for word in said]

  def _number(self, prompt, ids):
    data = f'{prompt.tokens.tolist()} {prompt.images.tolist()} {list(ids)}'
    return zlib.crc32(data.encode()) % 997 / 100


def run(path, predictor, cells=CELLS, *, chunk=3, identity=None):
  log = Log(path, identity or IDENTITY)
  try:
    return evaluate(
        cells, predictor, TOKENIZER, FEATURES.__getitem__, log, chunk=chunk)
  finally:
    log.close()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Rows and log of an evaluation that nothing disturbed."""
  path = tmp_path_factory.mktemp('whole') / 'predictions.jsonl'
  rows = run(path, Answers())
  return rows, path.read_bytes()


# What is measured.


def test_a_row_is_its_cell_and_its_number(whole):
  rows, _ = whole
  assert [row['n'] for row in rows] == [N] * 7 + [4]
  assert rows[2] == CELLS[2].fields() | {
      k: rows[2][k] for k in ('value', 'stderr', 'n')}
  assert json.loads(json.dumps(rows)) == rows


def test_accuracy_is_the_share_of_answers_that_score_best(whole):
  model, correct = Answers(), []
  for trial in draw(2):
    prompt = to_prompt(trial, TOKENIZER)
    scores = [
        -model._number(prompt, TOKENIZER.encode(f' {name}'))
        for name in trial.candidates]
    correct.append(trial.candidates[np.argmax(scores)] == trial.query.answer)
  assert whole[0][1]['value'] == pytest.approx(np.mean(correct))
  assert whole[0][1]['stderr'] == pytest.approx(
      np.std(correct, ddof=1) / 7**0.5)


def test_generation_is_right_if_it_says_the_answer(whole):
  model = Answers()
  said = [
      TOKENIZER.decode(g.tokens).strip()
      for g in model.generate(
          [to_prompt(t, TOKENIZER) for t in draw(1)], max_tokens=8, stop=0)]
  answers = [t.query.answer for t in draw(1)]
  assert whole[0][6]['value'] == pytest.approx(
      np.mean([one == other for one, other in zip(said, answers)]))


def test_loss_is_nats_a_token_over_all_tokens_ends_included(whole):
  model, nats, tokens = Answers(), 0.0, 0
  for trial in captions():
    ids = TOKENIZER.encode(f' {trial.query.answer}') + [TOKENIZER.eoc_id]
    nats += model._number(to_prompt(trial, TOKENIZER), ids)
    tokens += len(ids)
  assert whole[0][7]['value'] == pytest.approx(nats / tokens)


def test_baselines_ask_no_model(tmp_path):
  cells = [make(2, 'chance'), make(2, 'nearest_centroid')]
  chance, centroid = run(tmp_path / 'log', None, cells)
  assert (chance['value'], chance['stderr']) == (1 / 3, None)
  correct = metrics.nearest_centroid(draw(2), FEATURES.__getitem__)
  assert centroid['value'] == pytest.approx(np.mean(correct))


def test_chance_of_fixed_answers_is_the_commonest(tmp_path):
  def questions():
    return [
        Trial(id=i, support=(), candidates=('yes', 'no', 'red'),
              query=Shot(image=i, answer=answer))
        for i, answer in enumerate(['no', 'yes', 'no', 'no', 'red'])]

  cell = make(0, 'chance', ways=None, trials=questions)
  assert run(tmp_path / 'log', None, [cell])[0]['value'] == 0.6


def test_an_unknown_metric_is_refused():
  with pytest.raises(ValueError, match="'f1'; there are accuracy"):
    score(make(1, metric='f1'), [])


def test_cells_that_begin_alike_are_read_together(tmp_path):
  model = Answers()
  run(tmp_path / 'log', model, CELLS[:4])
  # One and two shots and the blank query of a trial; shuffled ones apart.
  assert model.calls == [[3, 3, 3], [3, 3, 3], [3], [1, 1, 1], [1, 1, 1], [1]]


def test_the_size_of_a_chunk_changes_no_number(tmp_path, whole):
  for chunk in 1, 4, 100:
    assert run(tmp_path / str(chunk), Answers(), chunk=chunk) == whole[0]


# The log.


def test_a_log_that_was_cut_anywhere_gives_the_same_rows(tmp_path, whole):
  rows, data = whole
  head = data.index(b'\n')
  ends = [i for i, byte in enumerate(data) if byte == ord('\n')]
  cuts = {*range(0, head, 17), head, *range(head, len(data), 211)}
  cuts |= {end + k for end in ends[:: len(ends) // 9] for k in (0, 1, 2)}
  path = tmp_path / 'log'
  for cut in sorted(cuts):
    path.write_bytes(data[:cut])
    assert run(path, Answers()) == rows
    assert path.read_bytes() == data


def test_an_evaluation_killed_between_chunks_goes_on_there(tmp_path, whole):
  rows, data = whole
  model = Answers()
  run(tmp_path / 'whole', model)
  for patience in range(len(model.calls)):
    path = tmp_path / f'log {patience}'
    with pytest.raises(KeyboardInterrupt):
      run(path, Answers(patience))
    again = Answers()
    assert run(path, again) == rows
    assert again.calls == model.calls[patience:]
    assert path.read_bytes() == data


def test_a_log_gives_the_rows_without_a_model(tmp_path, whole):
  rows, data = whole
  path = tmp_path / 'log'
  path.write_bytes(data)
  assert run(path, None) == rows
  assert path.read_bytes() == data


def test_fewer_examples_are_read_off_the_log_of_more(tmp_path, whole):
  path = tmp_path / 'log'
  path.write_bytes(whole[1])
  few = make(2, trials=lambda: draw(2, n=4))
  row = run(path, None, [few])[0]
  assert row == run(tmp_path / 'new', Answers(), [few])[0] and row['n'] == 4


def test_more_cells_join_a_log(tmp_path, whole):
  rows, _ = whole
  path = tmp_path / 'log'
  run(path, Answers(), CELLS[:1])
  model = Answers()
  assert run(path, model) == rows
  assert model.calls[0] == [2, 2, 2]  # one shot is known


@pytest.mark.parametrize('other', [
    {'step': '8', 'lm': 'abc'}, {'step': '7', 'lm': 'xyz'}, {'step': '7'}])
def test_a_log_of_something_else_is_refused_and_left_alone(
    tmp_path, whole, other
):
  path = tmp_path / 'log'
  path.write_bytes(whole[1])
  with pytest.raises(ValueError, match='holds predictions of something else'):
    run(path, Answers(), identity=other)
  assert path.read_bytes() == whole[1]


def test_every_field_but_its_trials_names_a_cell():
  cell = make(1)
  changes = dict(
      task='a', split='b', ways=9, shots=9, style='c', control='d', names='e',
      metric='f', seed=9, beams=3)
  keys = {dataclasses.replace(cell, **{k: v}).key for k, v in changes.items()}
  assert len(keys) == len(changes) and cell.key not in keys
  fields = {f.name for f in dataclasses.fields(Cell)}
  assert fields - changes.keys() == {'trials'}
  assert dataclasses.replace(cell, trials=captions).key == cell.key
