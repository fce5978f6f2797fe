"""Asks a model some queries of a task: demonstrations, prompts, answers, lines.

What comes back are lines of the log. They are a pure function of the cells and
the queries that are asked together.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json

from jax.sharding import Mesh
import numpy as np

from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.benchmarks import Choice, Item
from flamingo.eval.decode import Predictor
from flamingo.eval.harness import baselines
from flamingo.eval.harness.cell import Asked, Cell
from flamingo.eval.harness.controls import BLANK
from flamingo.eval.harness.demonstrate import Demonstrator
from flamingo.eval.harness.metrics import Said
from flamingo.eval.harness.pictures import Pictures
from flamingo.eval.harness.prompts import Prompt, Writer
from flamingo.eval.harness.score import one_score
from flamingo.eval.harness.task import Task
from flamingo.eval.sample import Sampling
from flamingo.model.flamingo import Flamingo
from flamingo.types import Params

# Log-likelihoods are logged to this many digits: batches of other sizes sum in
# another order, and what is equal should stay equal.
_DIGITS = 5
_NO_CONTENT = 'N/A'


class PicturePredictor(Predictor):
  """A predictor whose images are rows of `Pictures`."""

  def __init__(
      self, model: Flamingo, params: Params, pictures: Pictures,
      tokenizer: Tokenizer, *, tokens_at_once: int, mesh: Mesh | None = None,
  ):
    super().__init__(
        model, params, pictures.latents, pad_id=tokenizer.pad_id,
        never=tokenizer.unsaid_ids, tokens_at_once=tokens_at_once, mesh=mesh)

  def latents(self, rows: Sequence[int]) -> np.ndarray:
    """Latents [n R C], read from where they are kept."""
    return self.features(rows)


class Asker:
  """Asks a model the cells of one task.

  Args:
    task: what is asked.
    predictor: the model; None if baselines without a model are all there is.
    writer: of the task's prompts.
    pictures: of the task.
    demonstrator: of the task.
  """

  def __init__(
      self, task: Task, predictor: PicturePredictor, writer: Writer,
      pictures: Pictures, demonstrator: Demonstrator,
  ):
    self.task, self.writer = task, writer
    self._predictor, self._pictures = predictor, pictures
    self._demonstrator = demonstrator

  def example(self, cell: Cell) -> str:
    """The prompt of the first query, as people read it."""
    (asked,) = self._demonstrator.ask(cell, self.task.queries[:1])
    self._fill([asked])
    return self._write(cell, asked).text

  def ask(
      self, cells: Sequence[Cell], queries: Sequence[Item]
  ) -> list[dict]:
    """Lines of the log: of each cell in turn those of all queries.

    Args:
      cells: of one family, see `run.pieces`.
      queries: that are asked together.
    """
    if cells[0].baseline == 'majority':
      said = baselines.majority(self.task, queries)
      return [
          self._record(cells[0], Asked(_NOTHING, query), None, text, scores)
          for query, (text, scores) in zip(queries, said)]
    asked = {cell.key: self._demonstrator.ask(cell, queries) for cell in cells}
    if cells[0].baseline == 'nearest_centroid':
      return [
          self._record(cell, each, None, None, scores)
          for cell in cells for each, scores in zip(
              asked[cell.key], baselines.nearest_centroid(
                  asked[cell.key], self._pictures.embed))]
    self._fill([each for several in asked.values() for each in several])
    if cells[0].open_ended:
      return self._generate(cells, asked)
    return self._rank(cells, asked, queries)

  def _generate(self, cells, asked) -> list[dict]:
    records = []
    for cell in cells:
      prompts = [self._write(cell, each) for each in asked[cell.key]]
      said = self._say(cell, asked[cell.key], prompts)
      records += [
          self._record(
              cell, each, [prompt], self.writer.answer(s.tokens), None)
          for each, prompt, s in zip(asked[cell.key], prompts, said)]
    return records

  def _say(self, cell, asked, prompts):
    examples = [prompt.example for prompt in prompts]
    how = dict(
        max_tokens=cell.max_tokens, stop=self.writer.tokenizer.stop_id)
    if cell.temperature is None:
      return self._predictor.generate(
          examples, beams=cell.beams, length_penalty=cell.length_penalty,
          **how)
    # Chance is the same at any number of shots, and under every control.
    drawn = self._predictor.sample(
        examples, names=[f'{cell.task} {each.query.id}' for each in asked],
        sampling=Sampling(
            temperature=cell.temperature, top_k=cell.top_k, top_p=cell.top_p,
            seed=cell.seed), **how)
    return [said for (said,) in drawn]

  def _rank(self, cells, asked, queries) -> list[dict]:
    """Prompts of one query are a group: where they begin alike is read once."""
    groups, written = [], []
    for i, query in enumerate(queries):
      candidates = self.writer.candidates(query)
      group = []
      for cell in cells:
        prompts, plain = [], []
        for order in self._demonstrator.orders(cell, asked[cell.key][i]):
          prompts.append(self._write(cell, order, candidates))
          if cell.calibrated:
            plain.append(self._write(cell, _without_content(order), candidates))
        written.append((cell, i, candidates, prompts, len(plain)))
        group += [(p.example, candidates) for p in (*prompts, *plain)]
      groups.append(group)
    scores = iter([s for group in self._predictor.rank(groups) for s in group])
    records = {}
    for cell, i, candidates, prompts, plain in written:
      lengths = 1.0
      if cell.likelihood == 'mean':
        lengths = np.array([len(ids) for ids in candidates])
      mean = np.mean([next(scores) / lengths for _ in prompts], axis=0)
      if plain:
        mean -= np.mean([next(scores) / lengths for _ in range(plain)], axis=0)
      records[cell.key, i] = self._record(
          cell, asked[cell.key][i], prompts, None,
          np.round(mean, _DIGITS).tolist())
    return [
        records[cell.key, i] for cell in cells for i in range(len(queries))]

  def _write(self, cell, asked, candidates=None) -> Prompt:
    if candidates is None:
      candidates = self.writer.candidates(asked.query)
    room = cell.max_tokens or max(map(len, candidates))
    return self.writer.write(
        asked, room=room, blind=cell.baseline == 'text_only')

  def _fill(self, asked: Sequence[Asked]) -> None:
    self._pictures.fill([
        item for each in asked for item in (
            *(() if each.choice.text_only else each.choice.items), each.query)])

  def _record(self, cell, asked, prompts, text, scores) -> dict:
    query = asked.query
    shown = [item.id for item in asked.choice.items]
    digest, dropped = None, 0
    if prompts:
      shown = list(prompts[0].demonstrations)
      dropped = max(prompt.dropped for prompt in prompts)
      digest = prompts[0].digest
      if len(prompts) > 1:
        digest = _digest([prompt.digest for prompt in prompts])
    best = text
    if scores is not None and scores.count(max(scores)) == 1:
      best = query.candidates[scores.index(max(scores))]
    return {
        'cell': cell.key, 'id': query.id, 'prompt': digest,
        'demonstrations': shown, 'dropped': dropped, 'output': best,
        'scores': scores,
        'candidates': _digest(query.candidates) if query.candidates else None,
        'answer': query.answer,
        'score': one_score(self.task.row, cell, query, Said(text, scores))}


_NOTHING = Choice(items=())


def _without_content(asked: Asked) -> Asked:
  """The query of contextual calibration (Zhao et al., arXiv:2102.09690)."""
  query = dataclasses.replace(
      asked.query, image=BLANK, box=None,
      fields={name: _NO_CONTENT for name in asked.query.fields})
  return dataclasses.replace(asked, query=query)


def _digest(values: Sequence[str]) -> str:
  return hashlib.blake2b(
      json.dumps(list(values)).encode(), digest_size=8).hexdigest()
