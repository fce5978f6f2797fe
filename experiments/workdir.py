"""What `experiments.train` has left in a workdir, as `flamingo.load` has it.

The checkpoint holds what was trained; its config says which frozen parts stand
beside it, and how pictures became features. Here the vision encoder is a part
of the model, so pixels go in, and what comes out is what cached features give.
"""

from collections.abc import Iterator, Mapping
import contextlib
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
from flamingo.types import Params, TrainState

CHECKPOINTS = 'checkpoints'
# The type that `experiments.data` keeps features in.
_KEPT = 'bfloat16'


def is_workdir(path: str | os.PathLike) -> bool:
  """Whether this is a folder that `experiments.train` has begun to fill."""
  return (pathlib.Path(path) / CHECKPOINTS).is_dir()


def read_config(path: str | os.PathLike) -> ml_collections.ConfigDict:
  """The config of the newest checkpoint of a workdir.

  Raises:
    FileNotFoundError: there is no checkpoint.
  """
  meta = read_meta(pathlib.Path(path) / CHECKPOINTS)
  return ml_collections.ConfigDict(meta['config'])


@contextlib.contextmanager
def of_this_version(path: str | os.PathLike) -> Iterator[None]:
  """Says of a config that builds no model whose it is, and what to do."""
  try:
    yield
  except ValueError as error:
    raise ValueError(
        f'{path} was trained with a config from which this version builds no '
        f'model: {error} Train it anew, or use the version that trained it.'
    ) from error


def restore(
    path: str | os.PathLike, fresh: Params, fingerprints: Mapping[str, str]
) -> TrainState:
  """The newest state of a workdir that is whole, without what is frozen.

  Args:
    path: of the workdir.
    fresh: trainables of its shapes and types, or these alone.
    fingerprints: of the frozen parts.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: other frozen parts are here than it was trained beside, or the
      checkpoint is of another architecture.
  """
  directory = pathlib.Path(path) / CHECKPOINTS
  written = read_meta(directory)['config']
  config = ml_collections.ConfigDict(written)
  optimizer = build.build_optimizer(config)
  checkpointer = Checkpointer(
      directory, config=written, fingerprints=fingerprints, read_only=True)
  state = checkpointer.restore(TrainState(
      step=jnp.int32(0), trainable=fresh, frozen={},
      opt_state=jax.eval_shape(optimizer.init, fresh),
      ema=fresh if build.keeps_average(config) else None)).state
  checkpointer.close()
  return state


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
  config = read_config(path)
  frozen = build.load_frozen(config)
  side, width = config.data.grid, frozen.feature_shape[1]
  if dtype is not None:
    config.model.dtype = dtype
  with of_this_version(path):
    model = build.build_model(
        config, frozen.lm, width,
        residual_rms=build.measure_residual_rms(frozen))
  state = restore(
      path, jax.eval_shape(lambda: build.init_trainable(
          model, (side**2, width), config.seed)), frozen.fingerprints)
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
