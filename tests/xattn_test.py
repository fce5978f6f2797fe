"""Gated cross-attention: each token sees its image, and nothing else."""

from flamingo import params as params_lib
from flamingo.model.xattn import GatedCrossAttention, image_mask
import jax
import jax.numpy as jnp
import numpy as np
import pytest

B, L, N, R, WIDTH, VISUAL = 2, 13, 3, 5, 11, 19
INDEX = jnp.asarray([
    [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3],
    [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0, 0]], jnp.int32)

# Every setting that a reproduction of Flamingo differs in.
SWITCHES = {
    'flamingo': {},
    'openflamingo': dict(
        heads=8, head_dim=64, activation='gelu', norm_visual=False),
    'idefics': dict(
        activation='silu', gated_ff=True, norm='rms', norm_visual=False,
        norm_heads=True),
    'gate a channel': dict(gate='vector'),
    'no gate': dict(gate='none'),
    'vanilla': dict(gate='none', ff_hidden=0),
    'no dense half': dict(ff_hidden=0),
    'all images': dict(sees='all'),
    'louder branches': dict(branch_scale=7.0),
    'larger epsilon': dict(norm_eps=0.1),
    'low precision': dict(dtype=jnp.bfloat16),
}


def _block(**kwargs):
  return GatedCrossAttention(**{
      'width': WIDTH, 'visual_width': VISUAL, 'heads': 2, 'head_dim': 13,
      'ff_hidden': 31} | kwargs)


def _inputs():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return draw(B, L, WIDTH), draw(B, N, R, VISUAL), INDEX


def _changed(before, after):
  return np.any(before != after, axis=-1)


def _draw(mask):
  return [''.join('.x'[x] for x in row) for row in np.asarray(mask[0], int)]


def test_a_token_sees_the_latents_of_its_image():
  index = jnp.asarray([[0, 1, 1, 2, 2]])
  assert _draw(image_mask(index, images=2, latents=3, sees='last')) == [
      '......',
      'xxx...',
      'xxx...',
      '...xxx',
      '...xxx',
  ]


def test_a_token_may_see_the_images_before_too():
  index = jnp.asarray([[0, 1, 1, 2, 2]])
  assert _draw(image_mask(index, images=2, latents=3, sees='all')) == [
      '......',
      'xxx...',
      'xxx...',
      'xxxxxx',
      'xxxxxx',
  ]


def test_an_index_need_not_rise():
  index = jnp.asarray([[3, 0, 1, 2]])
  assert _draw(image_mask(index, images=3, latents=1, sees='last')) == [
      '..x', '...', 'x..', '.x.']


@pytest.mark.parametrize('sees', ['last', 'all'])
def test_an_image_changes_only_the_tokens_that_see_it(random_params, sees, run):
  block = _block(sees=sees)
  y, latents, index = _inputs()
  params = random_params(block, y, latents, index)
  before = run(block, params, y, latents, index)
  for image in range(1, N + 1):
    other = latents.at[:, image - 1].multiply(-3.0)
    after = run(block, params, y, other, index)
    sees_it = index == image if sees == 'last' else index >= image
    np.testing.assert_array_equal(_changed(before, after), sees_it)


@pytest.mark.parametrize('sees', ['last', 'all'])
def test_a_token_without_an_image_gets_exactly_nothing(
    random_params, sees, run
):
  block = _block(sees=sees, ff_hidden=0)  # the dense half needs no image
  y, latents, index = _inputs()
  params = random_params(block, y, latents, index)
  out = run(block, params, y, latents, index)
  np.testing.assert_array_equal(_changed(y, out), index > 0)


@pytest.mark.parametrize('sees', ['last', 'all'])
def test_a_token_without_an_image_has_no_influence(
    random_params, sees, quick_jit
):
  block = _block(sees=sees)
  y, latents, index = _inputs()
  params = random_params(block, y, latents, index)

  def blind(params, latents):
    out = block.apply({'params': params}, y, latents, index)
    return jnp.where(index[:, :, None] == 0, out**2, 0).sum()

  d_params, d_latents = quick_jit(jax.grad(blind, (0, 1)))(params, latents)
  np.testing.assert_array_equal(d_latents, 0)
  for path, gradient in params_lib.flatten(d_params):
    looks = path[0] in (
        'attn_gate', 'query', 'key', 'value', 'out', 'norm_text',
        'norm_latents')
    assert np.any(gradient) != looks, path


@pytest.mark.parametrize('sees', ['last', 'all'])
def test_padded_images_change_nothing(random_params, sees, run):
  block = _block(sees=sees)
  y, latents, index = _inputs()
  params = random_params(block, y, latents, index)
  for padding in 0.0, 9.0:
    padded = jnp.pad(
        latents, ((0, 0), (0, 4), (0, 0), (0, 0)), constant_values=padding)
    np.testing.assert_allclose(
        run(block, params, y, padded, index),
        run(block, params, y, latents, index), rtol=1e-5, atol=1e-5)


