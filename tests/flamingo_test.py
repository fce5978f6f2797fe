"""The whole model: at gate zero the LM it was made of; then one that sees."""

from flamingo import params as params_lib
from flamingo.model.flamingo import gated_layers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

VOCAB = 259  # of the tiny model's LM; 259 and 260 are new


@pytest.fixture(scope='module')
def bare():
  """(lm, params, tokens) to logits of an LM without any of Flamingo."""
  run = jax.jit(
      lambda lm, params, tokens: lm.apply({'params': params}, tokens)[0],
      static_argnums=0)
  return lambda *args: np.asarray(run(*args))


@pytest.fixture(scope='module')
def logits(tiny):
  """Of the tiny model with its gates open."""
  return np.asarray(
      tiny.forward(tiny.params, tiny.images, tiny.tokens, tiny.image_index))


def _changed(before, after):
  """Tokens [B L] whose logits are not bit for bit the same."""
  return np.any(np.asarray(before) != np.asarray(after), axis=-1)


# Gates at zero.


def test_with_gates_at_zero_it_is_the_language_model_bit_for_bit(tiny, bare):
  tokens = tiny.tokens % VOCAB
  expected = bare(tiny.model.lm, tiny.closed['lm'], tokens)
  for images in tiny.images, -9 * tiny.images, jnp.zeros_like(tiny.images):
    came = tiny.forward(tiny.closed, images, tokens, tiny.image_index)
    np.testing.assert_array_equal(came[..., :VOCAB], expected)


def test_new_tokens_are_rows_behind_the_vocabulary_bit_for_bit(tiny, bare):
  longer = tiny.model.lm.clone(vocab_size=VOCAB + 2)
  embedding = jnp.concatenate([
      tiny.closed['lm']['embed']['embedding'], tiny.closed['new_embedding']])
  params = tiny.closed['lm'] | {'embed': {'embedding': embedding}}
  assert (tiny.tokens >= VOCAB).sum() > 5
  np.testing.assert_array_equal(
      tiny.forward(tiny.closed, tiny.images, tiny.tokens, tiny.image_index),
      bare(longer, params, tiny.tokens))


def test_an_untied_head_gets_rows_of_its_own(tiny, bare, random_params):
  model = tiny.model.clone(
      lm=tiny.model.lm.clone(tied=False, layers=1), xattn=())
  inputs = tiny.images, tiny.tokens, tiny.image_index
  params = random_params(model, *inputs)
  longer = model.lm.clone(vocab_size=VOCAB + 2)
  lm = params['lm'] | {
      'embed': {'embedding': jnp.concatenate([
          params['lm']['embed']['embedding'], params['new_embedding']])},
      'unembed': {'kernel': jnp.concatenate([
          params['lm']['unembed']['kernel'], params['new_unembedding'].T], 1)}}
  np.testing.assert_allclose(
      jax.jit(lambda p, *x: model.apply({'params': p}, *x))(params, *inputs),
      bare(longer, lm, tiny.tokens), rtol=1e-5, atol=1e-6)


def test_a_fresh_model_has_its_gates_at_zero(tiny):
  def gates():  # what isn't returned isn't computed
    params = tiny.model.init(
        jax.random.key(0), tiny.images, tiny.tokens, tiny.image_index)['params']
    return params_lib.split(params, lambda path: path[-1].endswith('_gate'))[0]

  leaves = list(params_lib.flatten(jax.jit(gates)()))
  assert len(leaves) == 4
  for path, gate in leaves:
    assert gate == 0, path


def test_the_first_step_moves_gates_and_new_rows_and_nothing_behind_gates(tiny):
  for path, gradient in _gradients(tiny, tiny.closed):
    if path[-1].endswith('_gate'):
      assert gradient != 0, path
    elif path == ('new_embedding',):
      assert np.abs(gradient).min(axis=1).all()
    else:
      np.testing.assert_array_equal(gradient, 0, err_msg=str(path))


def test_with_open_gates_every_trainable_parameter_is_moved(tiny):
  gradients = dict(_gradients(tiny, tiny.params))
  assert {path[0] for path in gradients} == {
      'xattn_0', 'xattn_1', 'resampler', 'new_embedding'}
  for path, gradient in gradients.items():
    assert np.isfinite(gradient).all() and np.any(gradient), path


