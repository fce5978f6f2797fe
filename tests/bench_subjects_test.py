"""Every subject of the benchmark at a tiny shape; no time is asserted.

What is: that each ratio is the quotient of the times it names, that what it
says of its sizes is so, and that the two ways it compares give the same result.
"""

import json
import math
import types

from experiments.bench import (
    depth, images, pipeline, ranking, slice_of_3b, step)
from experiments.bench.made import (
    make_batch, make_params, openflamingo_like, SMOLLM2, Training)
from experiments.bench.quickstart import Quickstart
from experiments.configs import flamingo as config_lib
from experiments.configs import quickstart
from flamingo import params as params_lib
from flamingo.data.encode import Example
from flamingo.eval.decode import Predictor
import jax
import jax.numpy as jnp
import numpy as np
import pytest

LM = dict(
    vocab_size=97, width=24, layers=2, heads=3, kv_heads=3, head_dim=8,
    hidden=40, rope_base=1e4)
SHAPE = (1, 5, 16)


def check(came):
  """What holds of every result."""
  assert json.loads(json.dumps(came)) == came
  seconds = came['seconds']
  assert all(math.isfinite(s) for s in seconds.values())
  assert came['ratios']
  for ratio in came['ratios'].values():
    assert ratio['value'] == seconds[ratio['over']] / seconds[ratio['under']]


@pytest.fixture(scope='module')
def training():
  """A tiny one, of which each test makes a few updates more."""
  model = openflamingo_like(
      LM, every=1, visual_width=16, resampler_layers=1, latents=3)
  return Training(
      model, make_params(model, SHAPE),
      {'pages': make_batch(3, 13, 2, SHAPE, 97)})


def test_made_up_batches_are_pages():
  batch = make_batch(2, 13, 3, SHAPE, 97)
  assert batch.images.shape == (2, 3, *SHAPE)
  np.testing.assert_array_equal(
      batch.image_index, np.cumsum(batch.tokens == 97, axis=1))
  assert (batch.image_index[:, -1] == 3).all()
  np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
  assert not batch.loss_mask[batch.targets == 97].any()
  with pytest.raises(ValueError, match='14 images do not go into 13 tokens'):
    make_batch(2, 13, 14, SHAPE, 97)


def test_made_up_parameters_are_all_there_and_frozen_ones_in_their_type():
  model = openflamingo_like(LM, every=1, visual_width=16)
  params = make_params(model, SHAPE)
  shapes = jax.eval_shape(
      model.init, jax.random.key(0), jnp.zeros((1, 1, *SHAPE)),
      jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2), jnp.int32))['params']
  params_lib.check_same(shapes, params, 'made-up tree')
  trainable, frozen = params_lib.split(params)
  assert {x.dtype for x in jax.tree.leaves(frozen)} == {jnp.dtype('bfloat16')}
  assert {x.dtype for x in jax.tree.leaves(trainable)} == {
      jnp.dtype('float32')}


def test_the_language_model_is_of_smollm2s_size():
  lm = openflamingo_like(SMOLLM2, every=3, visual_width=8).lm
  shapes = jax.eval_shape(
      lm.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))['params']
  assert params_lib.count(shapes) == 134_515_008  # of its file


def test_a_training_trains(training):
  before = jax.tree.map(np.asarray, training.state)
  losses = [float(training()) for _ in range(3)]
  assert np.isfinite(losses).all()
  after = jax.tree.map(np.asarray, training.state)
  assert after.step == before.step + 3
  same = lambda a, b: jax.tree.leaves(jax.tree.map(np.array_equal, a, b))
  assert not any(same(before.opt_state, after.opt_state))
  assert all(same(before.frozen, after.frozen))


def test_each_training_of_the_quickstart_begins_from_its_beginning(training):
  parts = types.SimpleNamespace(
      model_and_params=(
          training.model, jax.tree.map(jnp.copy, training.params)),
      batches=lambda steps: iter([training.batches] * steps),
      datasets=[types.SimpleNamespace(name='pages', weight=1.0)],
      config=quickstart.get_config())
  first, second = (Quickstart.training(parts)() for _ in range(2))
  assert first == second


def test_step_measures_parts_whole_and_waiting(training):
  batches = iter([training.batches] * 4)
  came = step.measure(training, batches, steps=3, size=16, repeats=1)
  check(came)
  assert next(batches, None) is None
  assert {'resampler', 'gated blocks', 'update', 'wait for data'} <= (
      came['seconds'].keys())
  facts, update = came['facts'], came['seconds']['update']
  assert facts['tokens_per_second'] == 3 * 13 / update
  assert facts['images_per_second'] == 3 * 2 / update
  flop = 1e9 * sum(facts['gflop'].values())
  assert came['seconds']['its products at the ceiling'] == pytest.approx(
      flop / (1e9 * facts['ceiling_gflops']['bfloat16']))


