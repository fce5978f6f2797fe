"""Asking a model: shared prompts and caches say what plain calls say."""

from flamingo import sharding
from flamingo.analysis.occlusion import relevance
from flamingo.data import encode
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval import fewshot, metrics
from flamingo.eval.batches import batches
from flamingo.eval.decode import Predictor
from flamingo.eval.fewshot import Shot, Trial
from flamingo.eval.sample import Sampling
from flamingo.types import Chunk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

TOKENIZER = Tokenizer.bytes()
BLANK = 0
LENGTH, IMAGES = 48, 5  # of the plain model's only shape
STORE = np.random.default_rng(3).normal(size=(9, 7, 23)).astype(np.float32)

NAMES = ('dax', 'day', 'wug', 'w')
SUPPORT = tuple(
    Shot(image=i, answer=name)
    for i, name in ((1, 'dax'), (2, 'wug'), (3, 'w'), (4, 'day')))


def trial(shots, query=5, text='', names=NAMES):
  return Trial(
      id=0, support=SUPPORT[:shots], candidates=names,
      query=Shot(image=query, text=text, answer=names[0]))


def ask(trial):
  return (fewshot.to_prompt(trial, TOKENIZER),
          fewshot.candidate_tokens(trial.candidates, TOKENIZER))


# Prompts of one episode, a blank query, a question, and text alone.
GROUPS = [
    [ask(trial(0)), ask(trial(2)), ask(trial(2, query=BLANK)), ask(trial(4))],
    [ask(trial(1, query=2, text=' what?'))],
    [(encode.encode(
        [Chunk(text='dogs:', close=False)], TOKENIZER, max_images=0),
      [[1, 2], [3]])],
    [ask(trial(3, query=3, names=('a', 'b')))],
]
PROMPTS = [prompt for group in GROUPS for prompt, _ in group]
# Two batches, of 2 and 6 tokens and of 24 and 18, so that little is compiled.
RAGGED = [PROMPTS[i] for i in (3, 0, 5, 6)]
TOKENS = 5


@pytest.fixture(scope='module')
def small(tiny, random_params):
  """A smaller model still, and its parameters: many shapes are compiled."""
  model = tiny.model.clone(
      lm=tiny.model.lm.clone(layers=2), xattn=tiny.model.xattn[:1],
      resampler=tiny.model.resampler.clone(layers=1))
  return model, random_params(
      model, tiny.images, tiny.tokens, tiny.image_index)


@pytest.fixture(scope='module')
def predictor(small, quick_jit):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'jit', quick_jit)
    return Predictor(
        *small, STORE.__getitem__, never=TOKENIZER.unsaid_ids,
        pad_id=TOKENIZER.pad_id, tokens_at_once=96)


@pytest.fixture(scope='module')
def plain(small):
  """(params, prompt, more tokens) to log-probabilities [n V], uncached."""
  model, usual = small

  def call(params, images, tokens, index):
    logits = model.apply({'params': params}, images, tokens, index)
    return jax.nn.log_softmax(logits)

  jitted = jax.jit(call)

  def run(prompt, more=(), params=usual):
    n = len(prompt.tokens) + len(more)
    images = np.zeros((1, IMAGES, 1, 7, 23), np.float32)
    if prompt.images is not None:
      images[0, : len(prompt.images), 0] = STORE[prompt.images]
    tokens, index = np.zeros((2, 1, LENGTH), np.int32)
    tokens[0, :n] = [*prompt.tokens, *more]
    index[0, :n] = [*prompt.image_index, *[prompt.image_index[-1]] * len(more)]
    return np.asarray(jitted(params, images, tokens, index))[0, :n]

  return run


def score(plain, prompt, ids):
  """Log-likelihood of one candidate behind one prompt."""
  log_p = plain(prompt, ids[:-1]).astype(np.float64)
  first = len(prompt.tokens) - 1
  return sum(log_p[first + k, token] for k, token in enumerate(ids))


def assert_scores(came, expected, tolerance=1e-5):
  for group, expected_group in zip(came, expected, strict=True):
    for scores, others in zip(group, expected_group, strict=True):
      np.testing.assert_allclose(scores, others, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope='module')
def alone(plain):
  return [
      [[score(plain, prompt, ids) for ids in candidates]
       for prompt, candidates in group]
      for group in GROUPS]


# Ranking.


def test_ranking_equals_scoring_each_candidate_alone(predictor, alone):
  assert_scores(predictor.rank(GROUPS), alone)
  assert np.std(np.concatenate(alone[0])) > 0.1  # there is something to compare


