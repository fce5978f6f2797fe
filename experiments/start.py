"""What every program of this folder begins with."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import sys
import tempfile
import traceback

from absl import logging
import jax
from jax.sharding import Mesh
import jax.numpy as jnp
import ml_collections
import optax

from experiments import build
from experiments import data as data_lib
from flamingo import hardware
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


def check_writable(path: str | os.PathLike, name: str) -> None:
  """Makes a folder and writes into it, before there is work to lose.

  Args:
    path: of the folder.
    name: of the flag that says where it is.

  Raises:
    OSError: it cannot be made, or not written to.
  """
  path = pathlib.Path(path).absolute()
  try:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
      pass
  except OSError as error:
    raise OSError(
        f'Expected {name} to be a folder that can be written to; came {path}: '
        f'{error.strerror}. Name another, or free the way to it.') from error


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
  """Ends the program with what we say of wrong inputs, and no traceback.

  Errors that others raised keep theirs: nobody has said yet what they mean.
  """
  try:
    yield
  except (OSError, ValueError) as error:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    room = frame.f_globals.get('__name__', '').partition('.')[0]
    if room not in ('flamingo', 'experiments', '__main__'):
      raise
    sys.exit(str(error))


def prepare() -> None:
  """Quiets other libraries' logs; keeps memory, and compiled programs on disk.

  JAX_COMPILATION_CACHE_DIR says where else, or nowhere if empty.
  """
  logging.set_verbosity(logging.WARNING)
  hardware.keep_memory()
  hardware.spare_threads()
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    home = pathlib.Path.home() / '.cache' / 'flamingo' / 'jax'
    jax.config.update('jax_compilation_cache_dir', str(home))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1.0)
