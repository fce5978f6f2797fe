"""Candidates share what they can, and score as they would one by one."""

import json

import benchmark_models as models
from experiments import benchmark
from flamingo.data.encode import encode
from flamingo.eval.benchmarks import TEMPLATES, to_document
from flamingo.eval.harness import results
import jax
import numpy as np
import pytest

MANY = 101


@pytest.fixture(scope='module')
def loaded(tiny, random_params):
  return models.seeing(tiny, random_params)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  path = tmp_path_factory.mktemp('root')
  models.birds(path, ranked=True)
  for split in ('query', 'support'):
    file = path / f'birds/{split}.jsonl'
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    others = [f'{"bc"[i % 2]}ird {i}' for i in range(MANY - 3)]
    file.with_name(f'{split}_many.jsonl').write_text(''.join(
        json.dumps({**line, 'candidates': [*models.BIRDS, *others]}) + '\n'
        for line in lines))
  return path


@pytest.fixture(scope='module')
def ask(loaded, root, quick_jit, tmp_path_factory):
  """(name, **config) gives records by (cell's fields, id)."""
  with pytest.MonkeyPatch.context() as patch:
    models.compile_once(patch, quick_jit)
    cache = tmp_path_factory.mktemp('latents')

    def evaluate(*, many=False, **changes):
      output = tmp_path_factory.mktemp('output')
      config = models.config_of(
          cache, **{'queries': 2, 'shots': (2,), 'baselines': (), **changes})
      if many:
        config['own'] = (dict(
            config['own'][0], query='birds/query_many.jsonl',
            support='birds/support_many.jsonl'),)
      benchmark.evaluate(config, loaded, root, output)
      results.read(output / 'results.json')
      lines = (output / 'predictions.jsonl').read_text().splitlines()[1:]
      return [json.loads(line) for line in lines]
    yield evaluate


@pytest.fixture(scope='module')
def one_by_one(loaded, root, quick_jit):
  """(record) log-likelihoods of whole prompts, each read by the model alone."""
  support = {
      item.id: item for split in ('query', 'support')
      for item in _items(root, split)}
  read = quick_jit(lambda *x: jax.nn.log_softmax(
      loaded.model.apply({'params': loaded.params}, *x)))

  def score(record, candidates):
    from flamingo.data.images import Preprocess
    from flamingo.eval.benchmarks import read_images
    see = lambda item: Preprocess(models.SIZE, 'squash')(
        *read_images(root, item))[None]
    document = to_document(
        TEMPLATES['flamingo']['qa'],
        [support[i] for i in record['demonstrations']],
        support[record['id']], image=see)
    prompt = encode(document, models.TOKENIZER, max_images=9)
    stop = models.TOKENIZER.stop_id
    rows = [models.TOKENIZER.encode(f' {c}') + [stop] for c in candidates]
    longest = max(map(len, rows))
    n = len(prompt.tokens)
    scores = []
    for ids in rows:
      padded = ids + [stop] * (longest - len(ids))
      tokens = np.asarray([[*prompt.tokens, *padded]])
      index = np.asarray([[*prompt.image_index] + [
          prompt.image_index[-1]] * longest])
      log_p = np.asarray(read(prompt.images[None], tokens, index)[0])
      scores.append(sum(
          float(log_p[n - 1 + k, token]) for k, token in enumerate(ids)))
    return np.asarray(scores), np.asarray([len(ids) for ids in rows])
  return score


def _items(root, split):
  from flamingo.eval.benchmarks import read_jsonl
  return read_jsonl(root, lines=f'birds/{split}.jsonl')


def test_a_hundred_candidates_score_as_one_by_one(ask, one_by_one, root):
  record = ask(many=True)[0]
  line = (root / 'birds/query_many.jsonl').read_text().splitlines()[0]
  candidates = json.loads(line)['candidates']
  assert len(candidates) == MANY == len(record['scores'])
  expected, _ = one_by_one(record, candidates)
  np.testing.assert_allclose(record['scores'], expected, atol=1e-4, rtol=0)
  assert record['output'] == candidates[int(np.argmax(expected))]


def test_mean_likelihood_is_the_sum_over_the_number_of_tokens(ask, one_by_one):
  records = ask(likelihood='mean')
  for record in records:
    expected, lengths = one_by_one(record, models.BIRDS)
    np.testing.assert_allclose(
        record['scores'], expected / lengths, atol=1e-4, rtol=0)


def test_permutations_average_the_likelihoods_of_all_orders(ask, one_by_one):
  for record in ask(permutations=6):  # of two demonstrations there are two
    first, last = record['demonstrations']
    scores = [
        one_by_one({**record, 'demonstrations': order}, models.BIRDS)[0]
        for order in ((first, last), (last, first))]
    np.testing.assert_allclose(
        record['scores'], np.mean(scores, axis=0), atol=1e-4, rtol=0)


def test_calibration_subtracts_what_a_query_without_content_gives(ask):
  plain, calibrated = ask(), ask(calibrated=True)
  blank = [
      np.subtract(p['scores'], c['scores'])
      for p, c in zip(plain, calibrated)]
  assert all((b < 0).all() for b in blank)  # log-likelihoods themselves
  # At 0 shots a query without content is one and the same.
  plain, calibrated = ask(shots=(0,)), ask(shots=(0,), calibrated=True)
  blank = [
      np.subtract(p['scores'], c['scores'])
      for p, c in zip(plain, calibrated)]
  np.testing.assert_allclose(blank[0], blank[1], atol=1e-4, rtol=0)
  assert np.abs(np.subtract(plain[0]['scores'], plain[1]['scores'])).max() > (
      1e-3)


def test_shots_that_share_a_tree_score_as_apart(ask):
  together = ask(shots=(0, 1, 3), controls=('blank_query',))
  apart = [
      record for shots in (0, 1, 3)
      for record in ask(shots=(shots,), controls=('blank_query',))]
  key = lambda r: (r['cell'], r['id'])
  apart = {key(r): r for r in apart}
  assert apart.keys() == {key(r) for r in together}
  for record in together:
    other = apart[key(record)]
    assert record['prompt'] == other['prompt']
    np.testing.assert_allclose(
        record['scores'], other['scores'], atol=1e-4, rtol=0)


def test_the_image_of_the_query_decides(ask):
  records = ask(shots=(1,), controls=('blank_query', 'blank_images'))
  of = lambda control: [
      r['scores'] for r in records
      if json.loads(r['cell'])['control'] == control]
  assert of(None) != of('blank_query') != of('blank_images') != of(None)
