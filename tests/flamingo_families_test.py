"""Flamingo over other families: it takes their own way through the decoder."""

from flamingo import params as params_lib
from flamingo.model.positions import RopeScaling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

VOCAB = 259  # of the tiny model's LM; 259 and 260 are new

BIASED = dict(
    norm='layer', gated_ff=False, attn_bias=True, out_bias=True, ff_bias=True)
FAMILIES = {
    'gpt-2': BIASED | dict(position='learned', max_positions=13),
    'opt-350m': BIASED | dict(
        position='learned', max_positions=13, position_offset=2,
        norm_first=False, embed_width=7),
    'redpajama': BIASED | dict(tied=False),
    'mpt': dict(norm='layer', norm_bias=False, position='alibi'),
    'mistral': dict(window=3),
    'gemma 3': dict(
        norm_plus_one=True, norm_after=True, norm_heads='head', window=3,
        global_every=2, local_rope_base=100.0, embed_scale=11**0.5,
        rope_scaling=RopeScaling('linear', 8.0)),
}
every_family = pytest.mark.parametrize('family', FAMILIES)


@pytest.fixture(scope='module')
def build(tiny, random_params):
  """A family to the tiny Flamingo over it, and random parameters."""
  built = {}

  def build(family):
    if family not in built:
      lm = tiny.model.lm.clone(layers=2, **FAMILIES[family])
      model = tiny.model.clone(
          lm=lm, xattn=tiny.model.xattn[:1],
          resampler=tiny.model.resampler.clone(layers=1))
      built[family] = model, random_params(
          model, tiny.images, tiny.tokens, tiny.image_index)
    return built[family]

  return build


@pytest.fixture(scope='module')
def read(tiny, quick_jit):
  """Logits of tokens whose places may be given, and the cache."""
  def run(model, params, tokens, image_index, options):
    variables = {'params': params}
    latents = model.apply(variables, tiny.images, method='see')
    x, cache = model.apply(
        variables, latents, tokens, image_index, method='read', **options)
    return model.apply(variables, x, method='logits'), cache

  run = quick_jit(run, static_argnums=0)
  return lambda model, params, tokens, index, **options: run(
      model, params, tokens, index, options)


@every_family
def test_with_gates_at_zero_it_is_the_language_model_with_more_rows(
    tiny, build, read, quick_jit, family
):
  model, params = build(family)
  closed = params_lib.unflatten(
      (path, 0 * leaf if path[-1].endswith('_gate') else leaf)
      for path, leaf in params_lib.flatten(params))
  longer = model.lm.clone(vocab_size=VOCAB + 2)
  lm = params['lm'] | {'embed': {'embedding': jnp.concatenate([
      params['lm']['embed']['embedding'], params['new_embedding']])}}
  if not longer.tied:
    lm['unembed'] = {'kernel': jnp.concatenate([
        lm['unembed']['kernel'], params['new_unembedding'].T], axis=1)}
  assert (tiny.tokens >= VOCAB).sum() > 5
  np.testing.assert_allclose(
      read(model, closed, tiny.tokens, tiny.image_index)[0],
      quick_jit(lambda lm: longer.apply({'params': lm}, tiny.tokens)[0])(lm),
      rtol=1e-5, atol=1e-5)


@every_family
def test_continuations_side_by_side_know_only_their_own_past(
    tiny, build, read, family
):
  """Positions say what is near: places of the second one are further away."""
  model, params = build(family)
  prompt, a, b = slice(0, 5), slice(5, 9), slice(9, 13)
  tokens = tiny.tokens.at[:, b].set(tiny.tokens[:, a])
  index = tiny.image_index.at[:, b].set(tiny.image_index[:, a])
  positions = jnp.asarray([[*range(9), *range(5, 9)]] * 2)
  mask = np.tril(np.ones((2, 13, 13), bool))
  mask[:, b, a] = False
  expected, _ = read(model, params, tiny.tokens, tiny.image_index)
  came, _ = read(
      model, params, tokens, index, positions=positions, mask=jnp.asarray(mask))
  for part, place in (prompt, prompt), (a, a), (b, a):
    np.testing.assert_allclose(
        came[:, part], expected[:, place], rtol=1e-4, atol=1e-5)


@every_family
def test_reading_on_behind_such_a_tree_goes_on_from_one_of_them(
    tiny, build, read, family
):
  """The cache keeps positions, so that its slots need be in no order."""
  model, params = build(family)
  expected, _ = read(model, params, tiny.tokens, tiny.image_index)
  # Slots: 4 tokens, 4 that nobody sees later, then tokens 4 to 12.
  tokens = jnp.concatenate(
      [tiny.tokens[:, :4], tiny.tokens[:, 7:11], tiny.tokens[:, 4:6]], axis=1)
  index = jnp.concatenate([
      tiny.image_index[:, :4], tiny.image_index[:, 7:11],
      tiny.image_index[:, 4:6]], axis=1)
  positions = jnp.asarray([[0, 1, 2, 3, 4, 5, 6, 7, 4, 5]] * 2)
  mask = np.tril(np.ones((2, 10, 17), bool))
  mask[:, 8:, 4:8] = False
  _, cache = read(
      model, params, tokens, index, positions=positions,
      mask=jnp.asarray(mask), cache=model.lm.empty_cache(2, 17))
  rest = np.tril(np.ones((2, 7, 17), bool), k=10)
  rest[:, :, 4:8] = False
  came, _ = read(
      model, params, tiny.tokens[:, 6:], tiny.image_index[:, 6:], cache=cache,
      positions=jnp.asarray([[*range(6, 13)]] * 2), mask=jnp.asarray(rest))
  np.testing.assert_allclose(came, expected[:, 6:], rtol=1e-4, atol=1e-5)


@every_family
def test_what_is_trained_is_moved_and_the_decoder_is_not(
    tiny, build, quick_jit, family
):
  model, params = build(family)
  trainable, frozen = params_lib.split(params)
  assert frozen.keys() == {'lm'}
  gradients = quick_jit(jax.grad(lambda trainable: jnp.square(model.apply(
      {'params': params_lib.merge(trainable, frozen)}, tiny.images, tiny.tokens,
      tiny.image_index)).mean()))(trainable)
  for path, gradient in params_lib.flatten(gradients):
    assert np.isfinite(gradient).all() and np.any(gradient), path


def test_rows_of_new_tokens_are_as_wide_as_the_embeddings(build):
  model, params = build('opt-350m')
  assert model.lm.row_width == 7 and params['new_embedding'].shape == (2, 7)


def test_more_tokens_than_learned_positions_are_refused(tiny, build, read):
  model, params = build('gpt-2')
  longer = lambda x: jnp.pad(x, ((0, 0), (0, 1)))
  with pytest.raises(ValueError, match='14 tokens came.*max_positions=13'):
    read(model, params, longer(tiny.tokens), longer(tiny.image_index))
