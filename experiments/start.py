"""What every program of this folder begins with."""

import os
import pathlib

from absl import logging
import jax
from jax.sharding import Mesh
import jax.numpy as jnp
import ml_collections
import optax

from experiments import build
from experiments import data as data_lib
from flamingo import sharding
from flamingo.model.flamingo import Flamingo
from flamingo.train import step as step_lib
from flamingo.types import Params, TrainState


def build_state(
    config: ml_collections.ConfigDict,
    frozen: build.Frozen,
    pictures: data_lib.Pictures,
    mesh: Mesh | None = None,
) -> tuple[Flamingo, Params]:
  """The model, and first values of its trainables, on the mesh if any."""
  rms = build.measure_residual_rms(frozen)
  model = build.build_model(
      config, frozen.lm, pictures.store.shape[1], residual_rms=rms)
  fresh = build.init_trainable(model, pictures.store.shape, config.seed, mesh)
  if config.model.new_tokens_like_words:
    fresh['new_embedding'] = jnp.asarray(build.rows_like_words(frozen))
  if config.whitening.width:
    fresh['whitening'] = jax.tree.map(
        jnp.asarray, data_lib.fit_whitening(pictures, config.whitening.width))
  if mesh is not None:
    fresh = sharding.place(fresh, sharding.shardings(fresh, mesh))
  return model, fresh


def train_state(
    optimizer: optax.GradientTransformation, fresh: Params, frozen: Params,
    mesh: Mesh, ema: float = 0.0,
) -> tuple[TrainState, TrainState]:
  """The state before the first step, and how it is split over the mesh.

  The optimizer's moments are made where they stay, split over all devices.
  """
  make = lambda fresh: step_lib.init_state(optimizer, fresh, {}, ema=ema)
  shapes = jax.eval_shape(make, fresh)
  where = sharding.state_shardings(shapes, mesh)
  state = jax.jit(make, out_shardings=where)(fresh)
  return (
      state.replace(frozen=frozen),
      where.replace(frozen=sharding.shardings(frozen, mesh)))


def prepare() -> None:
  """Quiets other libraries' logs, and keeps compiled programs on disk.

  JAX_COMPILATION_CACHE_DIR says where else, or nowhere if empty.
  """
  logging.set_verbosity(logging.WARNING)
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    home = pathlib.Path.home() / '.cache' / 'flamingo' / 'jax'
    jax.config.update('jax_compilation_cache_dir', str(home))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1.0)