def test_scores_do_not_depend_on_how_prompts_are_grouped(predictor, alone):
  apart = [[one] for group in GROUPS for one in group]
  flat = [[scores] for group in alone for scores in group]
  assert_scores(predictor.rank(apart), flat)
  assert_scores(predictor.rank(apart[::-1]), flat[::-1])


def test_scores_do_not_depend_on_the_batch_size(predictor, alone, monkeypatch):
  monkeypatch.setattr(predictor, 'tokens_at_once', 1)  # row by row
  assert_scores(predictor.rank(GROUPS), alone)


def test_batches_are_of_few_shapes_and_leave_nobody_out():
  lengths = np.random.default_rng(0).integers(3, 40, size=101)
  found = list(batches(lengths, 256))
  assert sorted(i for where, _, _ in found for i in where) == list(range(101))
  for where, rows, length in found:
    assert len(where) <= rows <= 256 // length
    assert all(lengths[i] <= length for i in where)
  # One shape a length is compiled, and only the last batch has room.
  shapes = {(rows, length) for _, rows, length in found}
  assert len(shapes) == len({length for _, length in shapes}) < len(found)
  assert all(len(where) == rows for where, rows, _ in found[:-1])
  # Few prompts are not padded to many.
  (_, rows, _), = batches([5] * 3, 256)
  assert rows == 4
  # Eight parts have as many rows each.
  shared = list(batches(lengths, 256, shards=8, behind=16))
  assert sorted(i for where, _, _ in shared for i in where) == list(range(101))
  for _, rows, length in shared:
    assert rows % 8 == 0 and rows // 8 <= max(1, 256 // (length + 16))


def test_ranking_does_not_depend_on_the_order_of_candidates(predictor, alone):
  order = [2, 0, 3, 1]
  prompt, candidates = GROUPS[0][1]
  scores = predictor.rank([[(prompt, [candidates[i] for i in order])]])[0][0]
  np.testing.assert_allclose(scores, np.asarray(alone[0][1])[order], rtol=1e-5)


def test_the_picture_of_the_query_counts(alone):
  assert np.abs(np.subtract(alone[0][1], alone[0][2])).max() > 0.01


def test_a_model_that_says_everything_alike_gets_chance(
    predictor, small, monkeypatch
):
  silent = jax.tree.map(jnp.zeros_like, small[1])
  monkeypatch.setattr(predictor, 'params', silent)
  monkeypatch.setattr(predictor, '_latents', {})
  prompt, candidates = ask(trial(2, names=('dax', 'fep', 'wug')))
  for order in [0, 1, 2], [2, 1, 0]:
    scores = predictor.rank([[(prompt, [candidates[i] for i in order])]])[0][0]
    for answer in range(3):
      assert metrics.is_best(scores, answer) == pytest.approx(1 / 3)


@pytest.mark.parametrize('candidates', [[], [[1], []]])
def test_a_prompt_without_candidates_is_refused(predictor, candidates):
  with pytest.raises(ValueError, match='candidates of at least one token'):
    predictor.rank([[(PROMPTS[0], candidates)]])


def test_a_picture_is_seen_once(predictor, monkeypatch):
  asked = []
  monkeypatch.setattr(predictor, '_latents', {})
  monkeypatch.setattr(
      predictor, 'features', lambda rows: asked.append(rows) or STORE[rows])
  first = predictor.latents([4, 2, 4])
  np.testing.assert_array_equal(predictor.latents([2, 4]), first[[1, 0]])
  assert [sorted(set(rows.tolist())) for rows in asked] == [[2, 4]]


# Generation.


def search(plain, prompt, *, beams, max_tokens, stop, length_penalty, params):
  """Beam search the slow way: every hypothesis is read anew."""
  worth = lambda said, total, end: total / max(
      len(said) + end, 1) ** length_penalty
  alive, ended = [((), 0.0)], []
  for _ in range(max_tokens):
    following = []
    for said, total in alive:
      log_p = plain(prompt, said, params=params)[-1].astype(np.float64)
      following += [
          (total + log_p[token], said + (token,))
          for token in range(len(log_p)) if token != TOKENIZER.image_id]
    following.sort(key=lambda entry: -entry[0])
    ended += [
        (said[:-1], total) for total, said in following[:beams]
        if said[-1] == stop]
    alive = [
        (said, total) for total, said in following if said[-1] != stop][:beams]
    done = sorted((worth(*e, True) for e in ended), reverse=True)
    if len(done) >= beams and (
        beams == 1 or done[beams - 1] >= max(worth(*a, False) for a in alive)):
      alive = []
      break
  return max(
      [(worth(*e, True), e) for e in ended]
      + [(worth(*a, False), a) for a in alive], key=lambda entry: entry[0])[1]


