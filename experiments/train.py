"""Trains a config.

  python -m experiments.train --config=experiments/configs/quickstart.py \
      --workdir=runs/quickstart [--config.optimizer.learning_rate=3e-4 ...]

Run the same command again to go on where it stopped; on a cluster, on every
host (see `experiments.processes`).
"""

import pathlib
import shlex
import sys
import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
from ml_collections import config_flags

from experiments import build
from experiments import data as data_lib
from experiments import processes
from experiments import start
from flamingo import hardware
from flamingo import params as params_lib
from flamingo import sharding
from flamingo.data import examples
from flamingo.data import pipeline
from flamingo.train import flops
from flamingo.train import guard
from flamingo.train import loop
from flamingo.train import meter
from flamingo.train import objective
from flamingo.train import step as step_lib
from flamingo.train.checkpoint import Checkpointer
from flamingo.types import Batch, TrainState

CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of checkpoints and metrics.', required=True)
ACCEPT_CHANGES = flags.DEFINE_boolean(
    'accept_changes', False,
    'Go on though the config differs from the checkpoint, in any key.')
COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'host:port of process 0; this and the next two where '
    'several processes train together and no cluster says so.')
PROCESSES = flags.DEFINE_integer('processes', None, 'How many processes.')
PROCESS = flags.DEFINE_integer('process', None, 'Number of this one, from 0.')
SILENCE = flags.DEFINE_integer(
    'silence', 60, 'Seconds after which a process of which nothing is heard is '
    'taken for dead, and the others end.')

_KNOWN = (
    'seed', 'steps', 'frozen', 'model', 'whitening', 'resampler', 'xattn',
    'induction', 'mesh', 'step', 'optimizer', 'data', 'mixture', 'layout',
    'checkpoint_every', 'log_every', 'held_out_every', 'survival',
    'peak_flops')

# What a run may change when it goes on: none of it changes the model or its
# data, but for a schedule that ends at `steps`.
_MAY_CHANGE = (
    'steps', 'checkpoint_every', 'log_every', 'held_out_every', 'survival*',
    'peak_flops', 'mesh*', 'model.remat', 'model.layers')


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  start.prepare()
  processes.join(
      COORDINATOR.value, PROCESSES.value, PROCESS.value, SILENCE.value)
  with processes.ending_together(resume_command()):
    train(CONFIG.value, WORKDIR.value)


def train(config, workdir: str) -> TrainState:
  """Trains `config` up to its last step, from what `workdir` holds."""
  build.check_keys(config, _KNOWN, 'config')
  began = time.monotonic()
  mesh = build.build_mesh(config)
  print('Reading the frozen parts.', flush=True)
  frozen = build.load_frozen(config)
  pictures = data_lib.load_pictures(config, frozen)
  model, fresh = start.build_state(config, frozen, pictures, mesh)
  model = model.clone(activations=sharding.Activations(mesh))
  optimizer = build.build_optimizer(config)
  update = dict(config.get('step', {}))
  state, where = start.train_state(
      optimizer, fresh,
      build.frozen_params(
          frozen, config.model.dtype, mesh, model.groups), mesh,
      ema=update.get('ema', 0.0))

  datasets = data_lib.build_mixture(config, pictures, frozen.tokenizer)
  layout = data_lib.build_layout(config, pictures)
  batches = pipeline.make_pipeline(
      datasets, frozen.tokenizer, layout, seed=config.seed, steps=config.steps,
      rows=lambda rows: sharding.rows_here(rows, mesh))

  weights = {dataset.name: dataset.weight for dataset in datasets}
  shares = sharding.row_shards(mesh)
  policy = build.call(
      guard.Policy, config.get('survival', {}), 'config.survival')
  step = build.call(
      step_lib.make_train_step, update, 'config.step', model=model,
      optimizer=optimizer, weights=weights, shares=shares)
  step_fn = jax.jit(
      guard.skip_bad(step) if policy.on_bad_step == 'skip' else step,
      donate_argnums=0, out_shardings=(where, sharding.replicated(mesh)))
  # Held out: other pictures under the same words.
  held_out = pipeline.draw_batch(
      held_out_dataset(config, pictures, frozen.tokenizer), frozen.tokenizer,
      layout, seed=config.seed, step=0)
  print(
      f'{params_lib.count(fresh):,} trainable and '
      f'{params_lib.count(state.frozen):,} frozen parameters on '
      f'{mesh.size} device(s); ready after {time.monotonic() - began:.0f} s. '
      'Compiling the step takes about 20 s.', flush=True)

  checkpointer = Checkpointer(
      pathlib.Path(workdir) / 'checkpoints', config=config.to_dict(),
      fingerprints=frozen.fingerprints,
      may_change=['*'] if ACCEPT_CHANGES.value else _MAY_CHANGE)
  state = loop.train(
      state=state, step_fn=step_fn, batches=batches,
      put=lambda batches: sharding.put_batch(batches, mesh),
      checkpointer=checkpointer, directory=workdir, steps=config.steps,
      checkpoint_every=config.checkpoint_every, log_every=config.log_every,
      evaluators=[loop.Evaluator(
          config.held_out_every, held_out_losses(
              model, sharding.put_whole_batch(held_out, mesh), shares))],
      resume_command=resume_command(),
      guard=guard.Guard(
          policy, examples.describer(datasets, seed=config.seed)),
      meter=make_meter(
          config, model, state, datasets, layout, frozen.tokenizer.pad_id))
  checkpointer.close()
  return state


def make_meter(config, model, state, datasets, layout, pad_id) -> meter.Meter:
  """Knows an update's FLOPs, and the peak of the devices if it is stated."""
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.int32)

  def batch(rows):
    tokens = shape(rows, layout.length)
    return Batch(
        images=shape(rows, layout.images, *layout.image_shape), tokens=tokens,
        image_index=tokens, targets=tokens, loss_mask=tokens)

  peak = config.get('peak_flops') or hardware.peak_of(jax.devices()[0])
  needed = flops.step_flops(
      model, state.trainable, state.frozen,
      {dataset.name: batch(dataset.batch_size) for dataset in datasets})
  return meter.Meter(
      pad_id=pad_id, flops=sum(needed.values()),
      peak=peak and peak * jax.device_count())


def held_out_dataset(config, pictures, tokenizer) -> pipeline.Dataset:
  """Names of validation emoji, as pages: none of them was ever trained on."""
  gallery = pictures.galleries['validation']
  pages = data_lib.sources.Pages(gallery=gallery, images=(1, 1))
  return pipeline.Dataset(name='held_out', source=pages, batch_size=16)


def held_out_losses(model, batch, shares):
  """Measures the loss of a batch with its images, and with none seen."""

  @jax.jit  # once for both: to compile costs more than to measure
  def losses(trainable, frozen, batch, index):
    return objective.weighted_loss(
        model, trainable, frozen,
        {'held_out': batch.replace(image_index=index)}, {'held_out': 1.0},
        shares=shares)[0]

  def measure(state):
    given = state.trainable, state.frozen, batch
    seeing = float(losses(*given, batch.image_index))
    blind = float(losses(*given, jnp.zeros_like(batch.image_index)))
    return {
        'held_out/with_images': seeing, 'held_out/without_images': blind,
        'held_out/difference': seeing - blind}

  return measure


def resume_command() -> str:
  """The command that goes on with this run."""
  return shlex.join(['python', '-m', 'experiments.train'] + sys.argv[1:])


if __name__ == '__main__':
  app.run(main)
