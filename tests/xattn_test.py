"""Gated cross-attention: each token sees its image, and nothing else."""

import functools

from flamingo import params as params_lib
from flamingo.model import runs
from flamingo.model.xattn import GatedCrossAttention, image_mask
from flamingo.train.flops import product_flops
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


# How a token may be shown the latents of its image.
FORMS = ('projected', 'gathered', 'absorbed')
SEEING = [dict(sees='all')] + [dict(form=form) for form in FORMS]


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


@pytest.mark.parametrize('seeing', SEEING)
def test_an_image_changes_only_the_tokens_that_see_it(
    random_params, seeing, run
):
  block = _block(**seeing)
  y, latents, index = _inputs()
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
  block = _block(**seeing, ff_hidden=0)  # the dense half needs no image
  y, latents, index = _inputs()
  params = random_params(block, y, latents, index)
  out = run(block, params, y, latents, index)
  np.testing.assert_array_equal(_changed(y, out), index > 0)


@pytest.mark.parametrize('seeing', SEEING)
def test_a_token_without_an_image_has_no_influence(
    random_params, seeing, quick_jit
):
  block = _block(**seeing)
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


@pytest.mark.parametrize('seeing', SEEING)
def test_padded_images_change_nothing(random_params, seeing, run):
  block = _block(**seeing)
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
def test_a_fresh_block_is_the_identity(gate, run, quick_jit):
  block, inputs = _block(gate=gate), _inputs()
  params = quick_jit(block.init)(jax.random.key(0), *inputs)['params']
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
    dict(gate='tahn'), dict(norm='batch'), dict(sees='next'),
    dict(form='sorted')])
def test_a_setting_that_is_none_is_refused(switch):
  (name, value), = switch.items()
  with pytest.raises(ValueError, match=f"{name}='{value}' is no setting"):
    jax.eval_shape(_block(**switch).init, jax.random.key(0), *_inputs())


# The three forms of the attention.

ORDERS = {
    'rising': INDEX,
    'in any order, as prompts that share a row': jnp.asarray([
        [3, 0, 1, 1, 2, 3, 3, 1, 0, 2, 1, 3, 2],
        [2, 2, 2, 0, 1, 3, 1, 3, 1, 2, 0, 3, 3]]),
    'one image alone': jnp.full((B, L), 2),
    'none': jnp.zeros((B, L), int),
    'more images than there are': INDEX + 1,
}


@pytest.fixture(scope='module')
def value_and_gradient(quick_jit):
  """(block, params, *inputs) to the output and gradients of all but the last.

  The gradients are of a sum with weights that differ, so that none cancels.
  """
  @functools.partial(quick_jit, static_argnums=0)
  def run(block, params, y, latents, index):
    out, pull = jax.vjp(
        lambda *args: block.apply({'params': args[0]}, *args[1:], index),
        params, y, latents)
    return out, pull(jnp.sin(jnp.arange(out.size)).reshape(out.shape))

  return run


@pytest.mark.parametrize('form, switches', [
    ('gathered', {}), ('absorbed', {}),
    ('gathered', SWITCHES['idefics']),
    ('absorbed', SWITCHES['openflamingo'])])
def test_all_forms_are_the_projected_one(
    random_params, value_and_gradient, form, switches
):
  y, latents, _ = _inputs()
  block = _block(**switches)
  params = random_params(block, y, latents, INDEX)
  for index in ORDERS.values():
    came, expected = (
        value_and_gradient(
            block.clone(form=each), params, y, latents, index)
        for each in (form, 'projected'))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        came, expected)


def test_forms_have_the_same_parameters_from_the_same_key(quick_jit):
  made = [
      quick_jit(_block(form=form).init)(jax.random.key(0), *_inputs())
      for form in FORMS]
  jax.tree.map(np.testing.assert_array_equal, *made[:2])
  jax.tree.map(np.testing.assert_array_equal, *made[1:])


def test_low_precision_rounds_the_forms_apart_by_little(random_params, run):
  """By less than low precision itself does."""
  inputs = _inputs()
  block = _block(ff_hidden=0, gate='none')
  params = random_params(block, *inputs)
  low = block.clone(dtype=jnp.bfloat16)
  exact = run(block, params, *inputs)
  size = np.abs(exact - inputs[0]).max()
  for form in 'projected', 'absorbed':
    off = np.abs(run(low.clone(form=form), params, *inputs) - exact).max()
    assert 0 < off < 0.05 * size


@pytest.mark.parametrize('tokens, images', [
    (13, 3), (13, 1), (5, 7), (1, 1), (64, 20), (256, 32)])