def assert_generates(predictor, plain, prompts, *, params, **kwargs):
  came = predictor.generate(prompts, **kwargs)
  kwargs = {'length_penalty': 0.0} | kwargs
  for one, prompt in zip(came, prompts, strict=True):
    said, total = search(plain, prompt, params=params, **kwargs)
    assert one.tokens == said
    assert one.log_likelihood == pytest.approx(total, rel=1e-5, abs=1e-5)
  return came


@pytest.fixture(scope='module')
def stop(plain, small):
  """A token that is said early by some prompt."""
  said, _ = search(
      plain, RAGGED[0], beams=1, max_tokens=3, stop=-1, length_penalty=0,
      params=small[1])
  return said[2]


def test_greedy_generation_equals_reading_everything_anew(
    predictor, plain, small, stop
):
  came = assert_generates(
      predictor, plain, RAGGED, beams=1, max_tokens=TOKENS, stop=stop,
      params=small[1])
  lengths = {len(one.tokens) for one in came}
  assert TOKENS in lengths and min(lengths) < TOKENS  # some end, some don't


@pytest.mark.parametrize('length_penalty', [0.0, 1.0])
def test_a_beam_of_three_equals_reading_everything_anew(
    predictor, plain, small, stop, length_penalty
):
  came = assert_generates(
      predictor, plain, RAGGED, beams=3, max_tokens=TOKENS, stop=stop,
      length_penalty=length_penalty, params=small[1])
  if not length_penalty:
    assert min(len(one.tokens) for one in came) < TOKENS


def test_generation_does_not_depend_on_the_batch(predictor, stop):
  kwargs = dict(max_tokens=TOKENS, stop=stop)
  together = predictor.generate(RAGGED, **kwargs)
  backwards = predictor.generate(RAGGED[::-1], **kwargs)[::-1]
  alone = [predictor.generate([prompt], **kwargs)[0] for prompt in RAGGED]
  for one, *others in zip(together, backwards, alone):
    for other in others:
      assert one.tokens == other.tokens
      assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-5)


@pytest.mark.parametrize('beams', [1, 3])
def test_the_image_tag_is_never_said_though_the_model_would(
    predictor, plain, small, monkeypatch, beams
):
  rows = small[1]['new_embedding']
  eager = small[1] | {'new_embedding': rows.at[0].multiply(30)}
  wanted = [
      plain(prompt, params=eager)[-1].argmax() == TOKENIZER.image_id
      for prompt in RAGGED]
  assert any(wanted)
  monkeypatch.setattr(predictor, 'params', eager)
  for one in assert_generates(
      predictor, plain, RAGGED, beams=beams, max_tokens=TOKENS,
      stop=TOKENIZER.eoc_id, params=eager):
    assert TOKENIZER.image_id not in one.tokens


def test_a_prompt_that_does_not_fit_is_refused(small):
  model, params = small
  table = model.clone(lm=model.lm.clone(position='learned', max_positions=9))
  short = Predictor(table, params, STORE.__getitem__, pad_id=258)
  assert len(PROMPTS[0].tokens) == 2
  with pytest.raises(ValueError, match='2 tokens long and 8 more.*9 positions'):
    short.generate(PROMPTS[:1], max_tokens=9, stop=0)
  with pytest.raises(ValueError, match='28 tokens long and 0 more'):
    short.rank(GROUPS[:1])
  empty = encode.Example(None, *np.zeros((3, 0), np.int32))
  with pytest.raises(ValueError, match='A prompt is empty'):
    short.generate([empty], max_tokens=3, stop=0)


# Sampling.


SAMPLING = Sampling(temperature=1.3, top_k=40, top_p=0.9, seed=3)


def test_draws_depend_neither_on_the_batch_nor_on_other_draws(predictor):
  kwargs = dict(max_tokens=TOKENS, sampling=SAMPLING, stop=-1)
  kwargs['stop'] = predictor.sample(RAGGED, **kwargs)[0][0].tokens[2]
  together = predictor.sample(RAGGED, draws=3, **kwargs)
  backwards = predictor.sample(RAGGED[::-1], draws=3, **kwargs)[::-1]
  alone = [
      predictor.sample([prompt], **kwargs)[0] for prompt in RAGGED]
  said = lambda several: [[g.tokens for g in draws] for draws in several]
  assert said(together) == said(backwards)
  assert [draws[:1] for draws in said(together)] == said(alone)
  assert len({g.tokens for draws in together for g in draws}) > len(RAGGED)
  lengths = {len(g.tokens) for draws in together for g in draws}
  assert TOKENS in lengths and min(lengths) < TOKENS


