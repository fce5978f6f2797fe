"""Folders of evaluations whose predictions no model has made, for tests."""

from collections.abc import Callable, Sequence
import json
import pathlib
from typing import Any

from benchmark_models import BIRDS
from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import Benchmark, Item
from flamingo.eval.evaluate import Log
from flamingo.eval.harness import Cell, results, score, Scored

IDENTITY = {'model': 'm1', 'dtype': 'float32', 'version': '1'}


def birds_row(*, ranked: bool = True, metric: str = 'top1') -> Benchmark:
  """The row of `benchmark_models.birds`."""
  return benchmarks.own(
      'birds', query='birds/query.jsonl', support='birds/support.jsonl',
      template='qa', metric=metric, open_ended=not ranked)


def cell(**changes) -> Cell:
  """A cell of birds."""
  return Cell(**dict(
      task='birds', split='query', data='d1', missing=0, template='flamingo',
      metric='top1', open_ended=False, shots=2, likelihood='sum',
      permutations=1, calibrated=False, max_length=99, frames=8) | changes)


def write_run(
    output: pathlib.Path,
    root: pathlib.Path,
    said: dict[Cell, Callable[[Item, int], Any]],
    *,
    row: Benchmark | None = None,
    queries: Sequence[int] | None = None,
    config: dict | None = None,
    identity: dict | None = None,
    templates: dict | None = None,
    prompt: Callable[[Item], str] = lambda item: f'p {item.id}',
) -> list[Scored]:
  """Writes what an evaluation of birds leaves.

  Args:
    output: its folder.
    root: data root with the birds.
    said: of each cell a function of a query and its number, which gives a text
      or scores of the candidates.
    row: of the task.
    queries: numbers of those that are asked; all by default.
    config: of the run.
    identity: of the run, over `IDENTITY`.
    templates: example prompts.
    prompt: digest of a query's prompt.

  Returns:
    what was scored.
  """
  row = row or birds_row()
  items = row.items(root, 'query')
  support = row.items(root, 'support')
  identity = IDENTITY | (identity or {})
  log = Log(output / 'predictions.jsonl', identity)
  for asked, answer in said.items():
    records = []
    for i, item in enumerate(items):
      if queries is not None and i not in queries:
        continue
      found = answer(item, i)
      records.append({
          'cell': asked.key, 'id': item.id, 'prompt': prompt(item),
          'demonstrations': [
              support[(i + k) % len(support)].id
              for k in range(asked.shots + asked.texts)],
          'dropped': 0, 'output': found if asked.open_ended else BIRDS[0],
          'scores': None if asked.open_ended else list(found),
          'candidates': None, 'answer': item.answer, 'score': None})
    log.add(records)
  log.close()
  scored = [
      score(row, asked, items, log.of(asked.key)) for asked in said]
  head = {
      'identity': identity | {'data birds': 'd1'},
      'config': config or {'shots': [2], 'template': 'flamingo', 'chunk': 4},
      'versions': {'python': '3.11', 'jax': '0.10'},
      'templates': templates or {'birds': '<image>Question: which? Answer:'}}
  results.write(output / 'results.json', head, results.rows_of(scored))
  results.write_examples(output / 'examples.jsonl', scored)
  return scored


def right(item: Item, i: int) -> list[float]:
  """Scores that are best for the answer."""
  del i
  return [float(name == item.answer) for name in BIRDS]


def wrong(item: Item, i: int) -> list[float]:
  """Scores that are best for another one, the later in the file the more."""
  other = BIRDS[(BIRDS.index(item.answer) + 1) % len(BIRDS)]
  return [1.0 + i if name == other else 0.0 for name in BIRDS]


def half(item: Item, i: int) -> list[float]:
  """Right at every other query."""
  return right(item, i) if i % 2 else wrong(item, i)


def edit(path: pathlib.Path, change: Callable[[dict], None]) -> None:
  """Changes a JSON file."""
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))
