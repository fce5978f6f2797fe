"""One decoder, many families: what must hold whatever the settings."""

import functools

from flamingo import params as params_lib
from flamingo.model.lm import LM
from flamingo.model.positions import RopeScaling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

VOCAB, ROWS, LENGTH = 59, 2, 9

BIASED = dict(attn_bias=True, out_bias=True, ff_bias=True)
LAYER_NORM = dict(norm='layer', gated_ff=False)
LEARNED = dict(position='learned', max_positions=LENGTH)

FAMILIES = {
    'llama': dict(),
    'llama 3.1': dict(
        rope_scaling=RopeScaling('llama3', 8.0, original=19), tied=False,
        unembed_bias=True),
    'mistral': dict(window=3),
    'gpt-2': LAYER_NORM | BIASED | LEARNED | dict(activation='gelu_tanh'),
    'opt': LAYER_NORM | BIASED | LEARNED | dict(
        activation='relu', position_offset=2),
    'opt-350m': LAYER_NORM | BIASED | LEARNED | dict(
        activation='relu', position_offset=2, norm_first=False, embed_width=7),
    'pythia': LAYER_NORM | BIASED | dict(
        activation='gelu', rope_fraction=0.25, parallel=True, tied=False),
    'mpt': LAYER_NORM | dict(
        activation='gelu', norm_bias=False, position='alibi', clip_qkv=0.5),
    'mpt-1b': LAYER_NORM | dict(
        activation='gelu', norm_bias=False, position='alibi',
        norm_heads='width'),
    'gemma 3': dict(
        activation='gelu_tanh', norm_plus_one=True, norm_after=True,
        norm_heads='head', window=3, global_every=2, rope_base=1e6,
        local_rope_base=1e4, rope_scaling=RopeScaling('linear', 8.0),
        query_scale=0.3, embed_scale=13**0.5),
}
every_family = pytest.mark.parametrize('family', FAMILIES)


def make(**settings):
  sizes = dict(
      vocab_size=VOCAB, width=13, layers=2, heads=6, kv_heads=3, head_dim=8,
      hidden=17)
  return LM(**sizes | settings)


def draw_tokens(rows=ROWS, length=LENGTH):
  rng = np.random.default_rng(5)
  return jnp.asarray(rng.integers(0, VOCAB, (rows, length)), jnp.int32)


@pytest.fixture(scope='module')
def build(random_params):
  """Settings to an LM and its parameters, random in every leaf."""
  def build(**settings):
    lm = make(**settings)
    return lm, random_params(lm, jnp.zeros((1, 3), jnp.int32))
  return build


@pytest.fixture(scope='module')
def of_family(build):
  return functools.cache(lambda family: build(**FAMILIES[family]))


@pytest.fixture(scope='module')
def read(quick_jit):
  """(lm, params, tokens, valid=None, cache=None) to logits and the cache."""
  jitted = quick_jit(
      lambda lm, params, tokens, valid, cache: lm.apply(
          {'params': params}, tokens, valid=valid, cache=cache),
      static_argnums=0)

  def read(lm, params, tokens, valid=None, cache=None):
    if valid is None and lm.position != 'learned':  # one program fewer
      valid = jnp.ones(tokens.shape, bool)
    return jitted(lm, params, tokens, valid, cache)

  return read


def logits_of(read, model, tokens, valid=None):
  return np.asarray(read(*model, tokens, valid)[0])


def first_layer(model):
  """The model without its second layer, which compiles faster."""
  lm, params = model
  kept = {name: leaf for name, leaf in params.items() if name != 'layer_1'}
  return lm.clone(layers=1), kept


# Whatever the family.


@every_family
@pytest.mark.parametrize('side', ['left', 'right'])
def test_reading_on_from_a_cache_equals_reading_at_once(
    of_family, read, family, side
):
  lm, params = of_family(family)
  tokens = draw_tokens()
  expected = logits_of(read, (lm, params), tokens)
  cache = lm.empty_cache(ROWS, 16)
  rng = np.random.default_rng(0)
  done = [0, 0]
  # A prompt, padded in the second row, and steps; the rows pause in turn.
  size = 4  # always, so that one program does
  for counts in (4, 2), (4, 4), (1, 2), (0, 1):
    given = rng.integers(0, VOCAB, (ROWS, size))  # padding is anything
    valid = np.zeros((ROWS, size), bool)
    places = []
    for row, n in enumerate(counts):
      place = slice(size - n, size) if side == 'left' else slice(0, n)
      at = slice(done[row], done[row] + n)
      given[row, place], valid[row, place] = tokens[row, at], True
      places.append((place, at))
      done[row] += n
    came, cache = read(lm, params, given, valid, cache)
    assert np.isfinite(came).all()
    for row, (place, at) in enumerate(places):
      np.testing.assert_allclose(
          came[row, place], expected[row, at], rtol=1e-4, atol=1e-5)
  assert done == [LENGTH, LENGTH] and cache.length == 16