def test_a_drawn_text_has_the_likelihood_that_reading_it_gives(
    predictor, plain, stop
):
  came = predictor.sample(
      RAGGED, max_tokens=TOKENS, stop=stop, sampling=SAMPLING, draws=2)
  for prompt, draws in zip(RAGGED, came, strict=True):
    for one in draws:
      ids = one.tokens + (stop,) * (len(one.tokens) < TOKENS)
      assert one.log_likelihood == pytest.approx(
          score(plain, prompt, ids), rel=1e-5, abs=1e-5)


def test_the_only_token_left_is_the_greedy_one(predictor, stop):
  kwargs = dict(max_tokens=TOKENS, stop=stop)
  greedy = predictor.generate(RAGGED, **kwargs)
  for sampling in Sampling(top_k=1), Sampling(temperature=1e-6):
    drawn = predictor.sample(RAGGED, sampling=sampling, **kwargs)
    assert [g.tokens for (g,) in drawn] == [g.tokens for g in greedy]


def test_names_give_prompts_a_chance_of_their_own(predictor, stop):
  kwargs = dict(max_tokens=TOKENS, stop=stop, sampling=Sampling(seed=1))
  twice = [RAGGED[0]] * 2
  one, same = predictor.sample(twice, **kwargs)
  assert one == same
  first, second = predictor.sample(twice, names=['a', 'b'], **kwargs)
  (again,) = predictor.sample(twice[:1], names=['b'], **kwargs)
  assert first[0].tokens != second[0].tokens == again[0].tokens


# Hiding places.


def test_introduced_features_are_rows_like_those_of_the_store(
    predictor, alone, monkeypatch
):
  monkeypatch.setattr(predictor, '_latents', {})
  first = predictor.introduce(STORE[[5, BLANK]])
  more = predictor.introduce(STORE[[1] * 65])
  assert len({*first, *more}) == 67 and max(first + more) < 0
  candidates = GROUPS[0][1][1]
  scores = predictor.rank([
      [(fewshot.to_prompt(trial(2, query=row), TOKENIZER), candidates)]
      for row in first])
  assert_scores(scores, [[alone[0][1]], [alone[0][2]]])


def test_relevance_is_what_hiding_a_place_costs_the_answer(
    predictor, monkeypatch
):
  square = STORE[:, :4].copy()  # 2 x 2 places
  square[5, 3] = square[BLANK, 3]  # nothing there to hide
  hidden = np.repeat(square[5:6], 5, axis=0)
  for place in range(4):
    hidden[1 + place, place] = square[BLANK, place]
  every = np.concatenate([square, hidden])
  monkeypatch.setattr(predictor, 'features', every.__getitem__)
  monkeypatch.setattr(predictor, '_latents', {})
  asked = [trial(2), trial(1, query=6)]
  came = relevance(predictor, asked, TOKENIZER, blank=BLANK)

  scores = [
      predictor.rank([[ask(trial(2, query=len(square) + k))]])[0][0]
      for k in range(5)]
  log_p = np.array([s[0] - np.log(np.exp(s).sum()) for s in scores])
  np.testing.assert_allclose(
      came[0].ravel(), np.maximum(log_p[0] - log_p[1:], 0), atol=1e-5)
  assert came[0].shape == (2, 2) and came[0][1, 1] < 1e-5 < came[0].max()
  assert came[1].shape == (2, 2)
  alone = relevance(predictor, asked[1:], TOKENIZER, blank=BLANK)
  np.testing.assert_allclose(alone[0], came[1], atol=1e-5)


def test_a_model_that_attends_to_all_images_is_refused(small):
  model, params = small
  every = model.clone(xattn=[b.clone(sees='all') for b in model.xattn])
  with pytest.raises(ValueError, match="sees='last'"):
    Predictor(every, params, STORE.__getitem__, pad_id=258)


# Several devices.


@pytest.mark.parametrize('sizes', [dict(data=2), dict(data=1, fsdp=2)])
def test_two_devices_say_what_one_says(
    small, predictor, alone, stop, quick_jit, sizes
):
  # Beams follow their hypotheses within a prompt's rows, on its device.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'jit', quick_jit)
    shared = Predictor(
        *small, STORE.__getitem__, never=TOKENIZER.unsaid_ids,
        pad_id=TOKENIZER.pad_id, tokens_at_once=48,
        mesh=sharding.make_mesh(**sizes))
  assert_scores(shared.rank(GROUPS[:2]), alone[:2])
  kwargs = dict(max_tokens=TOKENS, stop=stop, beams=3)
  for one, other in zip(
      shared.generate(RAGGED, **kwargs), predictor.generate(RAGGED, **kwargs),
      strict=True):
    assert one.tokens == other.tokens
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-5)
