"""What images are compared by when demonstrations are retrieved."""

import dataclasses

import benchmark_models as models
from experiments import benchmark
from flamingo.data.images import Preprocess
from flamingo.eval import benchmarks
from flamingo.eval import harness
from flamingo.eval.evaluate import read_log
from flamingo.model.vision.vit import ViT
import numpy as np
import pytest

WIDTH = 7  # of the embedding; features are 14 wide
PIXELS = np.zeros((1, models.SIZE, models.SIZE, 3), np.uint8)
CLIP = ViT(
    patch=3, width=14, layers=2, heads=2, hidden=17, image_size=models.SIZE,
    features='patches', embed_width=WIDTH)
ROW = benchmarks.own(
    'birds', query='birds/query.jsonl', support='birds/support.jsonl',
    template='qa', metric='top1', open_ended=False)


@pytest.fixture(scope='module')
def loaded(tiny, random_params):
  found = models.seeing(tiny, random_params)
  return dataclasses.replace(
      found, model=found.model.clone(vision=CLIP),
      params=found.params | {
          'vision': random_params(CLIP, PIXELS, method='embed', seed=1)})


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  path = tmp_path_factory.mktemp('root')
  models.birds(path, ranked=True)
  return path


@pytest.fixture(scope='module')
def task(root):
  return harness.load_task(ROW, root)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('latents')


@pytest.fixture(scope='module')
def pictures(loaded, root, task, cache):
  return {
      similarity: harness.Pictures(
          loaded.model, loaded.params, Preprocess(models.SIZE, 'squash'), root,
          task.hashes, cache, similarity=similarity)
      for similarity in ('embed', 'pooled')}


@pytest.fixture(scope='module')
def expected(loaded, root, task, quick_jit):
  """(item, method) to what the encoder says of its frames."""
  prepare = Preprocess(models.SIZE, 'squash')
  run = quick_jit(
      lambda frames, method: CLIP.apply(
          {'params': loaded.params['vision']}, frames, method=method),
      static_argnums=1)

  def see(item, method=None):
    frames = np.stack([prepare(x) for x in benchmarks.read_images(root, item)])
    return np.asarray(run(frames, method))
  return see


def unit(rows):
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_images_are_compared_by_what_clip_compares_them_by(
    pictures, task, expected):
  items = task.queries[:5]
  came = pictures['embed'].embed(items)
  assert came.shape == (5, WIDTH)
  np.testing.assert_allclose(came, unit(np.concatenate(
      [expected(item, 'embed') for item in items])), atol=1e-5)
  came = pictures['pooled'].embed(items)
  np.testing.assert_allclose(came, np.stack(
      [expected(item)[0].mean(axis=0) for item in items]), atol=1e-5)


def test_no_frame_of_a_clip_counts_more_than_another(pictures, task, expected):
  paths = tuple(item.image[0] for item in task.queries[:3])
  clip = dataclasses.replace(task.queries[0], image=paths)
  np.testing.assert_allclose(
      pictures['embed'].embed([clip])[0],
      unit(expected(clip, 'embed')).mean(axis=0), atol=1e-5)


def test_what_images_are_compared_by_changes_nothing_that_the_model_sees(
    pictures, task):
  seen = []
  for each in pictures.values():
    each.fill(task.queries)
    seen.append(each.latents([each.row(item) for item in task.queries]))
  np.testing.assert_allclose(*seen, atol=1e-5)


def test_latents_beside_another_embedding_are_kept_elsewhere(
    pictures, loaded, root, task, cache):
  for each in pictures.values():
    each.fill(task.queries)
  assert len(list(cache.iterdir())) == 2
  harness.Pictures(  # 'auto', which is 'embed' here
      loaded.model, loaded.params, Preprocess(models.SIZE, 'squash'), root,
      task.hashes, cache)
  assert len(list(cache.iterdir())) == 2


def _without(params, *names):
  return params | {'vision': {
      k: v for k, v in params['vision'].items() if k not in names}}


def test_the_embedding_is_taken_where_the_encoder_has_one(loaded):
  model, params = loaded.model, loaded.params
  assert harness.similarity_of(model, params) == 'embed'
  assert harness.similarity_of(model, params, 'pooled') == 'pooled'
  for lacks in ('projection',), ('projection', 'post_norm'):
    assert harness.similarity_of(model, _without(params, *lacks)) == 'pooled'
  alone = model.clone(vision=CLIP.clone(embed_width=None))
  assert harness.similarity_of(
      alone, _without(params, 'projection')) == 'embed'
  classless = model.clone(vision=CLIP.clone(class_token=False))
  assert harness.similarity_of(classless, params) == 'pooled'


def test_an_embedding_that_is_not_there_is_missed_by_name(loaded):
  with pytest.raises(
      ValueError, match="similarity='embed'.* this ViT has none.*'pooled'"):
    harness.similarity_of(
        loaded.model, _without(loaded.params, 'post_norm'), 'embed')
  with pytest.raises(ValueError, match="'auto', 'embed', 'pooled'.*'cosine'"):
    harness.similarity_of(loaded.model, loaded.params, 'cosine')


def test_only_what_compares_images_is_named_by_how(task):
  cells = harness.plan(
      task, harness.Sweep(
          shots=(0, 2), texts_at_zero=0, choices=tuple(harness.CHOICES)),
      template='flamingo', open_answers={}, ranking={}, similarity='embed',
      max_length=99, frames=1)
  for cell in cells:
    compares = cell.shots and (
        'image' in harness.CHOICES[cell.choice]
        or cell.baseline == 'nearest_centroid')
    assert cell.similarity == ('embed' if compares else None)


def test_a_log_from_before_cells_said_so_is_scored_anew(
    loaded, root, tmp_path, monkeypatch, quick_jit):
  models.compile_once(monkeypatch, quick_jit)
  rows = benchmark.evaluate(
      models.config_of(tmp_path / 'cache', shots=(0, 1), baselines=()), loaded,
      root, tmp_path / 'run')
  for name in (benchmark.RUN, benchmark.LOG):
    path = tmp_path / 'run' / name
    text = path.read_text()
    assert text.count('\\"similarity\\": null, ') >= 2
    path.write_text(text.replace('\\"similarity\\": null, ', ''))
  assert benchmark.rescore(root, tmp_path / 'run') == rows


def test_demonstrations_follow_the_config(
    loaded, root, task, expected, tmp_path, monkeypatch, quick_jit):
  models.compile_once(monkeypatch, quick_jit)
  shown = {}
  for similarity in ('auto', 'pooled'):
    benchmark.evaluate(models.config_of(
        tmp_path / 'cache', shots=(1,), choices=('rices_image',), baselines=(),
        similarity=similarity), loaded, root, tmp_path / 'run')
  _, records = read_log(tmp_path / 'run' / benchmark.LOG)  # one for both
  for key, lines in records.items():
    shown[harness.Cell.parse(key).similarity] = [
        lines[query.id]['demonstrations'] for query in task.queries]
  nearest = {}
  for name, see in (
      ('embed', lambda item: expected(item, 'embed')[0]),
      ('pooled', lambda item: expected(item)[0].mean(axis=0))):
    rows = {
        item.id: unit(see(item)) for item in (*task.queries, *task.support)}
    nearest[name] = [
        [max((s for s in task.support if (
            task.hashes[s.image[0]] != task.hashes[q.image[0]])),
             key=lambda s, q=q: rows[s.id] @ rows[q.id]).id]
        for q in task.queries]
  assert shown == nearest
  assert nearest['embed'] != nearest['pooled']
