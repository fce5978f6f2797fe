"""Checkpoints of what training changes. The only orbax.

Saved: trainables, optimizer, their average if there is one, step, position in
the data, what the loop remembers, and the config. The frozen parts are not
copied; their fingerprints are kept and compared.

A checkpoint is written under another name and renamed when it is whole, and
holds digests of all that is in it. One that is damaged nevertheless is passed
over, and keeps another name, for the one before.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from flamingo.model.stack import like
from flamingo.train import digest
from flamingo.train import folder
from flamingo.train import provenance
from flamingo.types import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
  """What a checkpoint holds.

  Attributes:
    state: of the training.
    data: state of the data iterator.
    progress: what the loop remembered.
  """

  state: TrainState
  data: dict[str, Any]
  progress: dict[str, Any]


class Checkpointer:
  """Saves and restores training in a folder, which no other run may hold.

  Args:
    directory: the folder, made if absent.
    config: plain data that says what is being trained; kept beside the state.
    fingerprints: of the frozen parts, by name.
    keep: newest checkpoints kept.
    may_change: patterns of config keys in which a run that goes on may differ
      from the checkpoint, such as 'steps' or 'survival.*'.
    read_only: only restores: the folder is neither locked nor touched.

  Raises:
    OSError: the folder can't be written.
    RuntimeError: another run holds it.
  """

  def __init__(
      self,
      directory: str | os.PathLike[str],
      *,
      config: Mapping[str, Any],
      fingerprints: Mapping[str, str],
      keep: int = 2,
      may_change: Sequence[str] = (),
      read_only: bool = False,
  ):
    self.directory = pathlib.Path(directory).absolute()
    self.meta = {
        'config': dict(config), 'fingerprints': dict(fingerprints)}
    self._may_change = may_change
    self._held = None
    if not read_only and jax.process_index() == 0:
      self._held = folder.hold(self.directory)
    self._manager = _manager(self.directory, keep, read_only)
    self._read_only = read_only

  @property
  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, be it still on its way to the disk."""
    return self._manager.latest_step()

  def save(
      self, state: TrainState, data: Mapping[str, Any],
      progress: Mapping[str, Any] | None = None, *, wait: bool = False,
  ) -> None:
    """Saves in the background; a copy is taken before this returns.

    Args:
      state: its `frozen` part is left out.
      data: state of the data iterator.
      progress: what the loop remembers, as plain data.
      wait: return only when it is on disk.

    Raises:
      OSError: this checkpoint, or the one before in the background, could not
        be written. Those before are whole.
    """
    step = int(state.step)
    data, progress = dict(data), dict(progress or {})
    saved = _saved(state)
    meta = self.meta | {
        'shapes': provenance.shapes(state.trainable), 'ema': 'ema' in saved}
    meta['digests'] = {
        'data': digest.of_json(data), 'progress': digest.of_json(progress),
        'meta': digest.of_json(meta)}
    try:
      if step != self.latest_step:
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(saved),
                digests=ocp.args.StandardSave(
                    {'leaves': digest.of_arrays(saved)}),
                data=ocp.args.JsonSave(data),
                progress=ocp.args.JsonSave(progress),
                meta=ocp.args.JsonSave(meta)),
            force=True)
      if wait:
        self._manager.wait_until_finished()
    except Exception as error:
      raise folder.unsaved(self.directory, error) from error

  def check(self) -> None:
    """Raises OSError if a save in the background has failed; waits for none."""
    if self._manager.is_saving_in_progress():
      return
    try:
      self._manager.wait_until_finished()  # it has; now it says how
    except Exception as error:
      raise folder.unsaved(self.directory, error) from error

  def restore(self, state: TrainState) -> Restored | None:
    """The newest checkpoint that is whole, or None if there is none at all.

    Damaged ones that are newer are named, and moved aside once an older one
    proves whole: as `<step>.damaged`.

    Args:
      state: what a fresh run starts from: shapes, shardings, the frozen part.
        Its layers may be stacked where the checkpoint's are not, or the other
        way round.

    Raises:
      ValueError: the checkpoint is of another architecture or config, or was
        trained beside other frozen parts.
      OSError: all are damaged.
    """
    self._manager.wait_until_finished()
    damaged = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        meta = _read_meta(self._manager, step)
      except Exception as error:
        damaged[step] = error
        continue
      # Compared before anything else is read, and of no use to be passed over:
      # an older checkpoint would differ as well.
      provenance.check_fingerprints(
          meta['fingerprints'], self.meta['fingerprints'])
      provenance.check_config(
          meta['config'], self.meta['config'], self._may_change,
          self.directory)
      shapes = provenance.tree_of(meta['shapes'])
      provenance.check_shapes(
          like(state.trainable, shapes), shapes, self.directory)
      try:
        restored = self._read(step, state, meta)
      except Exception as error:
        damaged[step] = error
        continue
      self._pass_over(damaged, step)
      return restored
    if damaged:
      raise OSError(
          f'No checkpoint in {self.directory} is whole:\n'
          + '\n'.join(folder.damage(step, damaged[step]) for step in damaged)
          + '\nMove them away to begin anew, or bring back a copy.')
    return None

  def close(self) -> None:
    """Waits for saving to end, and lets go of the folder.

    Raises:
      OSError: what was being saved could not be written.
    """
    try:
      self._manager.close()
    except Exception as error:
      raise folder.unsaved(self.directory, error) from error
    finally:
      if self._held is not None:
        self._held.close()

  def _read(
      self, step: int, state: TrainState, meta: Mapping[str, Any]
  ) -> Restored:
    here = state.step.sharding
    wanted = _abstract(_saved(state), here)
    with_ema = meta.get('ema', False)
    if with_ema:
      wanted.setdefault('ema', wanted['trainable'])
    else:
      wanted.pop('ema', None)
    stored = like(wanted, provenance.tree_of(meta['shapes']))
    args = {
        'state': ocp.args.StandardRestore(stored),
        'data': ocp.args.JsonRestore()}
    verified = 'digests' in meta  # of checkpoints that had none, nothing is
    if verified:
      leaves = jax.ShapeDtypeStruct(
          (len(jax.tree.leaves(stored)),), np.uint32, sharding=here)
      args |= {
          'digests': ocp.args.StandardRestore({'leaves': leaves}),
          'progress': ocp.args.JsonRestore()}
    found = self._manager.restore(step, args=ocp.args.Composite(**args))
    if verified:
      changed = [
          name for name in ('data', 'progress')
          if digest.of_json(found[name]) != meta['digests'][name]]
      changed += digest.changed(found['state'], found['digests']['leaves'])
      if changed:
        more = f' and {len(changed) - 3} more' if len(changed) > 3 else ''
        raise OSError(
            f'{", ".join(changed[:3])}{more}: not what was saved, by the '
            'digests saved beside')
    state = state.replace(**like(found['state'], wanted))
    if state.ema is not None and not with_ema:
      print(f'Checkpoint {step} holds no average: it begins here.', flush=True)
      state = state.replace(ema=jax.tree.map(jnp.copy, state.trainable))
    return Restored(
        state=state, data=found['data'],
        progress=found['progress'] if verified else {})

  def _pass_over(self, damaged: Mapping[int, Exception], whole: int) -> None:
    for step, error in damaged.items():
      print(f'{folder.damage(step, error)}\nGoing on from checkpoint {whole}, '
            'the newest that is whole.', flush=True)
      if self._held is not None:
        folder.move_aside(self.directory, step)
    if damaged and not self._read_only:
      if jax.process_count() > 1:
        multihost_utils.sync_global_devices('damaged checkpoints are aside')
      self._manager.reload()


