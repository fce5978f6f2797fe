"""Floating-point operations of an update, counted from shapes.

XLA's own count takes the body of a loop once and knows nothing of what a step
must do. Here a product [m k] x [k n] is 2 m k n; norms, activations and
softmax, a few percent, are left out.

  frozen weight    2 a token forward, 2 backward (the gradient of what came in);
                   no backward where nothing below is trained
  trained weight   2 forward, 4 backward
  vision encoder   forward only

Self-attention is counted over all pairs of tokens, masked ones too, as is
common; cross-attention over the latents of the one image that a token sees.
What rematerialisation does again is no part of the count, nor of an MFU.
"""

from collections.abc import Callable, Mapping
import math
from typing import NamedTuple

import jax
import jax.extend
import jax.numpy as jnp

from flamingo import params as params_lib
from flamingo.model.flamingo import Flamingo
from flamingo.types import Batch, Params


class Flops(NamedTuple):
  """FLOPs of a part in one update."""

  forward: float
  backward: float

  def __add__(self, other):
    return Flops(self.forward + other.forward, self.backward + other.backward)

  @property
  def sum(self) -> float:
    return self.forward + self.backward


def step_flops(
    model: Flamingo,
    trainable: Params,
    frozen: Params,
    batches: Mapping[str, Batch],
    targets: int | None = None,
) -> dict[str, float]:
  """FLOPs of an update by part; see `by_part`."""
  parts = by_part(model, trainable, frozen, batches, targets)
  return {name: flops.sum for name, flops in parts.items()}


def by_part(
    model: Flamingo,
    trainable: Params,
    frozen: Params,
    batches: Mapping[str, Batch],
    targets: int | None = None,
) -> dict[str, Flops]:
  """FLOPs of an update by part, forward and backward.

  Args:
    model: the network.
    trainable: its trained parameters, arrays or shapes, scanned or not.
    frozen: its frozen ones.
    batches: what one update reads, arrays or shapes.
    targets: tokens that count in the loss; by default all of them, although
      tokens without a target cost no product with the vocabulary.
  """
  total, seen = {}, {}  # a deep encoder takes seconds to trace
  for batch in batches.values():
    shape = tuple(batch.images.shape[3:])
    if len(shape) == 3 and shape not in seen:
      seen[shape] = picture_flops(model, frozen, shape)
    parts = _of_batch(model, trainable, frozen, batch, seen.get(shape))
    for name, flops in parts.items():
      total[name] = total.get(name, Flops(0, 0)) + flops
  if targets is None:
    targets = sum(math.prod(batch.tokens.shape) for batch in batches.values())
  vocabulary = frozen['lm']['embed']['embedding'].shape
  total['vocabulary'] = _product(targets, math.prod(vocabulary), trained=False)
  new = trainable.get('new_embedding')
  if new is not None:
    total['vocabulary'] += _product(
        targets, math.prod(new.shape), trained=True)
  return total


def _of_batch(model, trainable, frozen, batch, seen) -> dict[str, Flops]:
  rows, length = batch.tokens.shape
  images, frames = batch.images.shape[1:3]
  tokens, pictures = rows * length, rows * images
  parts = {}
  places = batch.images.shape[3]
  if seen is not None:
    each, places = seen
    parts['vision encoder'] = Flops(pictures * frames * each, 0)
  parts['language model'] = _language_model(
      model, frozen['lm'], rows, length, 'new_embedding' in trainable)

  latents = frames * places  # without a resampler, all features are shown
  if 'resampler' in trainable:
    resampler = trainable['resampler']
    latents = resampler['latent'].shape[0]
    parts['resampler'] = _resampler(resampler, pictures, frames * places)

  blocks = {k: v for k, v in trainable.items() if k.startswith('xattn')}
  seen = _kernels(blocks, lambda path: path[-2] in ('key', 'value'))
  rest = _kernels(blocks, lambda path: path[-2] not in ('key', 'value'))
  # Keys and values are computed once for each latent.
  parts['gated blocks'] = (
      _product(tokens, rest, trained=True)
      + _product(pictures * latents, seen, trained=True)
      + _attention(tokens * latents, _heads_width(blocks)))
  if 'induction' in trainable:
    # Features are given, so they need no gradient.
    flops = _product(
        pictures, params_lib.count(trainable['induction']), trained=False)
    # All heads of a layer have wider queries and keys, told or not.
    path = model.induction
    told = len(path.wider) * model.lm.heads * path.width
    scores = 2 * rows * length**2 * told
    parts['induction path'] = flops + Flops(scores, 2 * scores)
  return parts


