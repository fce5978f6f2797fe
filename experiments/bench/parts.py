"""What each part of an update takes, alone, forward and backward."""

import jax
import jax.numpy as jnp

from experiments.bench.clock import fastest
from experiments.bench.made import Training
from flamingo import params as params_lib
from flamingo.model.stack import unstack
from flamingo.train.flops import step_flops
from flamingo.train.loss import weighted_nll


def time_parts(training: Training, repeats: int = 5) -> dict[str, float]:
  """Seconds of each part of an update, by name.

  They are timed one after the other; in the update XLA puts some of them
  together, so their sum is a little more than the whole.
  """
  # Parts are told apart by the names of layers, which scanned ones share; the
  # way to the induction heads is too short to be timed.
  model = training.model.clone(scan=False, induction=None)
  state = unstack(training.state)
  trainable, frozen = state.trainable, state.frozen
  batch = jax.tree.map(
      lambda *x: jnp.concatenate(x), *training.batches.values())
  rows, length = batch.tokens.shape
  x = jax.random.normal(jax.random.key(0), (rows, length, model.lm.width))
  some = lambda begin: {
      k: v for k, v in trainable.items() if k.startswith(begin)}
  resampler, blocks, head_rows = map(some, ('resampler', 'xattn', 'new_'))

  # What is timed gets all arrays as arguments: those it only knew of would be
  # constants of its program, which XLA computes with when it compiles.
  def see(resampler, images):
    params = params_lib.merge(trainable | resampler, frozen)
    return model.apply({'params': params}, images, method='see')

  latents = jax.jit(see)(resampler, batch.images)

  def lm_only(m, x, tokens):
    place = m.place(tokens)
    for layer in m.layer:
      x, _ = layer(x, place)
    return x.sum()

  def gated(blocks, x, latents, image_index):
    for i in range(len(model.xattn)):
      x = model.xattn[i].apply(
          {'params': blocks[f'xattn_{i}']}, x, latents, image_index)
    return x.sum()

  run_lm = lambda x, lm, tokens: model.lm.apply(
      {'params': lm}, x, tokens, method=lm_only)
  head = lambda t, f, x: model.apply(
      {'params': params_lib.merge(t, f)}, x, method='logits')

  def loss(head_rows, x, lm, batch):
    return weighted_nll(
        head, head_rows, {'lm': lm}, x.reshape(-1, x.shape[-1]),
        batch.targets.reshape(-1),
        batch.loss_mask.reshape(-1).astype(jnp.float32))[0]

  update = lambda grads, opt_state, trainable: training.optimizer.update(
      grads, opt_state, trainable)
  timed = lambda function, *args: fastest(
      jax.jit(function), *args, repeats=repeats)
  lm = frozen['lm']
  return {
      'language model, forward': timed(run_lm, x, lm, batch.tokens),
      'language model, forward and backward': timed(
          jax.grad(run_lm), x, lm, batch.tokens),
      'resampler': timed(
          jax.grad(lambda *args: see(*args).sum()), resampler, batch.images),
      'gated blocks': timed(
          jax.grad(gated, argnums=(0, 1, 2)), blocks, x, latents,
          batch.image_index),
      'vocabulary and loss': timed(
          jax.grad(loss, argnums=(0, 1)), head_rows, x, lm, batch),
      'optimizer': timed(update, trainable, state.opt_state, trainable),
  }


def training_flops(training: Training) -> dict[str, float]:
  """FLOPs of one update of `training`, by part."""
  state, batches = training.state, training.batches
  targets = sum(int(batch.loss_mask.sum()) for batch in batches.values())
  return step_flops(
      training.model, state.trainable, state.frozen, batches, targets)
