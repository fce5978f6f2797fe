"""A batch shared by two devices gives the step that one device takes."""

import functools

from flamingo import params as params_lib
from flamingo import sharding
from flamingo.data import pipeline
from flamingo.data.tokenizer import Tokenizer
from flamingo.train.step import make_train_step
from flamingo.types import Chunk, TrainState
import jax
import jax.numpy as jnp
import numpy as np
import optax


def test_a_step_on_two_devices_is_the_step_on_one(tiny, random_params):
  model = tiny.model.clone(
      lm=tiny.model.lm.clone(layers=1), xattn=tiny.model.xattn[:1],
      resampler=tiny.model.resampler.clone(layers=1), every=1, offset=0)
  store = np.random.default_rng(0).normal(size=(9, 7, 23)).astype(np.float32)
  source = lambda rng: [
      Chunk(text='abc'[: rng.integers(1, 4)], image=np.int64(rng.integers(9)))
      for _ in range(2)]
  batches = next(pipeline.make_pipeline(
      [pipeline.Dataset(name=name, source=source, batch_size=size)
       for name, size in (('a', 2), ('b', 4), ('c', 3))],
      Tokenizer.bytes(),
      pipeline.Layout(length=9, images=2, image_shape=(1, 7, 23),
                      lookup=store.__getitem__), seed=0, steps=1))
  params = random_params(
      model, *(jnp.asarray(x) for x in (
          batches['a'].images, batches['a'].tokens, batches['a'].image_index)))
  optimizer = optax.sgd(0.1)
  step = jax.jit(
      make_train_step(model, optimizer, {'a': 1.0, 'b': 0.5, 'c': 0.3}),
      compiler_options={'xla_backend_optimization_level': 0})
  trainable, frozen = params_lib.split(params)
  state = TrainState(
      step=jnp.int32(0), trainable=trainable, frozen=frozen,
      opt_state=optimizer.init(trainable))
  mesh = sharding.make_mesh()
  assert mesh.size == 2
  rows = sharding.put_batch(batches, mesh)
  assert len(rows['b'].tokens.addressable_shards) == 2
  assert rows['b'].tokens.addressable_shards[0].data.shape == (2, 9)
  # Three rows cannot be shared by two, and are copied.
  assert rows['c'].tokens.addressable_shards[0].data.shape == (3, 9)
  everywhere = jax.device_put(state, sharding.replicated(mesh))
  two, metrics_two = step(everywhere, rows)
  one, metrics_one = step(state, batches)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
      (metrics_two, two.trainable), (metrics_one, one.trainable))
  assert not np.allclose(one.trainable['new_embedding'],
                         trainable['new_embedding'])
