"""A thousand classes are ranked in parts, and score as they would alone."""

import functools

from flamingo import params as params_lib
from flamingo.data import encode
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval import compiled
from flamingo.eval import rank as rank_lib
from flamingo.eval.decode import Predictor
from flamingo.eval.rank import Reading, Tree
from flamingo.types import Chunk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

TOKENIZER = Tokenizer.bytes()
STORE = np.random.default_rng(3).normal(size=(9, 7, 23)).astype(np.float32)
AT_ONCE = 96


def prompt(*rows, word='dax'):
  chunks = [Chunk(text=word, image=np.int64(row)) for row in rows]
  chunks.append(Chunk(text='', image=np.int64(5), close=False))
  return encode.encode(chunks, TOKENIZER, max_images=9)


def classes(n, seed=0):
  """Token ids of n classes: many begin alike, and some begin others."""
  rng = np.random.default_rng(seed)
  found = {}
  while len(found) < n:
    ids = rng.integers(0, 3, rng.integers(1, 5)).tolist()
    found[tuple(ids + [int(rng.integers(0, 250))])] = None
  return [list(ids) for ids in found]


@pytest.fixture(scope='module')
def predictor(tiny, random_params, quick_jit):
  model = tiny.model.clone(
      lm=tiny.model.lm.clone(layers=2, window=17), xattn=tiny.model.xattn[:1],
      resampler=tiny.model.resampler.clone(layers=1))
  params = random_params(model, tiny.images, tiny.tokens, tiny.image_index)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'jit', quick_jit)
    return Predictor(
        model, params, STORE.__getitem__, pad_id=TOKENIZER.pad_id,
        tokens_at_once=AT_ONCE)


def test_many_candidates_score_as_each_does_alone(predictor, monkeypatch):
  # Two prompts of one group, one of which begins the other; and one apart,
  # with fewer candidates. `alone` shares nothing: a row for each candidate.
  groups = [
      [(prompt(1), classes(23)), (prompt(1, 2), classes(17, seed=1))],
      [(prompt(3, word='wug'), classes(11, seed=2))]]
  alone = [
      [[predictor.rank([[(one, [ids])]])[0][0][0] for ids in candidates[::4]]
       for one, candidates in group] for group in groups]
  monkeypatch.setattr(rank_lib, 'BRANCH', 13)
  trees = [Tree(group, 13) for group in groups]
  assert min(len(tree.branches) for tree in trees) > 1
  came = predictor.rank(groups)
  for group, others in zip(came, alone, strict=True):
    for scores, expected in zip(group, others, strict=True):
      np.testing.assert_allclose(scores[::4], expected, rtol=1e-5, atol=1e-5)
  assert np.std(alone[0][0]) > 0.1  # there is something to compare


def test_every_candidate_is_in_one_part_and_no_part_is_too_large():
  candidates = classes(101)
  tree = Tree([(prompt(1), candidates), (prompt(), candidates[:50])], 16)
  assert all(len(branch) <= 16 for branch in tree.branches)
  asked = [
      (p, c, question.targets) for part in range(len(tree.branches) + 1)
      for p, c, question in tree.questions(part)]
  assert sorted(asked) == sorted(
      (p, c, tuple(ids)) for p, n in ((0, 101), (1, 50))
      for c, ids in enumerate(candidates[:n]))
  # A candidate that is longer than a part has one to itself.
  long = Tree([(prompt(1), [[1] * 40, [2, 3], [2, 4]])], 16)
  assert sorted(map(len, long.branches)) == [2, 40]


def test_a_thousand_classes_are_read_in_parts_of_bounded_size(
    predictor, monkeypatch
):
  seen = {'stem': [], 'branch': [], 'score': []}
  rng = np.random.default_rng(0)

  def stem(params, latents, tokens, *rest, room):
    seen['stem'].append(tokens.size + len(tokens) * room)
    return tokens

  def branch(params, cache, latents, tokens, *rest):
    seen['branch'].append(tokens.size + cache.size)
    return tokens

  def score(params, states, nodes, slots, targets):
    seen['score'].append(len(nodes) * nodes.shape[2])
    return rng.normal(size=targets.shape)

  for name, function in (('stem', stem), ('branch', branch), ('score', score)):
    monkeypatch.setattr(predictor, name, function)
  monkeypatch.setattr(predictor, 'tokens_at_once', 2048)
  group = [(prompt(*range(8)), classes(1000))]
  predictor.rank([group] * 5)
  assert max(seen['stem'] + seen['branch']) <= 2048
  assert max(seen['score']) <= 256
  # All that is read is little more than the prompt and the candidates once:
  # a twentieth of what reading the prompt for each of them would be.
  tree = Tree(group, rank_lib.BRANCH)
  whole = sum(len(tree.stem) + len(ids) - 1 for ids in group[0][1])
  read = len(tree.stem) + sum(map(len, tree.branches))
  assert read < whole / 20


def test_memory_does_not_grow_with_the_number_of_candidates(tiny):
  model = tiny.model.clone(lm=tiny.model.lm.clone(vocab_size=50_021))
  shapes = jax.eval_shape(
      model.init, jax.random.key(0), tiny.images, tiny.tokens,
      tiny.image_index)['params']
  score = jax.jit(functools.partial(compiled.score, model))

  def temporary(classes):
    reading = Reading([Tree([(prompt(1), [
        [i % 211, i // 211, i] for i in range(classes)])], 10**6)], 0, 1)
    states = jax.ShapeDtypeStruct((1, 10_000, 11), jnp.float32)
    return score.lower(
        shapes, states, reading.nodes, reading.slots, reading.targets
    ).compile().memory_analysis().temp_size_in_bytes

  few, many = temporary(300), temporary(3000)
  logits = 256 * 50_023 * 4
  table = sum(leaf.size * 4 for path, leaf in params_lib.flatten(shapes)
              if path[-1] == 'embedding')
  assert many < 4 * logits + table < 3000 * 50_023 * 4
  assert many < few + 0.1 * logits
