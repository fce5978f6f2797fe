"""What every program of this folder begins with."""

import os
import pathlib

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections

from experiments import build
from experiments import data as data_lib
from flamingo.model.flamingo import Flamingo
from flamingo.types import Params


def build_state(
    config: ml_collections.ConfigDict,
    frozen: build.Frozen,
    pictures: data_lib.Pictures,
) -> tuple[Flamingo, Params]:
  """The model, and first values of its trainables."""
  rms = build.measure_residual_rms(frozen)
  model = build.build_model(
      config, frozen.lm, pictures.store.shape[1], residual_rms=rms)
  fresh = build.init_trainable(model, pictures.store.shape, config.seed)
  if config.model.new_tokens_like_words:
    fresh['new_embedding'] = jnp.asarray(build.rows_like_words(frozen))
  if config.whitening.width:
    fresh['whitening'] = jax.tree.map(
        jnp.asarray, data_lib.fit_whitening(pictures, config.whitening.width))
  return model, fresh


def prepare() -> None:
  """Quiets other libraries' logs, and keeps compiled programs on disk.

  JAX_COMPILATION_CACHE_DIR says where else, or nowhere if empty.
  """
  logging.set_verbosity(logging.WARNING)
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    home = pathlib.Path.home() / '.cache' / 'flamingo' / 'jax'
    jax.config.update('jax_compilation_cache_dir', str(home))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1.0)