@every_family
@pytest.mark.parametrize('side', ['left', 'right'])
def test_a_padded_row_says_what_the_row_says_alone(
    of_family, read, family, side
):
  model, tokens = of_family(family), draw_tokens()
  expected = logits_of(read, model, tokens)
  first, place = slice(0, 5), slice(4, None) if side == 'left' else slice(0, 5)
  padded = jnp.full_like(tokens, 7).at[1, place].set(tokens[1, first])
  valid = jnp.zeros(tokens.shape, bool).at[1, place].set(True)
  came = logits_of(
      read, model, padded.at[0].set(tokens[0]), valid.at[0].set(True))
  assert np.isfinite(came).all()
  np.testing.assert_allclose(came[0], expected[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
      came[1, place], expected[1, first], rtol=1e-4, atol=1e-5)


@every_family
def test_a_token_changes_itself_and_nothing_before_it(of_family, read, family):
  model, tokens = of_family(family), draw_tokens()
  before = logits_of(read, model, tokens)
  for t in range(LENGTH):
    edited = tokens.at[:, t].set((tokens[:, t] + 1) % VOCAB)
    changed = np.any(before != logits_of(read, model, edited), axis=-1)
    assert changed[:, t].all() and not changed[:, :t].any()


@every_family
def test_the_order_of_the_tokens_matters(of_family, read, family):
  model, tokens = of_family(family), draw_tokens()
  swapped = tokens.at[:, 6].set(tokens[:, 7]).at[:, 7].set(tokens[:, 6])
  assert np.abs(
      logits_of(read, model, tokens) - logits_of(read, model, swapped)
  )[:, 8].max() > 1e-3


@every_family
def test_sums_are_float32_and_what_is_kept_is_small(family):
  lm = make(dtype=jnp.bfloat16, **FAMILIES[family])
  tokens = draw_tokens()

  def read(tokens):
    (x, cache), _ = lm.init_with_output(
        jax.random.key(0), tokens, cache=lm.empty_cache(ROWS, LENGTH))
    return x, cache.keys + cache.values

  x, kept = jax.eval_shape(read, tokens)
  assert x.dtype == jnp.float32
  assert all(leaf.dtype == jnp.bfloat16 for leaf in kept)
  sizes = jax.eval_shape(lambda tokens: lm.init_with_output(
      jax.random.key(0), tokens, method='residual_rms')[0], tokens)
  assert sizes.dtype == jnp.float32 and sizes.shape == (2, ROWS, LENGTH)


@every_family
def test_every_parameter_is_used(of_family, quick_jit, family):
  lm, params = first_layer(of_family(family))
  tokens = draw_tokens()
  gradients = quick_jit(jax.grad(lambda params: jnp.square(
      lm.apply({'params': params}, tokens)[0]).mean()))(params)
  for path, gradient in params_lib.flatten(gradients):
    assert np.isfinite(gradient).all() and np.any(gradient), path


# One setting at a time.


@pytest.mark.parametrize('family, setting', [
    ('llama', dict(rope_base=500.0)),
    ('llama', dict(rope_fraction=0.5)),
    ('llama', dict(rope_scaling=RopeScaling('linear', 2.0))),
    ('llama', dict(rope_scaling=RopeScaling('llama3', 8.0, original=19))),
    ('llama', dict(window=8)),
    ('llama', dict(query_scale=0.1)),
    ('llama', dict(clip_qkv=0.2)),
    ('llama', dict(embed_scale=2.0)),
    ('llama', dict(parallel=True)),
    ('llama', dict(norm_plus_one=True)),
    ('llama', dict(norm='layer', norm_bias=False)),
    ('llama', dict(norm_eps=0.1)),
    ('llama', dict(activation='gelu')),
    ('llama', dict(position='alibi')),
    ('mistral', dict(global_every=1)),
    ('mistral', dict(local_rope_base=500.0)),
    ('gemma 3', dict(rope_base=1e4)),
    ('gemma 3', dict(rope_scaling=None)),
    ('mpt', dict(alibi_max=4.0)),
    ('opt', dict(position_offset=1, max_positions=LENGTH + 1)),
])
def test_a_setting_makes_a_difference(of_family, read, family, setting):
  """With the same parameters: a setting that goes unread would make none."""
  lm, params = of_family(family)
  if family != 'gemma 3':  # whose layers differ
    lm, params = first_layer((lm, params))
  tokens = draw_tokens()
  difference = logits_of(read, (lm, params), tokens) - logits_of(
      read, (lm.clone(**setting), params), tokens)
  assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize('family, setting', [
    ('llama', dict(rope_scaling=RopeScaling('llama3', 1.0, original=19))),
    ('llama', dict(rope_scaling=RopeScaling('linear', 1.0))),
    ('llama', dict(query_scale=8**-0.5)),
    ('llama', dict(window=LENGTH)),
    ('llama', dict(window=2, global_every=1, local_rope_base=500.0)),
    ('llama', dict(max_positions=1, position_offset=3, alibi_max=1.0)),
    ('mistral', dict(rope_base=500.0, local_rope_base=1e4)),
    ('mistral', dict(
        local_rope_base=1e4, rope_scaling=RopeScaling('linear', 2.0))),
    ('mpt', dict(clip_qkv=0.5, rope_base=500.0)),
])
def test_a_setting_that_says_the_same_or_has_no_say_changes_nothing(
    of_family, read, family, setting
):
  lm, params = first_layer(of_family(family))
  tokens = draw_tokens()
  np.testing.assert_allclose(
      logits_of(read, (lm, params), tokens),
      logits_of(read, (lm.clone(**setting), params), tokens),
      rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('settings, expected', [
    (dict(layers=1), """
        1 0 0 0 0 0
        1 1 0 0 0 0
        1 1 1 0 0 0
        0 1 1 1 0 0
        0 0 1 1 1 0
        0 0 0 1 1 1"""),
    (dict(layers=2), """
        1 0 0 0 0 0
        1 1 0 0 0 0
        1 1 1 0 0 0
        1 1 1 1 0 0
        1 1 1 1 1 0
        0 1 1 1 1 1"""),
    (dict(layers=2, global_every=2), """
        1 0 0 0 0 0
        1 1 0 0 0 0
        1 1 1 0 0 0
        1 1 1 1 0 0
        1 1 1 1 1 0
        1 1 1 1 1 1"""),
    (dict(layers=1, global_every=2), """
        1 0 0 0 0 0
        1 1 0 0 0 0
        1 1 1 0 0 0
        0 1 1 1 0 0
        0 0 1 1 1 0
        0 0 0 1 1 1"""),
])
def test_with_a_window_of_three_a_token_sees_three(
    build, read, settings, expected
):
  """Row: the token that looks; column: the one that is changed."""
  model = build(window=3, **settings)
  tokens = draw_tokens(length=6)
  before = logits_of(read, model, tokens)
  seen = np.zeros((6, 6), int)
  for t in range(6):
    edited = tokens.at[:, t].set((tokens[:, t] + 1) % VOCAB)
    seen[:, t] = np.any(before != logits_of(read, model, edited), axis=(0, 2))
  expected = [list(map(int, row.split())) for row in expected.split('\n')[1:]]
  np.testing.assert_array_equal(seen, expected)


def test_projections_around_a_narrow_embedding_are_linear_maps(of_family):
  lm, params = of_family('opt-350m')
  bound = lm.bind({'params': params})
  tokens = draw_tokens()
  rows, table = np.asarray(bound.embed(tokens)), params['position']['embedding']
  assert rows.shape == (ROWS, LENGTH, 7)
  np.testing.assert_allclose(
      bound.begin(jnp.asarray(rows), bound.place(tokens)),
      rows @ np.asarray(params['embed_in']['kernel'])
      + np.asarray(table)[None, 2:], rtol=1e-5, atol=1e-5)
  x = np.random.default_rng(0).normal(size=(3, 13)).astype(np.float32)
  np.testing.assert_allclose(
      bound.logits(bound.end(jnp.asarray(x[None])))[0],
      x @ np.asarray(params['embed_out']['kernel'])
      @ np.asarray(params['embed']['embedding']).T, rtol=1e-4, atol=1e-5)


def test_the_scale_of_the_embedding_is_not_on_the_output(of_family):
  lm, params = of_family('gemma 3')
  bound, tokens = lm.bind({'params': params}), draw_tokens()
  table = np.asarray(params['embed']['embedding'])
  rows = table[np.asarray(tokens)]
  np.testing.assert_allclose(
      bound.begin(bound.embed(tokens), bound.place(tokens)), rows * 13**0.5,
      rtol=1e-6)
  np.testing.assert_allclose(
      bound.logits(jnp.asarray(rows)), rows @ table.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('family, expected', [
    ('llama', 'embed/embedding final_norm/scale'),
    ('llama 3.1', 'embed/embedding final_norm/scale unembed/bias '
     'unembed/kernel'),
    ('gpt-2', 'embed/embedding final_norm/bias final_norm/scale '
     'position/embedding'),
    ('opt-350m', 'embed/embedding embed_in/kernel embed_out/kernel '
     'position/embedding'),
    ('mpt', 'embed/embedding final_norm/scale'),
])
def test_parameters_around_the_layers_have_their_names(
    of_family, family, expected
):
  paths = [path for path, _ in params_lib.flatten(of_family(family)[1])]
  assert ' '.join(
      '/'.join(path) for path in paths if not path[0].startswith('layer_')
  ) == expected


# What is refused.


@pytest.mark.parametrize('settings, message', [
    (dict(kv_heads=4), 'kv_heads=4 does not divide'),
    (dict(norm='batch'), "kind='batch' is no kind of norm"),
    (dict(position='absolute'), "position='absolute' is no setting of LM"),
    (dict(activation='swish'), "activation='swish' is not known.*'silu'"),
    (dict(norm_heads='all'), "norm_heads='all' is no norm of queries"),
    (dict(position='learned'), 'needs max_positions'),
    (dict(rope_fraction=0.4), 'channels is 3; they turn in pairs'),
    (dict(rope_fraction=0.1), 'channels is 0; they turn in pairs'),
    (dict(global_every=6), 'set `window` too'),
    (dict(local_rope_base=1e4), 'set `window` too'),
    (dict(window=0), 'window=0 must be at least 1'),
    (dict(parallel=True, norm_first=False), 'parallel=True needs norm_first'),
    (dict(unembed_bias=True), 'unembed_bias=True needs tied=False'),
])
def test_settings_that_make_no_model_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(make(**settings).init, jax.random.key(0), draw_tokens())


@pytest.mark.parametrize('family', ['gpt-2', 'opt'])
def test_more_tokens_than_learned_positions_are_refused(
    of_family, read, family
):
  model = of_family(family)
  assert logits_of(read, model, draw_tokens()).shape == (ROWS, LENGTH, VOCAB)
  with pytest.raises(ValueError, match=r'10 tokens came.*max_positions=9'):
    read(*model, draw_tokens(length=10))


def test_a_position_beyond_the_last_learned_one_gives_nan(of_family, read):
  """The compiled step doesn't know how far it is; it must not go on quietly."""
  lm, params = of_family('opt')
  tokens = draw_tokens()
  cache = lm.empty_cache(ROWS, LENGTH + 1)
  valid = jnp.ones(tokens.shape, bool).at[1, :2].set(False)
  _, cache = read(lm, params, tokens, valid, cache)
  came, _ = read(lm, params, tokens[:, :1], None, cache)
  assert np.isnan(came[0]).all() and np.isfinite(came[1]).all()


def test_tokens_that_the_cache_has_no_room_for_are_refused(of_family, read):
  lm, params = of_family('llama')
  with pytest.raises(ValueError, match='5 slots, 0 of them used, and 6 more'):
    read(lm, params, draw_tokens(length=6), None, lm.empty_cache(ROWS, 5))
  # Outside of compiled functions, how many it holds is known.
  cache = lm.empty_cache(ROWS, 5).replace(length=jnp.int32(4))
  with pytest.raises(ValueError, match='5 slots, 4 of them used, and 2 more'):
    lm.apply({'params': params}, draw_tokens(length=2), cache=cache)
