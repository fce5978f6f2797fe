"""The forms of a gated block's attention do the same, and what each costs."""

import functools

from flamingo.model import runs
from flamingo.model.xattn import GatedCrossAttention
from flamingo.train.flops import product_flops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_blocks
from toy_blocks import B, FORMS, INDEX, L, N, R, SWITCHES

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
  y, latents, _ = toy_blocks.inputs()
  block = toy_blocks.make(**switches)
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
      quick_jit(toy_blocks.make(form=form).init)(
          jax.random.key(0), *toy_blocks.inputs())
      for form in FORMS]
  jax.tree.map(np.testing.assert_array_equal, *made[:2])
  jax.tree.map(np.testing.assert_array_equal, *made[1:])


def test_low_precision_rounds_the_forms_apart_by_little(random_params, run):
  """By less than low precision itself does."""
  inputs = toy_blocks.inputs()
  block = toy_blocks.make(ff_hidden=0, gate='none')
  params = random_params(block, *inputs)
  low = block.clone(dtype=jnp.bfloat16)
  exact = run(block, params, *inputs)
  size = np.abs(exact - inputs[0]).max()
  for form in 'projected', 'absorbed':
    off = np.abs(run(low.clone(form=form), params, *inputs) - exact).max()
    assert 0 < off < 0.05 * size


def _lay_out(index, images):
  return jax.device_get(_runs_of(index, images))


_runs_of = jax.jit(runs.Runs.of, static_argnums=1)


@pytest.mark.parametrize('tokens, images', [
    (13, 3), (13, 1), (5, 7), (1, 1), (64, 20), (256, 32)])
@pytest.mark.parametrize('seed', range(3))
def test_runs_have_room_for_any_tokens(tokens, images, seed):
  rng = np.random.default_rng(seed)
  index = rng.integers(0, images + 1, (2, tokens))
  index[1] = rng.permutation(np.arange(tokens) % images) + 1  # all of them
  layout = _lay_out(index, images)
  size = runs.run_size(tokens, images)
  assert layout.image.shape == (2, runs.run_count(tokens, images))
  for row in range(2):
    slot, sees = layout.slot[row], index[row] > 0
    np.testing.assert_array_equal(layout.sees[row], sees)
    assert len(set(slot[sees])) == sees.sum()  # each has its own
    np.testing.assert_array_equal(
        layout.token[row][slot[sees]], np.flatnonzero(sees))
    np.testing.assert_array_equal(
        layout.image[row][slot[sees] // size], index[row][sees] - 1)


def test_tokens_stand_together_by_the_image_they_see():
  """The example of `Runs`, with room for the most that might be needed."""
  layout = _lay_out(np.asarray([[2, 2, 2, 0, 1, 1, 0, 0]]), 2)
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
      lambda *x: toy_blocks.make(form=form).init_with_output(
          jax.random.key(0), *x))(*toy_blocks.inputs()))
  too_large = f'{L},{N * R}]'
  assert too_large in made('projected')
  assert too_large not in made(form)


@pytest.mark.parametrize('switches', [
    dict(form='absorbed', norm_heads=True), dict(form='gathered', sees='all')])
def test_a_form_that_does_not_go_with_a_setting_is_refused(switches):
  with pytest.raises(ValueError, match='does not go with'):
    toy_blocks.shapes(**switches)
