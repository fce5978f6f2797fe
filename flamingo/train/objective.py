"""What is minimised: the weighted sum of the losses of all datasets."""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from flamingo import params as params_lib
from flamingo.model.flamingo import Flamingo
from flamingo.train.loss import weighted_nll
from flamingo.types import Batch, Params

Metrics = dict[str, jax.Array]


def weighted_loss(
    model: Flamingo,
    trainable: Params,
    frozen: Params,
    batches: Mapping[str, Batch],
    weights: Mapping[str, float],
    *,
    counts: Mapping[str, jax.Array] | None = None,
    z_loss: float = 0.0,
    shares: int = 1,
    chunk: int | None = None,
) -> tuple[jax.Array, Metrics]:
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
    counts: targets that means are over, see `count_targets`; those of
      `batches`, if they are not parts of larger ones. All results are sums over
      tokens, so those of the parts add up to those of the whole.
    z_loss: weight of the mean of log(Z)^2 beside each mean loss.
    shares: parts that rows are spread over, on devices; rows of several
      datasets are joined, and chunks of the loss taken, within each.
    chunk: tokens of a share whose logits are held at once. By default 128 on a
      CPU and 1024 elsewhere, where smaller products are slow.

  Returns:
    The loss; `loss/<dataset>`, the mean loss a token of each in `counts`; and
    `z_loss`, its part of the loss, if it has a weight.
  """
  counts = count_targets(batches) if counts is None else counts
  if chunk is None:
    chunk = 128 if jax.default_backend() == 'cpu' else 1024
  merged = params_lib.merge(trainable, frozen)
  # All that logits are made from, of either tree: rows of new tokens may be
  # frozen, too.
  head_trainable, head_frozen = (
      {name: leaf for name, leaf in tree.items()
       if name == 'lm' or name.startswith('new_')}
      for tree in (trainable, frozen))

  def head(trainable, frozen, x):
    variables = {'params': params_lib.merge(trainable, frozen)}
    return model.apply(variables, x, method='logits')

  total, scalars = jnp.zeros(()), no_metrics(counts, z_loss)
  for names in same_shape(batches):
    group = [batches[name] for name in names]
    joined, parts = _join(group, shares)
    x = model.apply({'params': merged}, joined, method=_states)
    token_weights, _ = _join([
        batches[name].loss_mask * (weights[name] / counts[name])
        for name in names], shares)
    token_weights = token_weights.reshape(-1).astype(jnp.float32)
    loss, nll, log_z = weighted_nll(
        head, head_trainable, head_frozen, x.reshape(-1, x.shape[-1]),
        joined.targets.reshape(-1), token_weights, chunk, z_loss, parts)
    total = total + loss
    if z_loss:
      scalars['z_loss'] += z_loss * (token_weights * log_z**2).sum()
    nll, start = nll.reshape(parts, -1, x.shape[1]), 0
    for name in names:
      stop = start + batches[name].tokens.shape[0] // parts
      scalars[f'loss/{name}'] = nll[:, start:stop].sum() / counts[name]
      start = stop
  return total, scalars


def count_targets(batches: Mapping[str, Batch]) -> dict[str, jax.Array]:
  """Targets that count, of each dataset; at least 1, to divide by."""
  return {
      name: jnp.maximum(batch.loss_mask.sum(), 1)
      for name, batch in batches.items()}


def _states(model: Flamingo, batch: Batch) -> jax.Array:
  latents = model.see(batch.images)
  x, _ = model.read(latents, batch.tokens, batch.image_index)
  return x


def same_shape(batches: Mapping[str, Batch]) -> list[list[str]]:
  """Names of datasets whose batches differ in nothing but their rows."""
  groups = {}
  for name, batch in batches.items():
    shape = batch.images.shape[1:] + batch.tokens.shape[1:]
    groups.setdefault(shape, []).append(name)
  return list(groups.values())


def _join(trees: Sequence, shares: int) -> tuple:
  """All rows in one tree, and the number of shares they are in.

  Rows are joined share by share, so that a device keeps those it has. A batch
  whose rows the shares do not divide was copied to all devices.
  """
  if any(leaf.shape[0] % shares for leaf in jax.tree.leaves(trees)):
    shares = 1

  def join(*leaves):
    parts = [leaf.reshape((shares, -1) + leaf.shape[1:]) for leaf in leaves]
    joined = jnp.concatenate(parts, axis=1)
    return joined.reshape((-1,) + joined.shape[2:])

  return jax.tree.map(join, *trees), shares


def no_metrics(counts: Iterable[str], z_loss: float) -> Metrics:
  """What `weighted_loss` says of nothing; to add to."""
  names = [f'loss/{name}' for name in counts] + ['z_loss'] * bool(z_loss)
  return {name: jnp.zeros(()) for name in names}
