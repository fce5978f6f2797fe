"""A tiny Flamingo on meshes of eight devices, for `sharding_devices_test`.

A program, as the number of a process' devices is fixed when JAX begins. Writes
what it found as JSON to standard output.
"""

import json
import pathlib
import sys
import tempfile

from flamingo import hardware
from flamingo import params as params_lib
from flamingo import sharding
from flamingo.data.pipeline import Dataset, Layout, make_pipeline
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo
from flamingo.model.induction import InductionPath
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.sharding import rules
from flamingo.train.checkpoint import Checkpointer
from flamingo.train.optimizer import make_optimizer
from flamingo.train.step import init_state, make_train_step
from flamingo.types import Chunk
import jax
import jax.numpy as jnp
import numpy as np

MESHES = dict(
    one=dict(data=1), data=dict(data=8), fsdp=dict(data=1, fsdp=8),
    tensor=dict(data=1, tensor=8), mixed=dict(data=2, fsdp=2, tensor=2))
OTHERS = dict(two=dict(data=2), four=dict(data=1, fsdp=2, tensor=2))
WEIGHTS = {'pairs': 1.0, 'singles': 0.3}
STEPS, FROZEN_STEPS = 3, 100
# Key heads that tensor=8 doesn't divide, pictures of a row that no mesh does.
MODEL = Flamingo(
    lm=LM(vocab_size=259, width=24, layers=2, heads=8, kv_heads=2, head_dim=4,
          hidden=16),
    resampler=PerceiverResampler(
        visual_width=8, width=8, layers=1, latents=3, heads=2, head_dim=4,
        ff_hidden=16, frames=0, project_input=True),
    xattn=(GatedCrossAttention(
        width=24, visual_width=8, heads=8, head_dim=4, ff_hidden=16,
        gate_init=0.5),),
    induction=InductionPath(
        visual_width=8, width=6, heads=((0, 3), (1, 0), (1, 5)), tag=259,
        strength=3.0),
    every=2)
# The first moments of the first step are the gradients: nothing is clipped.
OPTIMIZER = make_optimizer(
    steps=99, learning_rate=1e-3, warmup=1, b1=0.5, clip=1e9)


def source(images):
  def draw(rng):
    return [
        Chunk(text=rng.choice(['ab', 'cde']), image=np.int64(rng.integers(9)))
        for _ in range(images)]
  return draw


def data(steps=99):
  features = np.random.default_rng(0).normal(size=(9, 5, 8))
  return make_pipeline(
      [Dataset(name='pairs', source=source(2), batch_size=8),
       Dataset(name='singles', source=source(1), batch_size=16)],
      Tokenizer.bytes(),
      Layout(length=8, images=3, image_shape=(1, 5, 8),
             lookup=features.astype(np.float32).__getitem__),
      seed=0, steps=steps)


def params():
  shapes = jax.eval_shape(
      MODEL.init, jax.random.key(0), jnp.zeros((1, 1, 1, 5, 8)),
      *jnp.zeros((2, 1, 2), int))['params']
  rng = np.random.default_rng(1)
  return jax.tree.map(
      lambda leaf: rng.normal(
          scale=0.3, size=leaf.shape).astype(np.float32), shapes)


class Training:
  """A state on a mesh, and the step that changes it."""

  def __init__(self, sizes):
    count = int(np.prod(list(sizes.values())))
    self.mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:count])
    trainable, frozen = params_lib.split(params())
    make = lambda: init_state(OPTIMIZER, trainable, frozen)
    where = sharding.state_shardings(jax.eval_shape(make), self.mesh)
    self.state = sharding.place(jax.device_get(make()), where)
    step = make_train_step(
        MODEL.clone(activations=sharding.Activations(self.mesh)), OPTIMIZER,
        WEIGHTS, shares=sharding.row_shards(self.mesh))
    self._step = jax.jit(
        step, donate_argnums=0,
        out_shardings=(where, sharding.replicated(self.mesh)),
        compiler_options={'xla_backend_optimization_level': 0,
                          'xla_llvm_disable_expensive_passes': True})

  def train(self, batches, steps):
    losses = []
    for _ in range(steps):
      self.state, metrics = self._step(
          self.state, sharding.put_batch(next(batches), self.mesh))
      losses.append(float(metrics['loss']))
    return losses


def moments(state):
  part = next(
      part for part in jax.tree.leaves(
          state.opt_state, is_leaf=lambda x: hasattr(x, 'mu'))
      if hasattr(part, 'mu'))
  return dict(params_lib.flatten(part.mu))


def bytes_per_device(tree):
  return [
      sum(shard.data.nbytes for leaf in jax.tree.leaves(tree)
          for shard in leaf.addressable_shards if shard.device == device)
      for device in jax.devices()]


def open_(folder):
  return Checkpointer(folder, config={}, fingerprints={})


def main():
  jax.config.update('jax_num_cpu_devices', 8)
  hardware.spare_threads()
  rules.SMALL = 2  # nothing is too small to be split
  found, gradients, trainings = {}, {}, {}
  for name, sizes in MESHES.items():
    trainings[name] = training = Training(sizes)
    losses = training.train(data(), 1)
    gradients[name] = {
        path: np.asarray(leaf)
        for path, leaf in moments(training.state).items()}
    found[name] = dict(
        loss=losses[0],
        gradient_difference=max(
            float(abs(leaf - gradients['one'][path]).max())
            for path, leaf in gradients[name].items()),
        moments=sorted('/'.join(path) for path in gradients[name]),
        moment_bytes=bytes_per_device(moments(training.state)),
        frozen_bytes=bytes_per_device(training.state.frozen))
  found['largest_gradient'] = max(
      float(abs(leaf).max()) for leaf in gradients['one'].values())

  mixed, batches = trainings['mixed'], data()
  next(batches)
  with tempfile.TemporaryDirectory() as folder:
    checkpointer = open_(pathlib.Path(folder))
    checkpointer.save(mixed.state, batches.get_state(), wait=True)
    checkpointer.close()
    found['mixed']['losses'] = mixed.train(batches, STEPS)
    for name, sizes in dict(one=None, **OTHERS).items():
      training = trainings.get(name) or Training(sizes)
      checkpointer = open_(pathlib.Path(folder))
      restored = checkpointer.restore(training.state)
      checkpointer.close()
      training.state, batches = restored.state, data()
      batches.set_state(restored.data)
      found.setdefault(name, {})['losses'] = training.train(batches, STEPS)

  mixed.train(data(FROZEN_STEPS), FROZEN_STEPS - STEPS)
  frozen = dict(params_lib.flatten(mixed.state.frozen))
  before = dict(params_lib.flatten(params_lib.split(params())[1]))
  found['frozen_changed'] = [
      '/'.join(path) for path, leaf in frozen.items()
      if np.asarray(leaf).tobytes() != before[path].tobytes()]
  found['frozen_count'] = len(frozen)
  json.dump(found, sys.stdout)


if __name__ == '__main__':
  main()
