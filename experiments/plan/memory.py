"""Bytes on one device, from shapes: what is held always, and within a step.

State and batch are exact. Activations are an estimate: of a layer, what its
products read and write (float32 results, bfloat16 operands) and the scores of
attention; the compiler keeps some of it in no memory at all, and adds copies.
`--compile` asks it.
"""

import dataclasses
import math

import jax
from jax.sharding import AbstractMesh, Mesh

from experiments.plan.shapes import Step
from flamingo import params as params_lib
from flamingo import sharding
from flamingo.model.flamingo import gated_layers
from flamingo.train.objective import same_shape

CHUNK = 1024  # tokens of a share whose logits are held at once


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device, by what they are.

  Attributes:
    always: parameters, moments and the batch.
    within: gradients and activations, at the worst moment of a step.
  """

  always: dict[str, float]
  within: dict[str, float]

  @property
  def total(self) -> float:
    return sum(self.always.values()) + sum(self.within.values())


def estimate(step: Step, mesh: Mesh | AbstractMesh) -> Memory:
  """Bytes that a step takes on each device of a mesh."""
  state = step.state
  where = sharding.state_shardings(state, mesh)
  trained = _bytes(state.trainable, where.trainable)
  always = {
      f'{name} (frozen)': _bytes(state.frozen[key], where.frozen[key])
      for key, name in (
          ('lm', 'language model'), ('vision', 'vision encoder'))
      if key in state.frozen}
  always['trained parameters'] = trained
  always['moments'] = _bytes(state.opt_state, where.opt_state)
  if state.ema is not None:
    always['moving average'] = _bytes(state.ema, where.ema)
  always['batch'] = sum(
      math.prod(leaf.shape) * leaf.dtype.itemsize / _shares(batch, mesh)
      for batch in step.batches.values() for leaf in jax.tree.leaves(batch))
  copies = 1 if step.micro_batches == 1 else 2  # the sum, and one part's
  within = {
      'gradients': copies * trained,
      # Operands of products, made of float32 parameters.
      'trained parameters in bfloat16': trained / 2,
  }
  return Memory(always, within | _activations(step, mesh))


def _bytes(shapes, where) -> float:
  sizes = jax.tree.map(
      lambda leaf, at: math.prod(at.shard_shape(leaf.shape))
      * leaf.dtype.itemsize, shapes, where)
  return sum(jax.tree.leaves(sizes))


def _shares(batch, mesh) -> int:
  """Parts that a batch's rows are in; all are on each device if uneven."""
  shards = sharding.row_shards(mesh)
  return 1 if batch.tokens.shape[0] % shards else shards


def _activations(step: Step, mesh) -> dict[str, float]:
  """Kept for the backward pass; at work in one group; the vocabulary's."""
  kept, working, seeing, looking = {}, {}, {}, {}
  for names in same_shape(step.batches):
    for name in names:
      batch = step.batches[name]
      rows = batch.tokens.shape[0] / _shares(batch, mesh) / step.micro_batches
      cost = _Cost(step, batch, mesh)
      kept[name] = rows * cost.kept
      working[name] = rows * cost.working
      # Pictures are split over all devices.
      pictures = math.ceil(
          batch.tokens.shape[0] / step.micro_batches * batch.images.shape[1]
          / mesh.size)
      seeing[name] = pictures * cost.resampler
      looking[name] = pictures * cost.vision
  # Micro-batches of one shape follow those of another; without them, the
  # forward passes of all come before the first backward pass.
  most = lambda by_name: (
      sum(by_name.values()) if step.micro_batches == 1 else max(
          sum(by_name[name] for name in names)
          for names in same_shape(step.batches)))
  model = step.model
  return {
      'activations kept': most(kept),
      "resampler's activations": most(seeing),
      'activations at work': max(working.values()),
      "vision encoder's activations": max(looking.values()),
      'logits': 3 * 4 * CHUNK * model.lm.vocab_size / mesh.shape['tensor'],
  }