def _language_model(model, lm, rows, length, new_tokens) -> Flops:
  total = Flops(0, 0)
  for name, part in lm.items():
    if name in ('embed', 'unembed', 'position'):
      continue
    flops = _product(rows * length, _kernels(part), trained=False)
    flops += _attention(rows * length**2, _heads_width(part))
    if not (new_tokens or _behind_a_block(name, model.offset)):
      flops = Flops(flops.forward, 0)
    total += flops
  return total


def _behind_a_block(name: str, offset: int) -> bool:
  """Whether a part of the LM is given anything that depends on what trains."""
  if name == 'embed_in':
    return False
  layer = name.removeprefix('layer_')
  return not layer.isdigit() or int(layer) >= offset


def _resampler(resampler, pictures, features) -> Flops:
  latents = resampler['latent'].shape[0]
  layers = {k: v for k, v in resampler.items() if k.startswith('layer')}
  wide = _kernels(layers, lambda path: path[-2] in ('key', 'value'))
  deep = _kernels(layers, lambda path: path[-2] not in ('key', 'value'))
  # Features with nothing trained beneath them have no gradient of their own.
  beneath = 'input' in resampler or 'time' in resampler
  of_features = 2 * pictures * features * wide
  flops = (
      Flops(of_features, (1 + beneath) * of_features)
      + _product(pictures * latents, wide + deep, trained=True)
      + _attention(
          pictures * latents * (features + latents), _heads_width(layers)))
  if 'input' in resampler:
    # Features are given, so only the weight has a gradient.
    forward = 2 * pictures * features * _kernels(resampler['input'])
    flops += Flops(forward, forward)
  return flops


def _product(tokens: float, weights: float, trained: bool) -> Flops:
  forward = 2 * tokens * weights
  return Flops(forward, 2 * forward if trained else forward)


def _attention(pairs: float, width: float) -> Flops:
  """Scores and the weighted sum: two products, four in the backward pass."""
  return Flops(4 * pairs * width, 8 * pairs * width)


def _kernels(params: Params, chosen=lambda path: True) -> int:
  return sum(
      math.prod(leaf.shape) for path, leaf in params_lib.flatten(params)
      if path[-1] == 'kernel' and chosen(path))


def _heads_width(params: Params) -> int:
  """Heads times their width, summed over layers, also over stacked ones."""
  return sum(
      math.prod(leaf.shape) // leaf.shape[-3]  # [..., inputs, heads, width]
      for path, leaf in params_lib.flatten(params)
      if path[-2:] == ('query', 'kernel'))


def picture_flops(
    model: Flamingo, frozen: Params, shape: tuple[int, ...]
) -> tuple[float, int]:
  """FLOPs of encoding a picture [H W 3], and the number of its features."""
  encode = lambda params, x: model.vision.apply({'params': params}, x)
  picture = jax.ShapeDtypeStruct((1,) + shape, jnp.uint8)
  trace, features = jax.make_jaxpr(encode, return_shape=True)(
      frozen['vision'], picture)
  return _traced(trace.jaxpr), features.shape[1]


def product_flops(function: Callable, *args) -> float:
  """FLOPs of a function's matrix products and convolutions.

  Read from its trace, so nothing is computed or compiled. The body of a scan
  counts as often as it runs, a convolution its whole border, and a `while` or
  the branches of a `cond` once.
  """
  return _traced(jax.make_jaxpr(function)(*args).jaxpr)


def _traced(jaxpr) -> float:
  total = 0
  for eqn in jaxpr.eqns:
    size = math.prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      shape = eqn.invars[0].aval.shape
      total += 2 * size * math.prod(shape[i] for i in contracted)
    elif eqn.primitive.name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval.shape
      outputs = kernel[eqn.params['dimension_numbers'].rhs_spec[0]]
      total += 2 * size * math.prod(kernel) // outputs
    else:
      inner = sum(map(_traced, jax.extend.core.jaxprs_in_params(eqn.params)))
      total += inner * eqn.params.get('length', 1)
  return total
