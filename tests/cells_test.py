"""Every cell of the few-shot config draws trials, and measures every goal."""

import types

from experiments import cells, goals, story
from experiments import data as data_lib
from experiments.configs import fewshot, quickstart
import few_pictures
from flamingo.eval.evaluate import evaluate, Log
import numpy as np
import pytest


@pytest.fixture(scope='module')
def pictures():
  return few_pictures.make_pictures()


@pytest.fixture(scope='module')
def tokenizer():
  return few_pictures.make_tokenizer()


@pytest.fixture
def names(monkeypatch):
  """Names that any tokenizer can spell, instead of those of a real one."""
  monkeypatch.setattr(data_lib, 'name_pools', few_pictures.name_pools)
  monkeypatch.setattr(cells, 'name_pools', few_pictures.name_pools)


@pytest.fixture
def small():
  """The few-shot config with few examples."""
  config = fewshot.get_config()
  config.n = config.captions = config.questions = 4
  return config


def test_every_cell_of_the_few_shot_config_draws_trials(
    small, pictures, tokenizer, names
):
  built = cells.build_cells(small, pictures, tokenizer)
  assert len({cell.key for cell in built}) == len(built) > 60
  test_rows = set(pictures.galleries['test'].rows.ravel().tolist())
  test_rows |= {pictures.blank, *pictures.questions['test'][1]}
  for cell in built:
    trials = cell.trials()
    assert len(trials) == 4
    for trial in trials:
      shots = (*trial.support, trial.query)
      assert len(trial.support) == cell.shots * (cell.ways or 0)
      assert {shot.image for shot in shots} <= test_rows
      assert trial.query.answer in trial.candidates


def test_cells_that_are_evaluated_alike_are_not_built_twice(
    small, pictures, tokenizer, names
):
  built = cells.build_cells(small, pictures, tokenizer)
  for cell in built:
    if cell.control in ('nearest_centroid', 'chance') and cell.ways:
      fields = cell.fields() | {'control': None}
      assert any(other.fields() == fields for other in built)


@pytest.mark.parametrize('change, message', [
    (dict(task='imagenet'), r"families\[2\].task has 'imagenet'; there are"),
    (dict(controls=('shuffled_labels', 'blank')), "controls has 'blank'"),
    (dict(metric='f1'), "metric has 'f1'; there are .'accuracy'"),
    (dict(shot=(1,)), r"families\[2\].shot. Did you mean 'shots'"),
])
def test_what_is_wrong_in_a_family_is_said_before_any_work(
    small, pictures, tokenizer, names, change, message
):
  with small.unlocked():
    for key, value in change.items():
      small.families[2][key] = value
  with pytest.raises(ValueError, match=message):
    cells.build_cells(small, pictures, tokenizer)


def test_the_training_split_is_not_evaluated(small, pictures, tokenizer, names):
  small.split = 'train'
  with pytest.raises(ValueError, match="'train'; held-out splits are"):
    cells.build_cells(small, pictures, tokenizer)


class Guess:
  """Stands for a predictor that likes every candidate in its own way."""

  def __init__(self, features):
    self.features, self._calls = features, 0

  def rank(self, groups):
    scores = []
    for group in groups:
      scores.append([])
      for _, candidates in group:
        self._calls += 1
        rng = np.random.default_rng(self._calls)
        scores[-1].append(-rng.random(len(candidates)))
    return scores

  def generate(self, prompts, **_):
    return [types.SimpleNamespace(tokens=(70,)) for _ in prompts]

  def introduce(self, features):
    return list(range(-len(features), 0))


def test_the_few_shot_config_measures_every_goal_and_makes_a_report(
    small, pictures, tokenizer, names, tmp_path
):
  built = cells.build_cells(small, pictures, tokenizer)
  predictor = Guess(pictures.features)
  log = Log(tmp_path / 'log', {})
  rows = evaluate(built, predictor, tokenizer, pictures.features, log)
  assert all(goal.value is not None for goal in goals.check(rows))
  unknown = goals.check([])
  assert len(unknown) == 15
  assert all(goal.value is None and not goal.met for goal in unknown)
  config = quickstart.get_config()
  weights = {'kernel': np.zeros((3, 5))}
  loaded = types.SimpleNamespace(
      config=config, predictor=predictor, pictures=pictures, without=('gates',),
      state=types.SimpleNamespace(
          step=7, trainable={'induction': weights}),
      frozen=types.SimpleNamespace(
          tokenizer=tokenizer, lm_params=weights, vision_params=weights))
  (tmp_path / 'less').mkdir()
  story.tell(
      tmp_path, loaded, small, built, rows, log, out=tmp_path / 'less',
      seconds=3)
  log.close()
  report = (tmp_path / 'less' / 'report.html').read_text()
  for text in (
      'Flamingo quickstart', 'goals are met', 'openmoji_category',
      '5 heads of the language model are told', '30 times the inner',
      'Left out of this model: gates.'):
    assert text in report
