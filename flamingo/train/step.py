"""One update: a batch of each dataset, gradients weighted and summed."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from flamingo import params as params_lib
from flamingo.model.flamingo import Flamingo
from flamingo.train.loss import weighted_nll
from flamingo.types import Batch, Params, TrainState

Metrics = dict[str, jax.Array]


def weighted_loss(
    model: Flamingo,
    trainable: Params,
    frozen: Params,
    batches: Mapping[str, Batch],
    weights: Mapping[str, float],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Sum over datasets of weight times mean loss a token (section 2.4, eq. 2).

  The gradient of this sum is the paper's sum of weighted gradients. Batches of
  one shape go through the model together: the loss is a sum over rows, so that
  changes nothing but the number of times the frozen weights are read.

  Args:
    model: the network.
    trainable: what is differentiated.
    frozen: what is not.
    batches: one for each dataset.
    weights: the lambda of each dataset.

  Returns:
    The loss, and the mean loss a token of each dataset.
  """
  merged = params_lib.merge(trainable, frozen)
  head_trainable = {
      name: leaf for name, leaf in trainable.items() if name.startswith('new_')}

  def head(trainable, frozen, x):
    variables = {'params': params_lib.merge(trainable, frozen)}
    return model.apply(variables, x, method='logits')

  total, means = 0.0, {}
  for names in _same_shape(batches):
    group = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves), *(batches[n] for n in names))
    x = model.apply({'params': merged}, group, method=_states)
    counts = {
        name: jnp.maximum(batches[name].loss_mask.sum(), 1) for name in names}
    token_weights = jnp.concatenate([
        batches[name].loss_mask * (weights[name] / counts[name])
        for name in names])
    loss, nll = weighted_nll(
        head, head_trainable, {'lm': frozen['lm']},
        x.reshape(-1, x.shape[-1]), group.targets.reshape(-1),
        token_weights.reshape(-1).astype(jnp.float32))
    total = total + loss
    nll = nll.reshape(x.shape[:2])
    start = 0
    for name in names:
      stop = start + batches[name].tokens.shape[0]
      means[name] = nll[start:stop].sum() / counts[name]
      start = stop
  return total, means


def _states(model: Flamingo, batch: Batch) -> jax.Array:
  latents = model.see(batch.images)
  x, _ = model.read(latents, batch.tokens, batch.image_index)
  return x


def _same_shape(batches: Mapping[str, Batch]) -> list[list[str]]:
  """Names of datasets whose batches differ in nothing but their rows."""
  groups = {}
  for name, batch in batches.items():
    shape = batch.images.shape[1:] + batch.tokens.shape[1:]
    groups.setdefault(shape, []).append(name)
  return list(groups.values())


def make_train_step(
    model: Flamingo,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, float],
) -> Callable[[TrainState, Mapping[str, Batch]], tuple[TrainState, Metrics]]:
  """Builds the update; jit it with the state donated."""

  def train_step(state, batches):
    def loss_fn(trainable):
      return weighted_loss(model, trainable, state.frozen, batches, weights)

    (loss, means), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state.trainable)
    updates, opt_state = optimizer.update(
        grads, state.opt_state, state.trainable)
    metrics = {'loss': loss, 'gradient_norm': optax.global_norm(grads)}
    metrics |= {f'loss/{name}': mean for name, mean in means.items()}
    state = state.replace(
        step=state.step + 1,
        trainable=optax.apply_updates(state.trainable, updates),
        opt_state=opt_state)
    return state, metrics

  return train_step