class _Cost:
  """Bytes of activations of a row of a batch, on each device it is on."""

  def __init__(self, step: Step, batch, mesh):
    self.model = step.model
    _, self.length = batch.tokens.shape
    _, self.images, self.frames = batch.images.shape[:3]
    self.picture = batch.images.shape[3:]
    self.tensor = mesh.shape['tensor']
    lm = self.model.lm
    self.places = len(gated_layers(
        lm.layers, self.model.every, self.model.offset))
    self.spans = self.places + (self.model.offset > 0)

  def _of_layer(self, heads, head_dim, hidden, keys, saved_only) -> float:
    """Of one block, a token: inputs and outputs of its products."""
    width, split = self.model.lm.width, self.tensor
    inner, hidden, scores = (
        heads * head_dim / split, hidden / split, heads * keys / split)
    # Only results of products with parameters.
    saved = 4 * (3 * inner + width + hidden + width)
    if saved_only:
      return saved
    operands = 2 * (2 * width + 4 * inner + hidden)
    return saved + operands + 4 * 2 * width + 6 * scores

  def _layers(self, layers: float, blocks: float, saved_only: bool) -> float:
    lm = self.model.lm
    layer = self._of_layer(
        lm.heads, lm.head_dim, lm.hidden, self.length, saved_only)
    block = self.model.xattn[0]
    latents = self.images * self._latents
    gated = self._of_layer(
        block.heads, block.head_dim, block.ff_hidden, latents, saved_only)
    return self.length * (layers * layer + blocks * gated)

  @property
  def _latents(self) -> int:
    return self.model.resampler.latents

  @property
  def kept(self) -> float:
    stream = self.length * 4 * self.model.lm.width
    everything = self.model.lm.layers, self.places
    return {
        'full': self.spans * stream,
        'dots': self.spans * stream + self._layers(*everything, True),
        'none': self._layers(*everything, False),
    }[self.model.remat]

  @property
  def working(self) -> float:
    if self.model.remat == 'none':
      return 0.0
    return self._layers(self.model.every, 1, False)

  @property
  def resampler(self) -> float:
    """Of one picture. All is kept: the resampler is not rematerialised."""
    it = self.model.resampler
    inner, features = it.heads * it.head_dim, self.frames * self._features
    wide = features + it.latents
    layer = (
        wide * (2 * it.width + 2 * 2 * inner)
        + it.latents * (
            4 * 4 * it.width + (4 + 2 + 2) * inner
            + (4 + 2) * (it.ff_hidden or 4 * it.width)
            + 6 * it.heads * wide))
    given = features * (4 * it.width + 2 * it.visual_width)
    return it.layers * layer + given

  @property
  def _features(self) -> int:
    if len(self.picture) == 2:
      return self.picture[0]
    return math.prod(-(-side // 32) for side in self.picture[:2])

  @property
  def vision(self) -> float:
    """Largest activations of the encoder, of one picture or clip."""
    if len(self.picture) == 2:
      return 0.0
    height, width = self.picture[:2]
    stem, stage = self.model.vision.stem, self.model.vision.widths
    largest = max(
        height * width // 4 * max(stem[:3]), height * width // 16 * stage[0])
    return 3 * 4 * largest * self.frames


def cache_bytes(step: Step, mesh: Mesh | AbstractMesh, tokens: int) -> float:
  """Keys and values of one row of so many tokens, at evaluation."""
  lm = step.model.lm
  heads = lm.kv_heads
  split = mesh.shape['tensor'] if heads % mesh.shape['tensor'] == 0 else 1
  return (
      2 * lm.layers * heads / split * lm.head_dim * tokens
      * jax.numpy.dtype(lm.dtype).itemsize)


def evaluation_bytes(step: Step, mesh: Mesh | AbstractMesh) -> float:
  """Parameters on one device when nothing is trained, all in bfloat16."""
  tree = params_lib.merge(step.state.frozen, step.state.trainable)
  where = sharding.shardings(tree, mesh)
  sizes = jax.tree.map(
      lambda leaf, at: 2 * math.prod(at.shard_shape(leaf.shape)), tree, where)
  return sum(jax.tree.leaves(sizes))
