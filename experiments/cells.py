"""From a config to the cells of an evaluation."""

import functools

import ml_collections

from experiments import build
from experiments.data import name_pools, Pictures
from flamingo.data.easy_vqa import ANSWERS
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.evaluate import Cell
from flamingo.eval.fewshot import controlled, CONTROLS
from flamingo.eval.tasks import CaptionTask, EpisodeTask, QuestionTask

_KNOWN = (
    'split', 'seed', 'n', 'output', 'captions', 'questions', 'families')
_METRICS = ('accuracy', 'generation_accuracy')
_FAMILY = (
    'task', 'style', 'ways', 'shots', 'controls', 'names', 'metric', 'beams')


def build_cells(
    config: ml_collections.ConfigDict, pictures: Pictures, tokenizer: Tokenizer
) -> list[Cell]:
  """Every cell the config asks for, baselines included.

  Raises:
    ValueError: an unknown key, task, split or control.
  """
  build.check_keys(config, _KNOWN, 'config')
  if config.split not in ('validation', 'test'):
    raise ValueError(
        f"config.split is {config.split!r}; held-out splits are 'validation' "
        "and 'test'.")
  tasks = _episode_tasks(config.split, pictures, tokenizer)
  cells = []
  for number, family in enumerate(config.families):
    where = f'config.families[{number}]'
    build.check_keys(family, _FAMILY, where)
    # Said here, not hours later, when the cell's turn has come.
    for field, values, known in (
        ('task', (family.task,), tasks),
        ('controls', family.get('controls', (None,)), (None, *CONTROLS)),
        ('metric', (family.get('metric', 'accuracy'),), _METRICS)):
      for value in values:
        if value not in known:
          raise ValueError(
              f'{where}.{field} has {value!r}; there are {list(known)}.')
    cells += _family_cells(config, family, tasks[family.task], pictures)
  cells += _caption_cells(config, pictures)
  cells += _question_cells(config, pictures)
  return cells


def _episode_tasks(split, pictures, tokenizer) -> dict[str, EpisodeTask]:
  common = dict(
      gallery=pictures.galleries[split], names=name_pools(tokenizer, split))
  tasks = (
      EpisodeTask(name='openmoji_binding', **common),
      EpisodeTask(name='openmoji_binding_subgroup', alike=True, **common),
      EpisodeTask(name='openmoji_category', category=True, **common))
  return {task.name: task for task in tasks}


def _family_cells(config, family, task, pictures) -> list[Cell]:
  names = family.get('names', 'single')
  metric = family.get('metric', 'accuracy')
  cells = []
  for shots in family.shots:
    draw = functools.partial(
        task.trials, seed=config.seed, n=config.n, ways=family.ways,
        shots=shots, style=family.style, names=names)
    make = functools.partial(
        Cell, task=task.name, split=config.split, ways=family.ways, shots=shots,
        style=family.style, names=names, metric=metric, seed=config.seed,
        beams=family.get('beams', 1))
    for control in family.get('controls', (None,)):
      if control is not None and not shots:
        continue  # without demonstrations there is nothing to control
      cells.append(make(
          control=control,
          trials=lambda draw=draw, control=control: controlled(
              draw(), control, seed=config.seed, blank=pictures.blank)))
      if control is None and metric == 'accuracy':
        cells.append(make(control='chance', trials=draw))
        if shots:
          cells.append(make(control='nearest_centroid', trials=draw))
  return cells


def _caption_cells(config, pictures) -> list[Cell]:
  if not config.captions:
    return []
  task = CaptionTask(
      name='openmoji_captions', gallery=pictures.galleries[config.split])
  draw = functools.partial(
      task.trials, seed=config.seed, n=config.captions)

  def shuffled():
    trials = draw()
    # Everyone gets the picture of the one after: nobody keeps its own.
    images = [trial.query.image for trial in trials]
    return task.with_images(trials, images[1:] + images[:1])

  def blank():
    trials = draw()
    return task.with_images(trials, [pictures.blank] * len(trials))

  return [
      Cell(task=task.name, split=config.split, shots=0, control=control,
           metric='loss', seed=config.seed, trials=trials)
      for control, trials in (
          (None, draw), ('shuffled_images', shuffled), ('blank_images', blank))]


def _question_cells(config, pictures) -> list[Cell]:
  if not config.questions:
    return []
  questions, rows = pictures.questions['test']
  task = QuestionTask(
      name='easy_vqa', questions=questions, rows=rows, answers=ANSWERS)
  draw = functools.partial(task.trials, seed=config.seed, n=config.questions)
  blank = lambda: controlled(
      draw(), 'blank_query', seed=config.seed, blank=pictures.blank)
  return [
      Cell(task=task.name, split='test', shots=0, control=control,
           seed=config.seed, trials=trials)
      for control, trials in (
          (None, draw), ('blank_images', blank), ('chance', draw))]
