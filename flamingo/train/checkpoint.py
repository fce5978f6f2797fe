"""Checkpoints of what training changes. The only orbax.

Saved: trainables, optimizer, step, data position, and the config. The frozen
parts are not copied; their fingerprints are kept and compared.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from flamingo import params as params_lib
from flamingo.types import Params, TrainState


class Checkpointer:
  """Saves and restores training in a folder.

  Args:
    directory: the folder, made if absent.
    config: plain data that says what is being trained; kept beside the state.
    fingerprints: of the frozen parts, by name.
    keep: newest checkpoints kept.

  Raises:
    PermissionError: the folder can't be written.
  """

  def __init__(
      self,
      directory: str | os.PathLike[str],
      *,
      config: Mapping[str, Any],
      fingerprints: Mapping[str, str],
      keep: int = 2,
  ):
    directory = pathlib.Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
      raise PermissionError(
          f'{directory} cannot be written. Choose another --workdir, or change '
          'its owner.')
    self.directory = directory
    self.meta = {
        'config': dict(config), 'fingerprints': dict(fingerprints)}
    self._manager = ocp.CheckpointManager(
        directory,
        options=ocp.CheckpointManagerOptions(max_to_keep=keep),
        item_names=('state', 'data', 'meta'))

  @property
  def latest_step(self) -> int | None:
    """Step of the newest whole checkpoint."""
    return self._manager.latest_step()

  def save(
      self, state: TrainState, data_state: Mapping[str, Any], *,
      wait: bool = False,
  ) -> None:
    """Saves in the background; a copy is taken before this returns.

    Args:
      state: its `frozen` part is left out.
      data_state: of the data iterator.
      wait: return only when it is on disk.
    """
    step = int(state.step)
    if step != self.latest_step:
      self._manager.save(
          step,
          args=ocp.args.Composite(
              state=ocp.args.StandardSave(_saved(state)),
              data=ocp.args.JsonSave(dict(data_state)),
              meta=ocp.args.JsonSave(
                  self.meta | {'shapes': _shapes(state.trainable)})))
    if wait:
      self._manager.wait_until_finished()

  def restore(
      self, state: TrainState
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest checkpoint, or None if there is none.

    Args:
      state: what a fresh run starts from: shapes, shardings, the frozen part.

    Returns:
      the state, and the state of the data iterator.

    Raises:
      ValueError: the checkpoint is of another architecture, or was trained
        beside other frozen parts.
    """
    step = self.latest_step
    if step is None:
      return None
    meta = self._manager.restore(
        step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']
    _check_fingerprints(meta['fingerprints'], self.meta['fingerprints'])
    # Compared before anything is read: a mismatch named by orbax helps no one.
    params_lib.check_same(
        _unshape(_shapes(state.trainable)), _unshape(meta['shapes']),
        f'checkpoint {self.directory}')
    restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(_abstract(_saved(state))),
            data=ocp.args.JsonRestore()))
    saved = restored['state']
    return (
        state.replace(
            step=saved['step'], trainable=saved['trainable'],
            opt_state=saved['opt_state']),
        restored['data'])

  def close(self) -> None:
    """Waits for saving to end."""
    self._manager.wait_until_finished()
    self._manager.close()


def read_meta(directory: str | os.PathLike[str]) -> dict[str, Any]:
  """Config and fingerprints of a folder's newest checkpoint.

  Raises:
    FileNotFoundError: there is no checkpoint.
  """
  directory = pathlib.Path(directory).absolute()
  missing = FileNotFoundError(
      f'{directory} holds no checkpoint. Expected a workdir that '
      '`python -m experiments.train --workdir=...` has written.')
  if not directory.is_dir():
    raise missing
  with ocp.CheckpointManager(directory, item_names=('meta',)) as manager:
    if manager.latest_step() is None:
      raise missing
    return manager.restore(
        manager.latest_step(),
        args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']


def _saved(state: TrainState) -> dict[str, Any]:
  return {
      'step': state.step, 'trainable': state.trainable,
      'opt_state': state.opt_state}


def _shapes(params: Params) -> dict[str, list[int]]:
  """Shapes by path, as JSON keeps them."""
  return {
      '/'.join(path): list(leaf.shape)
      for path, leaf in params_lib.flatten(params)}


def _unshape(shapes: Mapping[str, Sequence[int]]) -> Params:
  return params_lib.unflatten(
      (tuple(path.split('/')), jax.ShapeDtypeStruct(tuple(shape), 'float32'))
      for path, shape in shapes.items())


def _abstract(tree):
  def leaf(x):
    sharding = getattr(x, 'sharding', None)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  return jax.tree.map(leaf, tree)


def _check_fingerprints(saved: Mapping[str, str], here: Mapping[str, str]):
  for name in sorted(saved.keys() | here.keys()):
    if saved.get(name) != here.get(name):
      raise ValueError(
          f'The checkpoint was trained beside {name} of fingerprint '
          f'{saved.get(name)}, but {here.get(name)} is here. Install the '
          'weights it was trained with; its numbers mean nothing beside '
          'others.')
