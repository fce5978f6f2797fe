"""Where the time of a training step goes, against what the machine can do.

  python -m experiments.bench [--json=bench.json]

Everything is measured in one run: the machine's matmul ceiling, each part at
quickstart shapes, the whole step, and how long the step waits for data.
Floating-point operations are counted from shapes, not taken from the compiler.
"""

from collections.abc import Callable
import json
import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
from ml_collections import config_flags

from experiments import build
from experiments import data as data_lib
from experiments import start
from flamingo import params as params_lib
from flamingo.data import pipeline
from flamingo.train import step as step_lib
from flamingo.train.loss import weighted_nll
from flamingo.types import TrainState

CONFIG = config_flags.DEFINE_config_file(
    'config', 'experiments/configs/quickstart.py', lock_config=True)
JSON = flags.DEFINE_string('json', None, 'Write the numbers there, too.')
STEPS = flags.DEFINE_integer('steps', 12, 'Steps timed with real data.')


def fastest(function: Callable, *args, repeats: int = 5) -> float:
  """Seconds of the fastest of some calls, after one that compiles."""
  jax.block_until_ready(function(*args))
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - start)
  return min(times)


def ceiling(dtype, size: int = 1024) -> float:
  """FLOP/s of a square matrix product with a float32 sum."""
  a = jnp.ones((size, size), dtype)
  product = jax.jit(lambda a, b: jax.lax.dot_general(
      a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32))
  return 2 * size**3 / fastest(product, a, a, repeats=20)


def step_flops(trainable, frozen, rows, length, images, places, targets):
  """FLOPs of the matrix products of an update.

  A frozen weight costs 2 a token forward and 2 for the activations' gradient; a
  trained one 2 more. Attention's own products, under 2 %, are left out.
  """
  tokens = rows * length
  size = params_lib.count
  lm, table = frozen['lm'], frozen['lm']['embed']['embedding'].shape
  blocks = [trainable[k] for k in trainable if k.startswith('xattn')]
  latents = trainable['resampler']['latent'].shape[0]
  # Keys and values are computed once for each image latent.
  seen = sum(size(b[k]) for b in blocks for k in ('key', 'value'))
  resampler = trainable['resampler']
  wide = sum(
      size(layer[k]) for name, layer in resampler.items()
      if name.startswith('layer') for k in ('key', 'value'))
  deep = sum(size(resampler[k]) for k in resampler if k.startswith('layer'))
  return {
      'language model': 4 * tokens * (size(lm) - table[0] * table[1]),
      'vocabulary': 4 * targets * table[0] * table[1],
      'gated blocks': 6 * (
          tokens * (sum(map(size, blocks)) - seen)
          + rows * images * latents * seen),
      'resampler': 6 * rows * images * (
          (places + latents) * wide + latents * (deep - wide)),
  }


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  start.prepare()
  config = CONFIG.value
  frozen = build.load_frozen(config)
  pictures = data_lib.load_pictures(config, frozen)
  model, trainable = start.build_state(config, frozen, pictures)
  optimizer = build.build_optimizer(config)
  state = TrainState(
      step=jnp.int32(0), trainable=trainable,
      frozen=build.frozen_params(frozen, config.model.dtype),
      opt_state=optimizer.init(trainable))
  datasets = data_lib.build_mixture(config, pictures, frozen.tokenizer)
  weights = {d.name: d.weight for d in datasets}
  layout = data_lib.build_layout(config, pictures)
  batches = pipeline.make_pipeline(
      datasets, frozen.tokenizer, layout, seed=0, steps=10_000)
  batch = next(batches)

  parts = {}
  print('Measuring the parts ...', flush=True)
  peak = {
      'bfloat16': ceiling(jnp.bfloat16), 'float32': ceiling(jnp.float32)}
  parts |= _parts(model, state, batch, weights)
  parts['optimizer'] = fastest(
      jax.jit(optimizer.update), trainable, state.opt_state, trainable)

  print('Measuring the step with real data ...', flush=True)
  step = jax.jit(
      step_lib.make_train_step(model, optimizer, weights), donate_argnums=0)
  state, _ = jax.block_until_ready(step(state, batch))
  waited, began = 0.0, time.perf_counter()
  for _ in range(STEPS.value):
    before = time.perf_counter()
    batch = next(batches)
    waited += time.perf_counter() - before
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
  whole = (time.perf_counter() - began) / STEPS.value
  targets = sum(int(b.loss_mask.sum()) for b in batch.values())
  rows = sum(b.tokens.shape[0] for b in batch.values())
  flops = step_flops(
      state.trainable, state.frozen, rows, layout.length, layout.images,
      pictures.store.shape[0], targets)
  result = {
      'device': jax.devices()[0].device_kind,
      'ceiling_gflops': {k: v / 1e9 for k, v in peak.items()},
      'seconds': parts | {'whole step': whole},
      'gflop': {k: v / 1e9 for k, v in flops.items()},
      'share_of_ceiling':
          sum(flops.values()) / whole / peak[config.model.dtype],
      'data_wait_share': waited / STEPS.value / whole,
      'tokens_per_second': rows * layout.length / whole,
      'images_per_second': rows * layout.images / whole,
  }
  _show(result)
  if JSON.value:
    with open(JSON.value, 'w', encoding='utf-8') as file:
      json.dump(result, file, indent=2)


