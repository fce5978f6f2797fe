"""Tells a run as a report: what was trained, how well it does, what it saw."""

from collections.abc import Sequence
import pathlib
import platform

import numpy as np

from experiments import goals as goals_lib
from flamingo import params as params_lib
from flamingo.analysis.occlusion import relevance
from flamingo.eval.evaluate import Cell, Log
from flamingo.eval.gallery import Exhibit, Look
from flamingo.eval.report import write_report
from flamingo.train.writer import read_metrics

_EXHIBITS = (
    ('openmoji_binding', 5, 1, 'colour_to_line'),
    ('openmoji_category', 2, 4, 'same'),
)
_LOOKS = 4


def tell(
    workdir: pathlib.Path,
    loaded,
    config,
    cells: Sequence[Cell],
    rows: Sequence[dict],
    log: Log,
    *,
    out: pathlib.Path,
    seconds: float,
) -> None:
  """Writes `report.html` into a folder: the run's, or one in it."""
  metrics = read_metrics(workdir)
  goals = goals_lib.check(rows)
  missed = [g.text for g in goals if not g.met and g.value is not None]
  unknown = [g.text for g in goals if g.value is None]
  summary = [
      f'{sum(goal.met for goal in goals)} of {len(goals)} goals are met.'
      + (f' Missed: {"; ".join(missed)}.' if missed else '')
      + (f' Not measured: {"; ".join(unknown)}.' if unknown else ''),
      _in_words(rows)]
  if loaded.without:
    summary.insert(
        0, f'Left out of this model: {", ".join(loaded.without)}. So it is not '
        'what was trained, and goals are not meant for it.')
  exhibits, looks = [], []
  for task, ways, shots, style in _EXHIBITS:
    cell = _cell(cells, task, ways, shots, style)
    if cell is not None:
      exhibits += _exhibits(cell, log, loaded)
      if not looks:
        looks = _looks(cell, loaded)
  write_report(
      out / 'report.html', title='Flamingo quickstart', summary=summary,
      results=rows, metrics=metrics, goals=goals, exhibits=exhibits,
      looks=looks, facts=_facts(loaded, metrics, seconds),
      commands=_commands(workdir))


def _in_words(rows: Sequence[dict]) -> str:
  """One sentence on whether examples count."""
  curve = [
      (row['shots'], row['value']) for row in rows
      if row['task'] == 'openmoji_category' and row['ways'] == 5
      and row['control'] is None and row['style'] == 'same' and row['shots']]
  if len(curve) < 2:
    return 'Too few shot counts were evaluated to say whether examples count.'
  curve.sort()
  said = ', '.join(f'{v:.1%} with {s}' for s, v in curve)
  return (
      'On categories, where every picture is another emoji and examples must '
      f'be put together, accuracy among five is {said} of each class.')


def _cell(cells, task, ways, shots, style) -> Cell | None:
  for cell in cells:
    if (cell.task, cell.ways, cell.shots, cell.style, cell.control, cell.metric,
        cell.names) == (task, ways, shots, style, None, 'accuracy', 'single'):
      return cell
  return None


def _exhibits(cell: Cell, log: Log, loaded, right=3, wrong=3) -> list[Exhibit]:
  """The first few right and the first few wrong answers."""
  records = log.of(cell.key)
  shown = {True: [], False: []}
  for trial in cell.trials():
    record = records[trial.id]
    correct = int(np.argmax(record['scores'])) == record['answer']
    if len(shown[correct]) < (right if correct else wrong):
      shown[correct].append(Exhibit(
          title=f'{cell.task}, {cell.ways}-way {cell.shots}-shot, {cell.style}',
          shots=[(loaded.pictures.drawings[s.image](), s.answer)
                 for s in trial.support],
          query=loaded.pictures.drawings[trial.query.image](),
          question=trial.query.text, answer=trial.query.answer,
          scores=dict(zip(trial.candidates, record['scores']))))
  return shown[True] + shown[False]


def _looks(cell: Cell, loaded) -> list[Look]:
  """Which places of some queries their answers depend on."""
  trials = cell.trials()[:_LOOKS]
  maps = relevance(
      loaded.predictor, trials, loaded.frozen.tokenizer,
      blank=loaded.pictures.blank)
  return [
      Look(picture=loaded.pictures.drawings[trial.query.image](),
           words=[trial.query.answer], maps=one[None])
      for trial, one in zip(trials, maps)]


def _facts(loaded, metrics, seconds: float) -> dict[str, str]:
  config = loaded.config
  last = [row for row in metrics if 'seconds_per_step' in row]
  step = float(np.median([row['seconds_per_step'] for row in last] or [np.nan]))
  galleries = loaded.pictures.galleries
  built_in = {}
  if 'induction' in loaded.state.trainable:
    path = config.induction
    built_in['Built in'] = (
        f'{len(path.heads)} heads of the language model are told how alike two '
        f'pictures are: before training {path.strength:g} times the inner '
        f'product of {path.width} of their components. What that reads '
        'untrained: docs/quickstart.md')
  return {
      'Vision encoder (frozen)':
          f'EfficientNet-Lite, {config.frozen.vision}: '
          f'{params_lib.count(loaded.frozen.vision_params):,} parameters',
      'Language model (frozen)':
          f'{config.frozen.lm}: '
          f'{params_lib.count(loaded.frozen.lm_params):,} parameters',
      'Trained':
          f'{params_lib.count(loaded.state.trainable):,} parameters: '
          'resampler, gated cross-attention, the rows of <image> and <EOC>'
          + ', the likeness that heads are told' * bool(built_in)
          + ' (and a fixed whitening)',
      **built_in,
      'Trained on': ', '.join(
          f'{name} (weight {d.weight}, {d.batch_size} a step)'
          for name, d in config.mixture.items()),
      'Emoji': ', '.join(
          f'{len(g.emoji)} for {split}' for split, g in galleries.items()),
      'Steps': f'{int(loaded.state.step)} at {step:.2f} s each',
      'Data wait': f'{np.mean([r["data_wait_share"] for r in last]):.1%} of '
                   'the step' if last else 'not measured',
      'Evaluation took': f'{seconds:.0f} s',
      'Machine': f'{platform.processor() or platform.machine()}, '
                 f'{platform.system()}',
  }


def _commands(workdir: pathlib.Path) -> list[tuple[str, str]]:
  train = (
      'python -m experiments.train --config=experiments/configs/quickstart.py '
      '--workdir=')
  return [
      (f'{train}runs/longer --config.steps=2000', 'Train for longer.'),
      (f'{train}runs/paper_gates --config.model.first_gate=0.0 '
       '--config.xattn.gate_init=0.0 --config.xattn.out_scale=1.0 '
       '--config.xattn.ff_gate_init=0.0',
       "See what the paper's zero gates do in so few steps."),
      ('python -m experiments.evaluate '
       f'--config=experiments/configs/fewshot.py --checkpoint={workdir}',
       'Make this report again, from the log of predictions.'),
  ]
