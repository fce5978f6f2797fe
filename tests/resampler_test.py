"""The Perceiver Resampler: always R latents, in order of time, not of place."""

from flamingo import params as params_lib
from flamingo.model.resampler import interpolate, PerceiverResampler
import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Of the features, of the latents, and how many of them.
VISUAL, WIDTH, R = 23, 19, 5


def _resampler(**kwargs):
  return PerceiverResampler(**{
      'visual_width': VISUAL, 'width': WIDTH, 'layers': 2, 'latents': R,
      'heads': 3, 'head_dim': 7, 'ff_hidden': 29, 'frames': 3,
      'project_input': True} | kwargs)


def _visual(frames=2, places=7, width=VISUAL):
  rng = np.random.default_rng(frames)
  return jnp.asarray(rng.normal(size=(2, frames, places, width)), jnp.float32)


@pytest.fixture(scope='module')
def params(random_params):
  return random_params(_resampler(), _visual())


@pytest.mark.parametrize('frames, places', [(1, 1), (1, 7), (3, 2), (11, 5)])
def test_any_number_of_frames_and_places_becomes_r_latents(
    params, frames, places, run
):
  out = run(_resampler(), params, _visual(frames, places))
  assert out.shape == (2, R, WIDTH)
  assert np.isfinite(out).all()


def test_frames_have_an_order(params, run):
  visual = _visual()
  out = run(_resampler(), params, visual)
  assert np.abs(run(_resampler(), params, visual[:, ::-1]) - out).max() > 0.01


def test_places_have_none_but_what_the_encoder_says(params, run):
  visual = _visual()
  order = np.random.default_rng(0).permutation(visual.shape[2])
  np.testing.assert_allclose(
      run(_resampler(), params, visual[:, :, order]),
      run(_resampler(), params, visual), rtol=1e-4, atol=1e-5)


def test_without_time_embeddings_frames_are_places(random_params, run):
  resampler, visual = _resampler(frames=0), _visual()
  params = random_params(resampler, visual)
  assert 'time' not in params
  out = run(resampler, params, visual)
  for same in visual[:, ::-1], visual.reshape(2, 1, -1, VISUAL):
    np.testing.assert_allclose(
        run(resampler, params, same), out, rtol=1e-4, atol=1e-5)


def test_rows_of_a_batch_do_not_meet(params, run):
  visual = _visual()
  before = run(_resampler(), params, visual)
  after = run(_resampler(), params, visual.at[1].set(0.0))
  np.testing.assert_array_equal(before[0], after[0])
  assert np.abs(before[1] - after[1]).max() > 0.01


def test_latents_differ_from_one_another(params, run):
  out = run(_resampler(), params, _visual())[0]
  assert len(np.unique(out.round(2), axis=0)) == R


def test_eight_times_serve_thirty_frames_and_the_ends_stay_the_ends():
  time = jnp.asarray(
      np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
  out = interpolate(time, 30)
  assert out.shape == (30, 3)
  np.testing.assert_allclose(out[0], time[0], rtol=1e-6)
  np.testing.assert_allclose(out[-1], time[-1], rtol=1e-6)
  at = np.linspace(0, 7, 30)
  for channel in range(3):
    np.testing.assert_allclose(
        out[:, channel], np.interp(at, np.arange(8), time[:, channel]),
        rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('frames', [1, 3, 8])
def test_times_that_are_enough_are_taken_as_they_are(frames):
  time = jnp.arange(24.0).reshape(8, 3)
  np.testing.assert_array_equal(interpolate(time, frames), time[:frames])


def test_one_time_serves_any_number_of_frames():
  np.testing.assert_array_equal(
      interpolate(jnp.ones((1, 3)), 5), np.ones((5, 3)))


@pytest.mark.parametrize('switches, adds, lacks', [
    (dict(project_input=False, width=VISUAL), set(), {'input'}),
    (dict(norm_heads=True), set(), set()),
    (dict(final_norm=False), set(), {'norm'}),
    (dict(frames=0), set(), {'time'}),
    (dict(activation='relu', norm_heads=True, frames=0), set(), {'time'}),
    (dict(activation='gelu', heads=8, head_dim=64), set(), set()),
    (dict(layers=3), {'layer_2'}, set()),
    (dict(dtype=jnp.bfloat16), set(), set()),
])
def test_every_switch_builds_and_every_parameter_is_used(
    random_params, switches, adds, lacks, quick_jit
):
  resampler, visual = _resampler(**switches), _visual()
  params = random_params(resampler, visual)
  usual = {'input', 'latent', 'layer_0', 'layer_1', 'norm', 'time'}
  assert params.keys() == usual - lacks | adds

  def loss(params):
    out = resampler.apply({'params': params}, visual)
    assert out.shape == (2, R, resampler.width) and out.dtype == jnp.float32
    return (out**3).mean()

  for path, gradient in params_lib.flatten(quick_jit(jax.grad(loss))(params)):
    assert np.isfinite(gradient).all() and np.any(gradient), path


def test_the_feed_forward_is_four_times_as_wide_unless_told():
  shapes = jax.eval_shape(
      _resampler(ff_hidden=None).init, jax.random.key(0), _visual())
  up = shapes['params']['layer_0']['ff']['up']['kernel']
  assert up.shape == (WIDTH, 4 * WIDTH)


def test_head_norms_act_on_each_head(random_params, run):
  resampler = _resampler(norm_heads=True)
  params = random_params(resampler, _visual())
  assert params['layer_0']['norm_query']['scale'].shape == (7,)
  # A norm on the queries takes their size away.
  louder = {**params, 'layer_0': {**params['layer_0'], 'query': {
      'kernel': 9 * params['layer_0']['query']['kernel']}}}
  np.testing.assert_allclose(
      run(resampler, louder, _visual()), run(resampler, params, _visual()),
      rtol=1e-2, atol=1e-2)


def test_another_width_without_a_projection_is_refused():
  with pytest.raises(ValueError, match='19 wide and gets features of width 23'):
    jax.eval_shape(
        _resampler(project_input=False).init, jax.random.key(0), _visual())


def test_features_that_nobody_trains_cost_no_gradient(random_params):
  resampler = _resampler(
      frames=0, project_input=False, width=VISUAL, layers=2)
  visual = _visual()
  params = random_params(resampler, visual)
  loss = lambda params, visual: (
      resampler.apply({'params': params}, visual)**2).sum()
  flops = lambda *wanted: jax.jit(jax.grad(loss, wanted)).lower(
      params, visual).compile().cost_analysis()['flops']
  # Of keys and of values, in each layer, from heads back to channels.
  rows, heads = visual.size // VISUAL, resampler.heads * resampler.head_dim
  products = 2 * resampler.layers * 2 * rows * heads * VISUAL
  assert flops(0) < flops(0, 1) - products
