"""One update: a batch of each dataset, gradients weighted and summed."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from flamingo.model.flamingo import Flamingo
from flamingo.train.objective import (
    count_targets, Metrics, no_metrics, same_shape, weighted_loss)
from flamingo.types import Batch, Params, TrainState

COMBINE = ('sum', 'round_robin')


def init_state(
    optimizer: optax.GradientTransformation,
    trainable: Params,
    frozen: Params,
    *,
    ema: float = 0.0,
) -> TrainState:
  """The state before the first update; with `ema`, of what it averages."""
  return TrainState(
      step=jnp.int32(0), trainable=trainable, frozen=frozen,
      opt_state=optimizer.init(trainable),
      # A copy, as the step is jitted with both donated.
      ema=jax.tree.map(jnp.array, trainable) if ema else None)


def make_train_step(
    model: Flamingo,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, float],
    *,
    micro_batches: int = 1,
    combine: str = 'sum',
    z_loss: float = 0.0,
    ema: float = 0.0,
    shares: int = 1,
    chunk: int | None = None,
) -> Callable[[TrainState, Mapping[str, Batch]], tuple[TrainState, Metrics]]:
  """Builds the update; jit it with the state donated.

  Args:
    model: the network.
    optimizer: of the trainables.
    weights: the lambda of each dataset.
    micro_batches: parts that the rows of each batch are taken in, one after
      another, to need less memory. Nothing else changes: each token has the
      weight it has in the whole batch.
    combine: 'sum' is one update on the weighted sum of all datasets' losses;
      'round_robin' one on the weighted loss of a single dataset, in turn in the
      order of `weights` (an ablation of the paper, Table 3 ii).
    z_loss: weight of the mean of log(Z)^2, see `weighted_nll`; PaLM has 1e-4.
    ema: decay of a moving average of the trainables, such as 0.999; 0 keeps
      none. It is less at first, min(ema, (1 + step) / (10 + step)), or else
      the average would be of the first values for long.
    shares: see `weighted_loss`.
    chunk: see `weighted_loss`.

  Returns:
    (state, batches) to (state, metrics). Metrics: `loss`, what was minimised;
    `loss/<dataset>`, the mean over its `targets/<dataset>` targets, both 0
    where it was not its turn or had none; `z_loss`, its part of the loss;
    `gradient_norm` before the clip, and of each part, `gradient_norm/<part>`;
    `update_norm`.

  Raises:
    ValueError: an argument is out of its range; when the step is traced, rows
      don't divide or the state holds no average.
  """
  _check(micro_batches, combine, z_loss, ema)

  def gradient(state, batches, counts):
    """((loss, scalars), gradient): sums over all tokens of `batches`."""

    def of(batches):
      return jax.value_and_grad(
          lambda trainable: weighted_loss(
              model, trainable, state.frozen, batches, weights, counts=counts,
              z_loss=z_loss, shares=shares, chunk=chunk),
          has_aux=True)(state.trainable)

    if micro_batches == 1:
      return of(batches)
    add = lambda total, part: (jax.tree.map(jnp.add, total, of(part)), None)
    total = (
        (jnp.zeros(()), no_metrics(counts, z_loss)),
        jax.tree.map(jnp.zeros_like, state.trainable))
    # One shape at a time, so that one part of one shape is held in memory.
    for names in same_shape(batches):
      group = {name: batches[name] for name in names}
      parts = jax.tree.map(lambda leaf: _deal(leaf, micro_batches), group)
      total, _ = jax.lax.scan(add, total, parts)
    return total

  def in_turn(state, batches, counts):
    names = list(weights)
    turn = state.step % len(names)
    result = jax.lax.switch(turn, [
        lambda name=name: gradient(state, {name: batches[name]}, counts)
        for name in names])
    return result, {name: turn == i for i, name in enumerate(names)}

  def train_step(state, batches):
    _check_rows(batches, micro_batches)
    counts = count_targets(batches)
    targets = {name: b.loss_mask.sum() for name, b in batches.items()}
    if combine == 'sum':
      (loss, scalars), grads = gradient(state, batches, counts)
    else:
      ((loss, scalars), grads), chosen = in_turn(state, batches, counts)
      targets = {name: n * chosen[name] for name, n in targets.items()}
    updates, opt_state = optimizer.update(
        grads, state.opt_state, state.trainable)
    metrics = {'loss': loss, 'gradient_norm': optax.global_norm(grads)}
    metrics |= scalars | {f'targets/{name}': n for name, n in targets.items()}
    metrics |= part_norms(grads)
    metrics['update_norm'] = optax.global_norm(updates)
    trainable = optax.apply_updates(state.trainable, updates)
    state = state.replace(
        step=state.step + 1, trainable=trainable, opt_state=opt_state,
        ema=_average(state, trainable, ema))
    return state, metrics

  return train_step


def part_norms(grads: Params) -> Metrics:
  """`gradient_norm/<part>`: resampler, xattn, new_tokens, what else is trained.

  Not whitening, which stands among the trainables but never gets a gradient.
  """
  parts = {}
  for name, leaf in grads.items():
    part = (
        'xattn' if name.startswith('xattn')
        else 'new_tokens' if name.startswith('new_') else name)
    parts.setdefault(part, []).append(leaf)
  return {
      f'gradient_norm/{part}': optax.global_norm(leaves)
      for part, leaves in parts.items() if part != 'whitening'}


def _deal(leaf: jax.Array, parts: int) -> jax.Array:
  """Rows [B ...] dealt like cards, [parts B/parts ...].

  Dealt, each part is spread over the same devices as the whole; cut, the first
  part would lie on the first devices alone.
  """
  return leaf.reshape((-1, parts) + leaf.shape[1:]).swapaxes(0, 1)


def _average(state: TrainState, trainable: Params, ema: float):
  if not ema:
    return state.ema
  if state.ema is None:
    raise ValueError(
        f'ema={ema} averages the trainables, but the state holds no average. '
        f'Begin with `init_state(..., ema={ema})`.')
  decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
  return jax.tree.map(
      lambda old, new: decay * old + (1 - decay) * new, state.ema, trainable)


def _check(micro_batches, combine, z_loss, ema):
  if micro_batches < 1:
    raise ValueError(f'micro_batches={micro_batches} must be at least 1.')
  if combine not in COMBINE:
    raise ValueError(f'combine={combine!r} is not one of {COMBINE}.')
  if z_loss < 0:
    raise ValueError(f'z_loss={z_loss} must not be negative; 0 is off.')
  if not 0 <= ema < 1:
    raise ValueError(
        f'ema={ema} must be at least 0, which is off, and less than 1.')


def _check_rows(batches: Mapping[str, Batch], micro_batches: int) -> None:
  for name, batch in batches.items():
    rows = batch.tokens.shape[0]
    if rows % micro_batches:
      raise ValueError(
          f'A batch of {name!r} has {rows} rows, which micro_batches='
          f'{micro_batches} does not divide. Choose a batch_size that it does.')
