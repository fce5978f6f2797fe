"""What one update of a config reads and changes, as shapes."""

from collections.abc import Mapping
import dataclasses
import math

import jax
import jax.numpy as jnp
import ml_collections
import optax

from experiments import build
from flamingo import params as params_lib
from flamingo.model.flamingo import Flamingo
from flamingo.model.vision.nfnet import NFNet, VARIANTS
from flamingo.train import step as step_lib
from flamingo.types import Batch, TrainState

_KNOWN = (
    'lm', 'visual', 'model', 'whitening', 'resampler', 'xattn', 'optimizer',
    'steps', 'mixture', 'batch_scale', 'mesh', 'step', 'targets')
_VISUAL = ('encoder', 'size', 'places', 'width', 'given')
_DATASET = ('batch_size', 'images', 'frames', 'length', 'weight')


@dataclasses.dataclass(frozen=True)
class Step:
  """A training step that was never made.

  Attributes:
    model: the network.
    optimizer: of the trainables.
    state: shapes of the training state.
    batches: shapes of what one update reads, by dataset.
    weights: the lambda of each dataset.
    update: arguments of `make_train_step`.
  """

  model: Flamingo
  optimizer: optax.GradientTransformation
  state: TrainState
  batches: Mapping[str, Batch]
  weights: Mapping[str, float]
  update: Mapping

  @property
  def micro_batches(self) -> int:
    return self.update['micro_batches']

  def rematerialised(self, remat: str) -> 'Step':
    return dataclasses.replace(self, model=self.model.clone(remat=remat))

  def in_parts(self, micro_batches: int) -> 'Step':
    update = dict(self.update) | {'micro_batches': micro_batches}
    return dataclasses.replace(self, update=update)


def step_of(config: ml_collections.ConfigDict, platform: str) -> Step:
  """The step of a config, on a platform that 'auto' settings depend on."""
  build.check_keys(config, _KNOWN, 'config')
  model = model_of(config, platform)
  batches = {
      name: batch_of(section, name, config)
      for name, section in config.mixture.items()}
  optimizer = build.build_optimizer(config)
  params = param_shapes(model, config)
  trainable, frozen = params_lib.split(params)
  dtype = build.DTYPES[config.model.dtype]
  frozen = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), frozen)
  state = jax.eval_shape(
      lambda t, f: step_lib.init_state(optimizer, t, f, ema=config.step.ema),
      trainable, frozen)
  return Step(
      model=model, optimizer=optimizer, state=state, batches=batches,
      weights={name: d.weight for name, d in config.mixture.items()},
      update=dict(config.step))


def model_of(config: ml_collections.ConfigDict, platform: str) -> Flamingo:
  """The network with its vision encoder, if that is part of the step."""
  visual = config.visual
  build.check_keys(visual, _VISUAL, 'config.visual')
  if visual.given not in ('pixels', 'features'):
    raise ValueError(
        f'config.visual.given is {visual.given!r}. The step is given '
        "'pixels', and encodes them, or 'features'.")
  model = build.build_model(
      config, dict(config.lm), visual.width, platform=platform)
  if visual.given == 'features':
    return model
  name = visual.encoder.removeprefix('nfnet-')
  if not visual.encoder.startswith('nfnet-') or name not in VARIANTS:
    raise ValueError(
        f'config.visual.encoder is {visual.encoder!r}, not one of '
        f"{', '.join(f'nfnet-{v}' for v in VARIANTS)}.")
  vision = NFNet(
      depths=VARIANTS[name].depths, dtype=build.DTYPES[config.model.dtype])
  if vision.width != visual.width:
    raise ValueError(
        f'config.visual.width is {visual.width}, and {visual.encoder} makes '
        f'features of width {vision.width}.')
  return model.clone(vision=vision)


def param_shapes(model: Flamingo, config: ml_collections.ConfigDict):
  """Shapes of all parameters; nothing is allocated."""
  images = picture_shape(1, 1, 1, config)
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  return jax.eval_shape(
      model.init, jax.random.key(0), images, tokens, tokens)['params']


def picture_shape(rows, images, frames, config) -> jax.ShapeDtypeStruct:
  """Pixels [B N T H W 3], or features [B N T S C] in half precision."""
  visual, lead = config.visual, (rows, images, frames)
  if visual.given == 'pixels':
    return jax.ShapeDtypeStruct(
        lead + (visual.size, visual.size, 3), jnp.uint8)
  return jax.ShapeDtypeStruct(
      lead + (visual.places, visual.width), jnp.float16)


def batch_of(section, name: str, config: ml_collections.ConfigDict) -> Batch:
  """Shapes of a batch of one dataset."""
  build.check_keys(section, _DATASET, f'config.mixture.{name}')
  rows = section.batch_size * config.batch_scale
  if rows != math.floor(rows):
    raise ValueError(
        f'config.batch_scale={config.batch_scale} makes {rows} rows of the '
        f'{section.batch_size} of {name}. Choose a factor that keeps it whole.')
  rows = int(rows)
  tokens = jax.ShapeDtypeStruct((rows, section.length), jnp.int32)
  return Batch(
      images=picture_shape(rows, section.images, section.frames, config),
      tokens=tokens, image_index=tokens, targets=tokens,
      loss_mask=jax.ShapeDtypeStruct(tokens.shape, bool))