def _parts(model, state, batches, weights) -> dict[str, float]:
  """Seconds of each part alone, forward and backward."""
  trainable, frozen = state.trainable, state.frozen
  batch = jax.tree.map(lambda *x: jnp.concatenate(x), *batches.values())
  params = params_lib.merge(trainable, frozen)
  rows, length = batch.tokens.shape
  x = jnp.ones((rows, length, model.lm.width))
  see = lambda t: model.apply(
      {'params': params_lib.merge(t, frozen)}, batch.images, method='see')
  latents = see(trainable)

  def lm_only(m, x):
    place = jnp.broadcast_to(jnp.arange(length), (rows, length))
    mask = jnp.tril(jnp.ones((rows, length, length), bool))
    for layer in m.layer:
      x, _ = layer(x, place, mask)
    return x.sum()

  def gated(t, x, latents):
    for i in range(len(model.xattn)):
      x = model.xattn[i].apply(
          {'params': t[f'xattn_{i}']}, x, latents, batch.image_index)
    return x.sum()

  run_lm = lambda x: model.lm.apply({'params': params['lm']}, x, method=lm_only)
  head_rows = {k: v for k, v in trainable.items() if k.startswith('new_')}
  head = lambda t, f, x: model.apply(
      {'params': params_lib.merge(t, f)}, x, method='logits')

  def loss(head_rows, x):
    mask = jnp.concatenate([b.loss_mask for b in batches.values()])
    return weighted_nll(
        head, head_rows, {'lm': frozen['lm']}, x.reshape(-1, x.shape[-1]),
        batch.targets.reshape(-1), mask.reshape(-1).astype(jnp.float32))[0]

  return {
      'language model, forward': fastest(jax.jit(run_lm), x),
      'language model, forward and backward':
          fastest(jax.jit(jax.grad(run_lm)), x),
      'resampler': fastest(
          jax.jit(jax.grad(lambda t: see(t).sum())), trainable),
      'gated blocks': fastest(
          jax.jit(jax.grad(gated, argnums=(0, 1, 2))), trainable, x, latents),
      'vocabulary and loss': fastest(
          jax.jit(jax.grad(loss, argnums=(0, 1))), head_rows, x),
  }


def _show(result: dict) -> None:
  print(f"\nOn {result['device']}; matmul ceiling, GFLOP/s: " + ', '.join(
      f'{k} {v:.0f}' for k, v in result['ceiling_gflops'].items()))
  print(f"{'part':<40}{'ms':>8}{'of step':>9}")
  whole = result['seconds']['whole step']
  for name, seconds in result['seconds'].items():
    print(f'{name:<40}{seconds * 1e3:>8.0f}{seconds / whole:>9.0%}')
  print(
      f"The step reaches {result['share_of_ceiling']:.0%} of the ceiling "
      f"({sum(result['gflop'].values()):.0f} GFLOP, counted from shapes), "
      f"{result['tokens_per_second']:.0f} tokens/s, "
      f"{result['images_per_second']:.0f} images/s; "
      f"{result['data_wait_share']:.2%} of it waits for data.")


if __name__ == '__main__':
  app.run(main)