def read_meta(directory: str | os.PathLike[str]) -> dict[str, Any]:
  """Config and fingerprints of a folder's newest checkpoint that is readable.

  Raises:
    FileNotFoundError: there is no checkpoint.
    OSError: none can be read.
  """
  directory = pathlib.Path(directory).absolute()
  missing = FileNotFoundError(
      f'{directory} holds no checkpoint. Expected a workdir that '
      '`python -m experiments.train --workdir=...` has written.')
  if not directory.is_dir():
    raise missing
  with _manager(directory, None, read_only=True) as manager:
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
      raise missing
    for step in steps:
      try:
        return _read_meta(manager, step)
      except Exception as error:
        print(folder.damage(step, error), flush=True)
  raise OSError(f'No checkpoint in {directory} can be read.')


def read_arrays(
    directory: str | os.PathLike[str]
) -> tuple[int, dict[str, np.ndarray]]:
  """Step of a folder's newest checkpoint, and all its arrays by path.

  Read as they lie on the disk, on as many devices as they were saved from, and
  not verified: to compare two runs.
  """
  with _manager(
      pathlib.Path(directory).absolute(), None, read_only=True) as manager:
    step = manager.latest_step()
    tree = manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
  return step, {
      jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree['state'])}


def _manager(
    directory: pathlib.Path, keep: int | None, read_only: bool
) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
      directory,
      options=ocp.CheckpointManagerOptions(
          max_to_keep=keep, read_only=read_only, create=not read_only,
          # What a killed run was writing is of no use to anyone.
          cleanup_tmp_directories=not read_only,
          # A damaged one must not keep the others from being found.
          lightweight_initialize=True),
      item_names=('state', 'digests', 'data', 'progress', 'meta'))


def _read_meta(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
  meta = manager.restore(
      step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']
  missing = {'config', 'fingerprints', 'shapes'} - meta.keys()
  if (manager.directory / str(step) / 'digests').exists():  # none of old ones
    missing |= {'digests'} - meta.keys()
  if missing:
    raise OSError(f'meta: {", ".join(sorted(missing))} is missing')
  if 'digests' in meta:
    bare = {name: value for name, value in meta.items() if name != 'digests'}
    if digest.of_json(bare) != meta['digests']['meta']:
      raise OSError('meta: not what was saved, by the digest saved beside')
  return meta


def _saved(state: TrainState) -> dict[str, Any]:
  saved = {
      'step': state.step, 'trainable': state.trainable,
      'opt_state': state.opt_state}
  if state.ema is not None:
    saved['ema'] = state.ema
  return saved


def _abstract(tree, fallback: jax.sharding.Sharding):
  """Shapes, and where each array is to lie: on devices that are here."""
  def leaf(x):
    sharding = getattr(x, 'sharding', None)
    return jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=fallback if sharding is None else sharding)
  return jax.tree.map(leaf, tree)