def tiny_3b():
  config = config_lib.get_config('3b')
  config.lm.update(dict(
      width=24, layers=2, heads=3, kv_heads=3, head_dim=8, hidden=40,
      vocab_size=97))
  config.resampler.update(dict(
      width=16, layers=1, heads=3, head_dim=8, latents=3))
  config.xattn.update(dict(heads=3, head_dim=8, ff_hidden=40))
  config.visual.update(dict(places=5, width=20))
  return config


def test_slice_says_which_part_is_how_far_from_the_ceiling():
  came = slice_of_3b.measure(
      tiny_3b(), rows=2, length=13, size=16, rounds=1, stated=1e12)
  check(came)
  facts, seconds = came['facts'], came['seconds']
  assert facts['layers'] == 2
  (note,) = came['notes']
  for part in ('language model', 'gated blocks', 'resampler', 'vocabulary'):
    assert part in note
  mfu = came['ratios']['MFU, share of the stated peak']['value']
  flop = 1e9 * sum(facts['gflop'].values())
  assert mfu == pytest.approx(flop / 1e12 / seconds['update'])


def test_slice_leaves_out_its_parts_and_a_peak_that_is_not_known(monkeypatch):
  monkeypatch.setattr(slice_of_3b, 'time_parts', None)
  came = slice_of_3b.measure(
      tiny_3b(), rows=2, length=13, size=16, rounds=1, parts=False)
  check(came)
  assert list(came['ratios']) == ['share of the matmul ceiling']
  assert not came['notes']


def test_images_measures_each_number_of_them():
  came = images.measure(
      LM, every=1, rows=2, length=13, numbers=(1, 3), places=5,
      visual_width=16, small=(8, 3), resampler_layers=1, rounds=1,
      with_peer=False, large=tiny_3b())
  check(came)
  for name in ('forward, 1 image', 'forward, 3 images', 'update, 3 images',
               'resampler, 3 images', 'forward, 3 latents, 3 images',
               "forward, 3B's layers, 3 images"):
    assert name in came['seconds']
  seconds = came['seconds']
  assert seconds['growth of update'] == (
      seconds['update, 3 images'] - seconds['update, 1 image'])


def test_depth_compiles_and_runs_both_ways_at_each_depth():
  came = depth.measure(
      LM, every=1, rows=2, length=13, depths=(1, 2), places=5, visual_width=16,
      resampler_layers=1, rounds=1)
  check(came)
  for layers in (1, 2):
    for way in depth.WAYS:
      for what in ('trace', 'compile', 'update'):
        assert f'{what}, {layers} layers, {way}' in came['seconds']


def test_depth_leaves_the_compilation_cache_as_it_was():
  before = jax.config.jax_enable_compilation_cache
  with depth._no_cache():
    assert not jax.config.jax_enable_compilation_cache
  assert jax.config.jax_enable_compilation_cache == before


def test_pipeline_draws_without_training_and_trains_without_drawing(training):
  drawn, before = [], int(training.state.step)

  def batches(steps):
    for k in range(steps):
      drawn.append(k)
      yield training.batches

  came = pipeline.measure(training, batches, steps=3, rounds=2)
  check(came)
  assert len(drawn) == 3 * 3  # the first round warms up
  assert int(training.state.step) == before + 3
  eaten = came['facts']['examples_per_second_eaten']
  assert eaten == 3 / came['seconds']['update']


def tiny_predictor():
  model = openflamingo_like(
      LM, every=1, visual_width=16, resampler_layers=1, latents=3,
      dtype=jnp.float32)
  features = np.random.default_rng(0).normal(size=(7, *SHAPE[1:]))
  return Predictor(
      model, make_params(model, SHAPE),
      lambda rows: features[np.asarray(rows)].astype(np.float32), pad_id=0)


def test_ranking_gives_the_same_behind_one_prompt_and_one_by_one():
  prompt = Example(
      images=np.array([4, 2]), tokens=np.array([97, 5, 6, 97, 8], np.int32),
      image_index=np.array([1, 1, 1, 2, 2], np.int32),
      learn=np.zeros(5, bool))
  candidates = [[k, k + 1, 2 * k][: 1 + k % 3] for k in range(10, 33)]
  came = ranking.measure(
      tiny_predictor(), prompt, candidates, some=5, rounds=1)
  check(came)
  assert came['facts']['largest difference of a log-likelihood'] < 1e-4
  assert came['facts']['candidates'] == 23
  seconds = came['seconds']
  assert seconds['all one by one'] == pytest.approx(
      seconds['5 one by one'] * 23 / 5)