_gradient = jax.jit(
    jax.grad(lambda trainable, frozen, model, *inputs: jnp.square(model.apply(
        {'params': params_lib.merge(trainable, frozen)}, *inputs)).mean()),
    static_argnums=2)


def _gradients(tiny, params):
  gradients = _gradient(
      *params_lib.split(params), tiny.model, tiny.images, tiny.tokens,
      tiny.image_index)
  return params_lib.flatten(gradients)


def test_deleting_the_new_modules_restores_the_language_model(
    tiny, bare, logits
):
  tokens = tiny.tokens % VOCAB
  expected = bare(tiny.model.lm, tiny.closed['lm'], tokens)
  assert _changed(logits[..., :VOCAB], expected).all(where=tiny.image_index > 0)
  blind = tiny.model.clone(xattn=(), every=7, offset=6)
  kept = {k: tiny.params[k] for k in ('lm', 'new_embedding')}

  @jax.jit
  def run(params, tokens):
    x, _ = blind.apply(
        {'params': params}, jnp.zeros((2, 3, 5, 19)), tokens, tiny.image_index,
        method='read')
    return blind.apply({'params': params}, x, method='logits')

  np.testing.assert_array_equal(run(kept, tokens)[..., :VOCAB], expected)


# Gates open.


def test_logits_do_not_depend_on_what_comes_later(tiny, logits):
  place = np.broadcast_to(np.arange(tiny.tokens.shape[1]), tiny.tokens.shape)
  for t in place[0]:
    edited = tiny.tokens.at[:, t].set((tiny.tokens[:, t] + 1) % VOCAB)
    after = tiny.forward(tiny.params, tiny.images, edited, tiny.image_index)
    np.testing.assert_array_equal(_changed(logits, after), place >= t)


def test_text_before_the_first_image_cannot_see_it(tiny, logits):
  after = tiny.forward(
      tiny.params, -tiny.images, tiny.tokens, tiny.image_index)
  np.testing.assert_array_equal(
      _changed(logits, after), tiny.image_index > 0)


def test_an_image_changes_tokens_from_its_tag_on_and_only_those(tiny, logits):
  for image in range(1, 4):
    other = tiny.images.at[:, image - 1].multiply(-1.0)
    after = tiny.forward(tiny.params, other, tiny.tokens, tiny.image_index)
    # Text behind the next image still knows, through the LM's self-attention.
    seen = np.logical_or.accumulate(tiny.image_index == image, axis=1)
    np.testing.assert_array_equal(_changed(logits, after), seen)


def test_an_image_that_no_token_sees_changes_nothing(tiny, logits):
  index = jnp.where(tiny.image_index == 3, 2, tiny.image_index)
  run = lambda images: tiny.forward(tiny.params, images, tiny.tokens, index)
  np.testing.assert_array_equal(
      run(tiny.images), run(tiny.images.at[:, 2].set(9.0)))


def test_rows_of_a_batch_do_not_meet(tiny, logits):
  after = tiny.forward(
      tiny.params, tiny.images.at[1].set(3.0), tiny.tokens.at[1].set(5),
      tiny.image_index.at[1].set(1))
  assert not _changed(logits, after)[0].any()


@pytest.mark.parametrize('layers, every, offset, expected', [
    (24, 1, 0, tuple(range(24))),  # Flamingo-3B, OpenFlamingo-3B
    (32, 4, 0, (0, 4, 8, 12, 16, 20, 24, 28)),  # Flamingo-9B, IDEFICS-9B
    (80, 7, 0, tuple(range(0, 80, 7))),  # Flamingo-80B
    (32, 4, 3, (3, 7, 11, 15, 19, 23, 27, 31)),  # OpenFlamingo-9B
    (32, 2, 1, tuple(range(1, 32, 2))),  # OpenFlamingo-4B
    (80, 4, 0, tuple(range(0, 80, 4))),  # IDEFICS-80B
    (5, 7, 6, ()),
])
def test_gated_blocks_stand_where_the_families_have_them(
    layers, every, offset, expected
):
  assert gated_layers(layers, every, offset) == expected


