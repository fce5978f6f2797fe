"""Trains a model too small to be of use, by all the parts that others are.

  python -m experiments.tiny --workdir=/tmp/tiny --steps=60

Random weights, random features and a tokenizer of bytes, so that nothing is
read; the pipeline, the update, the loop and its checkpoints are the real ones.
`experiments.kill` kills it.
"""

import pathlib

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from flamingo import params as params_lib
from flamingo.data.pipeline import Dataset, Layout, make_pipeline
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.train import loop
from flamingo.train.checkpoint import Checkpointer
from flamingo.train.guard import Guard, Policy, skip_bad
from flamingo.train.meter import Meter
from flamingo.train.optimizer import make_optimizer
from flamingo.train.step import init_state, make_train_step
from flamingo.types import Chunk

WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of checkpoints and metrics.', required=True)
STEPS = flags.DEFINE_integer('steps', 60, 'Length of the training.')
CHECKPOINT_EVERY = flags.DEFINE_integer(
    'checkpoint_every', 7, 'Steps between checkpoints.')
LOG_EVERY = flags.DEFINE_integer('log_every', 5, 'Steps between lines.')

MODEL = Flamingo(
    lm=LM(vocab_size=259, width=16, layers=2, heads=2, kv_heads=1, head_dim=8,
          hidden=16),
    resampler=PerceiverResampler(
        visual_width=6, width=6, layers=1, latents=2, heads=1, head_dim=4,
        frames=0),
    xattn=tuple(
        GatedCrossAttention(
            width=16, visual_width=6, heads=1, head_dim=8, ff_hidden=16,
            gate_init=0.5)
        for _ in range(2)))


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  logging.set_verbosity(logging.WARNING)
  workdir, steps = pathlib.Path(WORKDIR.value), STEPS.value
  features = np.random.default_rng(0).normal(size=(9, 4, 6))
  layout = Layout(
      length=8, images=2, image_shape=(1, 4, 6),
      lookup=features.astype(np.float32).__getitem__)
  datasets = [
      Dataset(name='pairs', source=_source(2), batch_size=2, look_ahead=0.5),
      Dataset(name='words', source=_source(1), batch_size=1, weight=0.3)]
  tokenizer = Tokenizer.bytes()
  optimizer = make_optimizer(steps=steps, learning_rate=0.01, warmup=9)
  trainable, frozen = params_lib.split(_params(layout))
  update = skip_bad(make_train_step(
      MODEL, optimizer, {d.name: d.weight for d in datasets}, ema=0.9))
  checkpointer = Checkpointer(
      workdir / 'checkpoints', config={'steps': steps}, fingerprints={},
      may_change=['steps'])
  # As restored arrays are: else the step would be compiled twice.
  state = jax.device_put(
      init_state(optimizer, trainable, frozen, ema=0.9), jax.devices()[0])
  loop.train(
      state=state,
      step_fn=jax.jit(update, donate_argnums=0, compiler_options={
          'xla_backend_optimization_level': 0}),
      batches=make_pipeline(datasets, tokenizer, layout, seed=0, steps=steps),
      put=lambda batches: batches, checkpointer=checkpointer,
      directory=str(workdir), steps=steps,
      checkpoint_every=CHECKPOINT_EVERY.value, log_every=LOG_EVERY.value,
      evaluators=[loop.Evaluator(10, _largest)], resume_command='the same',
      guard=Guard(Policy(on_bad_step='skip', spike=50.0)),
      meter=Meter(pad_id=tokenizer.pad_id))
  checkpointer.close()


def _source(images: int):
  def draw(rng):
    return [
        Chunk(text=rng.choice(['ab', 'c']), image=np.int64(rng.integers(9)))
        for _ in range(images)]
  return draw


def _params(layout: Layout):
  shapes = jax.eval_shape(
      MODEL.init, jax.random.key(0), jnp.zeros((1, 1) + layout.image_shape),
      *jnp.zeros((2, 1, 2), int))['params']
  rng = np.random.default_rng(1)
  return jax.tree.map(
      lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def _largest(state):
  leaves = jax.tree.leaves(state.ema)
  return {'held_out/largest': max(float(abs(leaf).max()) for leaf in leaves)}


if __name__ == '__main__':
  app.run(main)
