"""What `experiments.train` has left in a workdir, as `flamingo.load` has it.

The checkpoint holds what was trained; its config says which frozen parts stand
beside it, and how pictures became features. Here the vision encoder is a part
of the model, so pixels go in, and what comes out is what cached features give.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import ml_collections

from experiments import build
from flamingo import params as params_lib
from flamingo.model.vision.grid import PooledGrid
from flamingo.pretrained.layouts import Report
from flamingo.pretrained.load import Loaded
from flamingo.pretrained.vision import VisionInfo
from flamingo.train.checkpoint import Checkpointer, read_meta
from flamingo.types import TrainState

CHECKPOINTS = 'checkpoints'
# The type that `experiments.data` keeps features in.
_KEPT = 'bfloat16'


def is_workdir(path: str | os.PathLike) -> bool:
  """Whether this is a folder that `experiments.train` has begun to fill."""
  return (pathlib.Path(path) / CHECKPOINTS).is_dir()


def load(path: str | os.PathLike, *, dtype: str | None = None) -> Loaded:
  """Loads the newest checkpoint of a workdir, its frozen parts beside it.

  Args:
    path: of the workdir.
    dtype: of the frozen language model and of matrix operands, a key of
      `build.DTYPES`; None for what it was trained with.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: other frozen parts are here than it was trained beside, or the
      checkpoint is of another architecture.
  """
  directory = pathlib.Path(path) / CHECKPOINTS
  meta = read_meta(directory)
  config = ml_collections.ConfigDict(meta['config'])
  frozen = build.load_frozen(config)
  side, width = config.data.grid, frozen.feature_shape[1]
  optimizer = build.build_optimizer(config)
  if dtype is not None:
    config.model.dtype = dtype
  model = build.build_model(
      config, frozen.lm, width,
      residual_rms=build.measure_residual_rms(frozen))
  fresh = jax.eval_shape(
      lambda: build.init_trainable(model, (side**2, width), config.seed))
  state = TrainState(
      step=jnp.int32(0), trainable=fresh, frozen={},
      opt_state=jax.eval_shape(optimizer.init, fresh),
      ema=fresh if build.keeps_average(config) else None)
  checkpointer = Checkpointer(
      directory, config=meta['config'], fingerprints=frozen.fingerprints,
      read_only=True)
  state = checkpointer.restore(state).state
  checkpointer.close()
  params = params_lib.merge(
      state.trainable, build.frozen_params(frozen, config.model.dtype))
  params['vision'] = {'encoder': jax.tree.map(
      jnp.asarray, frozen.vision_params)}
  print(f'{path}: the model after {int(state.step):,} steps.')
  return Loaded(
      model=model.clone(vision=PooledGrid(
          frozen.vision, side, rounded_to=_KEPT)),
      params=params, tokenizer=frozen.tokenizer,
      vision=VisionInfo(
          name=f'{config.frozen.vision}, {side} x {side}',
          image_size=frozen.image_size, features=side**2, width=width,
          fingerprint=frozen.fingerprints['vision'], fit='pad'),
      report=Report({}, {}, {}))