def test_a_gated_block_stands_before_its_layer(tiny, read):
  """Keys of a layer know the images from the first gated block on."""
  def keys(images):
    cache = tiny.model.lm.empty_cache(2, 13)
    latents = tiny.model.apply({'params': tiny.params}, images, method='see')
    _, cache = read(
        latents, tiny.tokens, tiny.image_index, jnp.ones((2, 13), bool), cache)
    return cache.keys

  same = [
      np.array_equal(one, other)
      for one, other in zip(keys(tiny.images), keys(-tiny.images))]
  assert same == [True, False, False, False, False]  # the first is before 1


# Reading on from a cache.


@pytest.fixture(scope='module')
def read(tiny):
  """Reads tokens on from a cache: logits, and the cache."""
  @jax.jit
  def run(latents, tokens, image_index, valid, cache):
    variables = {'params': tiny.params}
    x, cache = tiny.model.apply(
        variables, latents, tokens, image_index, valid=valid, cache=cache,
        method='read')
    return tiny.model.apply(variables, x, method='logits'), cache

  return run


@pytest.fixture(scope='module')
def latents(tiny):
  return tiny.model.apply({'params': tiny.params}, tiny.images, method='see')


@pytest.mark.parametrize('side', ['left', 'right'])
def test_reading_on_equals_reading_at_once_for_ragged_rows(
    tiny, logits, latents, read, side
):
  cache = tiny.model.lm.empty_cache(2, 17)
  rng = np.random.default_rng(0)
  done = [0, 0]
  # Tokens of each row in each call. The second row begins with padding, the
  # first one pauses; neither knows of the other.
  for size, counts in [(5, (5, 2)), (3, (3, 3)), (3, (1, 3)), (1, (0, 1))]:
    tokens = rng.integers(0, VOCAB + 2, (2, size))  # padding is anything
    index = rng.integers(0, 4, (2, size))
    valid = np.zeros((2, size), bool)
    places = []
    for row, n in enumerate(counts):
      place = slice(size - n, size) if side == 'left' else slice(0, n)
      at = slice(done[row], done[row] + n)
      tokens[row, place] = tiny.tokens[row, at]
      index[row, place] = tiny.image_index[row, at]
      valid[row, place] = True
      places.append((place, at))
      done[row] += n
    came, cache = read(latents, tokens, index, valid, cache)
    for row, (place, at) in enumerate(places):
      np.testing.assert_allclose(
          came[row, place], logits[row, at], rtol=1e-4, atol=1e-5)
  assert done == [9, 9] and cache.length == 12
  np.testing.assert_array_equal(cache.valid.sum(1), [9, 9])


@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_changes_nothing_without_a_cache(
    tiny, logits, latents, read, side
):
  width = ((0, 0), (4, 0) if side == 'left' else (0, 4))
  place = slice(4, None) if side == 'left' else slice(0, 13)
  came, cache = read(
      latents, jnp.pad(tiny.tokens, width, constant_values=7),
      jnp.pad(tiny.image_index, width, constant_values=1),
      jnp.pad(jnp.ones((2, 13), bool), width), None)
  assert cache is None
  np.testing.assert_allclose(came[:, place], logits, rtol=1e-4, atol=1e-5)


def test_one_may_say_who_sees_whom_and_where_it_stands(tiny, logits, latents):
  """Candidates side by side behind one prompt, each blind to the others."""
  variables = {'params': tiny.params}
  prompt, a, b = slice(0, 5), slice(5, 9), slice(9, 13)
  # Twice tokens 5 to 8: one document with two equal ends.
  tokens = tiny.tokens.at[:, b].set(tiny.tokens[:, a])
  index = tiny.image_index.at[:, b].set(tiny.image_index[:, a])
  positions = jnp.asarray([[*range(9), *range(5, 9)]] * 2)
  mask = np.tril(np.ones((2, 13, 13), bool))
  mask[:, b, a] = False
  x, _ = tiny.model.apply(
      variables, latents, tokens, index, positions=positions,
      mask=jnp.asarray(mask), method='read')
  came = tiny.model.apply(variables, x, method='logits')
  for part, expected in (prompt, prompt), (a, a), (b, a):
    np.testing.assert_allclose(
        came[:, part], logits[:, expected], rtol=1e-4, atol=1e-5)
