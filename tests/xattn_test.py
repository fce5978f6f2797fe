"""Gated cross-attention: each token sees its image, and nothing else."""

from flamingo import params as params_lib
from flamingo.model.xattn import image_mask
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_blocks
from toy_blocks import B, FORMS, L, N, SWITCHES, WIDTH

SEEING = [dict(sees='all')] + [dict(form=form) for form in FORMS]


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


@pytest.mark.parametrize('seeing', SEEING)
def test_an_image_changes_only_the_tokens_that_see_it(
    random_params, seeing, run
):
  block = toy_blocks.make(**seeing)
  y, latents, index = toy_blocks.inputs()
  params = random_params(block, y, latents, index)
  before = run(block, params, y, latents, index)
  for image in range(1, N + 1):
    other = latents.at[:, image - 1].multiply(-3.0)
    after = run(block, params, y, other, index)
    sees_it = index >= image if 'sees' in seeing else index == image
    np.testing.assert_array_equal(_changed(before, after), sees_it)


@pytest.mark.parametrize('seeing', SEEING)
def test_a_token_without_an_image_gets_exactly_nothing(
    random_params, seeing, run
):
  # The dense half needs no image.
  block = toy_blocks.make(**seeing, ff_hidden=0)
  y, latents, index = toy_blocks.inputs()
  params = random_params(block, y, latents, index)
  out = run(block, params, y, latents, index)
  np.testing.assert_array_equal(_changed(y, out), index > 0)


@pytest.mark.parametrize('seeing', SEEING)
def test_a_token_without_an_image_has_no_influence(
    random_params, seeing, quick_jit
):
  block = toy_blocks.make(**seeing)
  y, latents, index = toy_blocks.inputs()
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


@pytest.mark.parametrize('seeing', SEEING)
def test_padded_images_change_nothing(random_params, seeing, run):
  block = toy_blocks.make(**seeing)
  y, latents, index = toy_blocks.inputs()
  params = random_params(block, y, latents, index)
  for padding in 0.0, 9.0:
    padded = jnp.pad(
        latents, ((0, 0), (0, 4), (0, 0), (0, 0)), constant_values=padding)
    np.testing.assert_allclose(
        run(block, params, y, padded, index),
        run(block, params, y, latents, index), rtol=1e-5, atol=1e-5)


def test_latents_of_one_image_have_no_order(random_params, run):
  block = toy_blocks.make()
  y, latents, index = toy_blocks.inputs()
  params = random_params(block, y, latents, index)
  np.testing.assert_allclose(
      run(block, params, y, latents[:, :, ::-1], index),
      run(block, params, y, latents, index), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', SWITCHES)
def test_every_switch_builds_and_every_parameter_is_used(
    random_params, name, quick_jit
):
  block = toy_blocks.make(**SWITCHES[name])
  inputs = toy_blocks.inputs()
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
  shapes = toy_blocks.shapes(**switches)
  usual = {
      'attn_gate', 'ff_gate', 'norm_text', 'norm_latents', 'norm_ff', 'query',
      'key', 'value', 'out', 'ff'}
  assert shapes.keys() == usual - lacks | adds


def test_rms_norms_have_no_offset_and_swiglu_has_three_kernels():
  shapes = toy_blocks.shapes(norm='rms', gated_ff=True)
  assert shapes['norm_text'].keys() == {'scale'}
  assert shapes['norm_latents'].keys() == {'scale'}
  assert shapes['ff'].keys() == {'gate', 'up', 'down'}


@pytest.mark.parametrize('gate', ['tanh', 'vector'])
def test_a_fresh_block_is_the_identity(gate, run, quick_jit):
  block, inputs = toy_blocks.make(gate=gate), toy_blocks.inputs()
  params = quick_jit(block.init)(jax.random.key(0), *inputs)['params']
  np.testing.assert_array_equal(run(block, params, *inputs), inputs[0])


def test_a_projection_of_zero_is_silent_behind_an_open_gate_and_learns(run):
  block = toy_blocks.make(gate_init=0.7, ff_gate_init=0.0, out_scale=0.0)
  inputs = toy_blocks.inputs()
  params = jax.jit(block.init)(jax.random.key(0), *inputs)['params']
  np.testing.assert_array_equal(run(block, params, *inputs), inputs[0])
  weights = jax.random.normal(jax.random.key(1), inputs[0].shape)
  gradient = jax.jit(jax.grad(
      lambda p: (weights * block.apply({'params': p}, *inputs)).sum()))(params)
  assert np.abs(gradient['out']['kernel']).min() > 0
  assert not np.any(gradient['value']['kernel'])  # it comes one step later


@pytest.mark.parametrize('given, attn, ff', [
    (dict(gate_init=0.3), 0.3, 0.3),
    (dict(gate_init=0.3, ff_gate_init=0.1), 0.3, 0.1),
    (dict(ff_gate_init=0.1), 0.0, 0.1),
    (dict(gate_init=0.3, ff_gate_init=0.0), 0.3, 0.0),
])
def test_gates_start_at_the_strength_they_are_given(given, attn, ff):
  def gates():  # what isn't returned isn't computed
    params = toy_blocks.make(gate='vector', **given).init(
        jax.random.key(0), *toy_blocks.inputs())['params']
    return params['attn_gate'], params['ff_gate']

  strengths = np.tanh(jax.jit(gates)())
  np.testing.assert_allclose(
      strengths, np.ones((2, WIDTH)) * [[attn], [ff]], rtol=1e-5)


def test_equal_gates_of_all_channels_are_one_gate(random_params, run):
  inputs = toy_blocks.inputs()
  params = random_params(toy_blocks.make(), *inputs)
  one_a_channel = {
      name: jnp.full(WIDTH, leaf) if name.endswith('_gate') else leaf
      for name, leaf in params.items()}
  np.testing.assert_allclose(
      run(toy_blocks.make(gate='vector'), one_a_channel, *inputs),
      run(toy_blocks.make(), params, *inputs), rtol=1e-5, atol=1e-5)


def test_no_gate_is_a_gate_that_is_wide_open(random_params, run):
  inputs = toy_blocks.inputs()
  params = random_params(toy_blocks.make(gate='none'), *inputs)
  wide = dict.fromkeys(
      ('attn_gate', 'ff_gate'), jnp.float32(99.0))  # tanh(99) = 1
  np.testing.assert_allclose(
      run(toy_blocks.make(), params | wide, *inputs),
      run(toy_blocks.make(gate='none'), params, *inputs), rtol=1e-5, atol=1e-5)


def test_a_scaled_branch_is_a_scaled_gate(random_params, run):
  # Without the dense half, which sees what the first half has added.
  inputs = toy_blocks.inputs()
  params = random_params(toy_blocks.make(ff_hidden=0), *inputs)
  block = lambda scale: toy_blocks.make(ff_hidden=0, branch_scale=scale)
  added = lambda scale: run(block(scale), params, *inputs) - inputs[0]
  np.testing.assert_allclose(added(7.0), 7 * added(1.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('switch', [
    dict(gate='tahn'), dict(norm='batch'), dict(sees='next'),
    dict(form='sorted')])
def test_a_setting_that_is_none_is_refused(switch):
  (name, value), = switch.items()
  with pytest.raises(ValueError, match=f"{name}='{value}' is no setting"):
    toy_blocks.shapes(**switch)