def test_latents_of_one_image_have_no_order(random_params, run):
  block = _block()
  y, latents, index = _inputs()
  params = random_params(block, y, latents, index)
  np.testing.assert_allclose(
      run(block, params, y, latents[:, :, ::-1], index),
      run(block, params, y, latents, index), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', SWITCHES)
def test_every_switch_builds_and_every_parameter_is_used(
    random_params, name, quick_jit
):
  block = _block(**SWITCHES[name])
  inputs = _inputs()
  params = random_params(block, *inputs)

  def loss(params):
    out = block.apply({'params': params}, *inputs)
    assert out.shape == (B, L, WIDTH) and out.dtype == jnp.float32
    return (out**3).mean()

  for path, gradient in params_lib.flatten(quick_jit(jax.grad(loss))(params)):
    assert np.isfinite(gradient).all() and np.any(gradient), path


@pytest.mark.parametrize('switches, adds, lacks', [
    (dict(), set(), set()),
    (dict(norm_visual=False), set(), {'norm_latents'}),
    (dict(norm_heads=True), {'norm_query', 'norm_key'}, set()),
    (dict(gate='none'), set(), {'attn_gate', 'ff_gate'}),
    (dict(ff_hidden=0), set(), {'ff_gate', 'ff', 'norm_ff'}),
])
def test_a_switch_brings_its_parameters_and_no_others(switches, adds, lacks):
  shapes = jax.eval_shape(
      _block(**switches).init, jax.random.key(0), *_inputs())['params']
  usual = {
      'attn_gate', 'ff_gate', 'norm_text', 'norm_latents', 'norm_ff', 'query',
      'key', 'value', 'out', 'ff'}
  assert shapes.keys() == usual - lacks | adds


def test_rms_norms_have_no_offset_and_swiglu_has_three_kernels():
  shapes = jax.eval_shape(
      _block(norm='rms', gated_ff=True).init, jax.random.key(0), *_inputs())
  shapes = shapes['params']
  assert shapes['norm_text'].keys() == {'scale'}
  assert shapes['norm_latents'].keys() == {'scale'}
  assert shapes['ff'].keys() == {'gate', 'up', 'down'}


@pytest.mark.parametrize('gate', ['tanh', 'vector'])
def test_a_fresh_block_is_the_identity(gate, run):
  block, inputs = _block(gate=gate), _inputs()
  params = block.init(jax.random.key(0), *inputs)['params']
  np.testing.assert_array_equal(run(block, params, *inputs), inputs[0])


@pytest.mark.parametrize('given, attn, ff', [
    (dict(gate_init=0.3), 0.3, 0.3),
    (dict(gate_init=0.3, ff_gate_init=0.1), 0.3, 0.1),
    (dict(ff_gate_init=0.1), 0.0, 0.1),
    (dict(gate_init=0.3, ff_gate_init=0.0), 0.3, 0.0),
])
def test_gates_start_at_the_strength_they_are_given(given, attn, ff):
  def gates():  # what isn't returned isn't computed
    params = _block(gate='vector', **given).init(
        jax.random.key(0), *_inputs())['params']
    return params['attn_gate'], params['ff_gate']

  strengths = np.tanh(jax.jit(gates)())
  np.testing.assert_allclose(
      strengths, np.ones((2, WIDTH)) * [[attn], [ff]], rtol=1e-5)


def test_equal_gates_of_all_channels_are_one_gate(random_params, run):
  inputs = _inputs()
  params = random_params(_block(), *inputs)
  one_a_channel = {
      name: jnp.full(WIDTH, leaf) if name.endswith('_gate') else leaf
      for name, leaf in params.items()}
  np.testing.assert_allclose(
      run(_block(gate='vector'), one_a_channel, *inputs),
      run(_block(), params, *inputs), rtol=1e-5, atol=1e-5)


def test_no_gate_is_a_gate_that_is_wide_open(random_params, run):
  inputs = _inputs()
  params = random_params(_block(gate='none'), *inputs)
  wide = jnp.float32(99.0)  # tanh(99) = 1
  np.testing.assert_allclose(
      run(_block(), params | {'attn_gate': wide, 'ff_gate': wide}, *inputs),
      run(_block(gate='none'), params, *inputs), rtol=1e-5, atol=1e-5)


def test_a_scaled_branch_is_a_scaled_gate(random_params, run):
  # Without the dense half, which sees what the first half has added.
  inputs = _inputs()
  params = random_params(_block(ff_hidden=0), *inputs)
  added = lambda scale: run(
      _block(ff_hidden=0, branch_scale=scale), params, *inputs) - inputs[0]
  np.testing.assert_allclose(added(7.0), 7 * added(1.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('switch', [
    dict(gate='tahn'), dict(norm='batch'), dict(sees='next')])
def test_a_setting_that_is_none_is_refused(switch):
  (name, value), = switch.items()
  with pytest.raises(ValueError, match=f"{name}='{value}' is no setting"):
    jax.eval_shape(_block(**switch).init, jax.random.key(0), *_inputs())