@pytest.mark.parametrize('seed', range(3))
def test_runs_have_room_for_any_tokens(tokens, images, seed):
  rng = np.random.default_rng(seed)
  index = rng.integers(0, images + 1, (2, tokens))
  index[1] = rng.permutation(np.arange(tokens) % images) + 1  # all of them
  layout = runs.Runs.of(jnp.asarray(index), images)
  size = runs.run_size(tokens, images)
  assert layout.image.shape == (2, runs.run_count(tokens, images))
  for row in range(2):
    slot = np.asarray(layout.slot[row])
    sees = index[row] > 0
    np.testing.assert_array_equal(layout.sees[row], sees)
    assert len(set(slot[sees])) == sees.sum()  # each has its own
    np.testing.assert_array_equal(
        layout.token[row][slot[sees]], np.flatnonzero(sees))
    np.testing.assert_array_equal(
        layout.image[row][slot[sees] // size], index[row][sees] - 1)


def test_tokens_stand_together_by_the_image_they_see():
  """The example of `Runs`, with room for the most that might be needed."""
  index = jnp.asarray([[2, 2, 2, 0, 1, 1, 0, 0]])
  layout = runs.Runs.of(index, 2)
  assert runs.run_size(8, 2) == 2
  np.testing.assert_array_equal(layout.slot, [[2, 3, 4, 0, 0, 1, 0, 0]])
  np.testing.assert_array_equal(layout.image[0, :3], [0, 1, 1])
  np.testing.assert_array_equal(layout.token[0, :6], [4, 5, 0, 1, 2, 0])


THE_3B = dict(
    width=2048, visual_width=1536, heads=16, head_dim=128, ff_hidden=8192)


def _flops(block, tokens, images, latents):
  """Of the block's matrix products for one row, by its trace."""
  inputs = (
      jax.ShapeDtypeStruct((1, tokens, block.width), jnp.float32),
      jax.ShapeDtypeStruct(
          (1, images, latents, block.visual_width), jnp.float32),
      jax.ShapeDtypeStruct((1, tokens), jnp.int32))
  variables = jax.eval_shape(block.init, jax.random.key(0), *inputs)
  return product_flops(block.apply, variables, *inputs)


def test_absorbed_costs_the_same_for_any_number_of_images():
  block = GatedCrossAttention(**THE_3B, form='absorbed')
  few, many = (_flops(block, 256, n, 64) for n in (1, 32))
  assert many < 1.15 * few
  projected = block.clone(form='projected')
  assert _flops(projected, 256, 32, 64) > 2 * _flops(projected, 256, 1, 64)


def test_what_is_chosen_costs_little_more_for_32_images_than_for_one():
  """With the layer of the LM behind it, which a block never is without."""
  block = GatedCrossAttention(**THE_3B)
  layer = 2 * 256 * 12 * 2048**2
  one, *more = (
      layer + _flops(block, 256, n, 64) for n in (1, 2, 5, 8, 16, 32))
  assert max(more) < 1.2 * one


@pytest.mark.parametrize('switches, shape, form', [
    (THE_3B, dict(tokens=256, images=5, latents=64), 'projected'),
    (THE_3B, dict(tokens=256, images=32, latents=64), 'absorbed'),
    # Of a prompt, one image is left to be seen by each further token.
    (THE_3B, dict(tokens=1, images=1, latents=64), 'absorbed'),
    (THE_3B | dict(norm_heads=True),
     dict(tokens=2048, images=32, latents=64), 'gathered'),
    (THE_3B | dict(sees='all'),
     dict(tokens=256, images=32, latents=64), 'projected'),
    # Quickstart: products of 8 heads and 8 latents would be too small.
    (dict(width=576, visual_width=256, heads=8, head_dim=64, ff_hidden=1152),
     dict(tokens=64, images=20, latents=8), 'projected'),
])
def test_the_cheapest_form_is_chosen(switches, shape, form):
  assert GatedCrossAttention(**switches).choose_form(**shape) == form
  assert GatedCrossAttention(
      **switches, form='projected').choose_form(**shape) == 'projected'


@pytest.mark.parametrize('form', ['gathered', 'absorbed'])
def test_no_scores_of_all_latents_are_ever_made(form):
  made = lambda form: str(jax.make_jaxpr(
      lambda *x: _block(form=form).init_with_output(jax.random.key(0), *x))(
          *_inputs()))
  too_large = f'{L},{N * R}]'
  assert too_large in made('projected')
  assert too_large not in made(form)


@pytest.mark.parametrize('switches', [
    dict(form='absorbed', norm_heads=True), dict(form='gathered', sees='all')])
def test_a_form_that_does_not_go_with_a_setting_is_refused(switches):
  with pytest.raises(ValueError, match='does not go with'):
    jax.eval_shape(_block(**switches).init, jax.random.key(0), *_inputs())
