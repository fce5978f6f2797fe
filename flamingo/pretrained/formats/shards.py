"""Weights in several files, and the index that says which tensor is where."""

from collections.abc import Callable, Iterable, Iterator
import json
import os
import pathlib

import numpy as np

from flamingo.pretrained.formats import safetensors
from flamingo.pretrained.formats.stored import Stored

INDEX = '.index.json'


def open_shards(
    index: str | os.PathLike,
    open_file: Callable[[pathlib.Path], dict[str, Stored]],
) -> dict[str, Stored]:
  """Reads which tensors the files of an index have, and none of them yet.

  Tensors that the index does not mention are there as well: it is for the
  reader of a model to say that they have no use.

  Args:
    index: a file in Hugging Face's layout: JSON whose `weight_map` has a file
      beside it for each tensor.
    open_file: opens one of these files.

  Raises:
    FileNotFoundError: if the index names a file that is not there.
    ValueError: if the index is damaged, names a file elsewhere, or a tensor
      that its file lacks.
  """
  index = pathlib.Path(index)
  places = _read_index(index)
  files = sorted(set(places.values()))
  for file in files:
    # A path could lead out of the directory. Links may: the user's own tools
    # put them there.
    if file in ('', '.', '..') or any(c in file for c in '/\\:\0'):
      raise ValueError(
          f'{index}: expected names of files beside the index, came {file!r}. '
          'Do not trust this checkpoint.')
  absent = [file for file in files if not (index.parent / file).is_file()]
  if absent:
    raise FileNotFoundError(
        f'{index} names {len(files)} files, and {len(absent)} of them are not '
        f'there: {", ".join(absent[:6])}. Fetch them too.')
  tensors = {}
  for file in files:
    for name, tensor in open_file(index.parent / file).items():
      if places.get(name, file) != file:
        continue
      if name in tensors:
        raise ValueError(
            f'{index} does not say which of two files tensor {name!r} is from: '
            f'{tensors[name].file} or {file}. Write the checkpoint anew.')
      tensors[name] = tensor
  lacking = sorted(places.keys() - tensors.keys())
  if lacking:
    raise ValueError(
        f'{index} names {len(lacking)} tensors that their files lack: '
        f'{lacking[0]!r} is not in {places[lacking[0]]}. Fetch the index and '
        'its files from the same place.')
  return tensors


def _read_index(index: pathlib.Path) -> dict[str, str]:
  """File of each tensor."""
  try:
    places = json.loads(index.read_text('utf-8'))['weight_map']
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    raise ValueError(
        f'{index}: expected JSON with a weight_map ({error!r}). Fetch it '
        'again.') from None
  if not (isinstance(places, dict)
          and all(isinstance(file, str) for file in places.values())):
    raise ValueError(
        f'{index}: expected a file for each tensor in its weight_map, came '
        f'{places!r:.200}.')
  return places


def write_safetensors(
    path: str | os.PathLike,
    tensors: Iterable[tuple[str, np.ndarray | Stored]],
    *,
    max_shard_bytes: float = 5e9,
    metadata: dict[str, str] | None = None,
) -> None:
  """Writes tensors to a safetensors file, or to shards in a directory.

  Of arrays that a generator makes, no more are held than one file takes; of
  what is `Stored`, no more than one tensor. Each file gets its name when it is
  whole.

  Args:
    path: a file if its name ends in `.safetensors`, and all goes there. Else a
      directory, made if need be: `model.safetensors`, or if that is too large,
      `model-00001-of-00002.safetensors` and so on, with
      `model.safetensors.index.json`. Hugging Face's layout.
    tensors: pairs of a name and a tensor.
    max_shard_bytes: of the tensors in one file of a directory. A tensor that is
      larger has a file of its own.
    metadata: words for the header of each file, such as `{'format': 'pt'}`,
      which marks the layouts of torch.

  Raises:
    FileExistsError: if the directory has weights, which would be mixed up.
    ValueError: if a tensor comes twice, or has no place in the format.
  """
  path = pathlib.Path(path)
  if path.suffix == '.safetensors':
    (shard,) = _shards(tensors, float('inf'))
    safetensors.write_file(path, shard, metadata)
    return
  path.mkdir(parents=True, exist_ok=True)
  there = sorted(file.name for file in path.glob('*.safetensors*'))
  if there:
    raise FileExistsError(
        f'{path} has weights already: {", ".join(there[:6])}. Remove them or '
        'write elsewhere.')
  places, written, total = {}, [], 0
  try:
    for shard in _shards(tensors, max_shard_bytes):
      # How many there will be is not known yet.
      written.append(path / f'model-{len(written) + 1:05d}.unfinished')
      places |= dict.fromkeys(shard, len(written) - 1)
      total += sum(tensor.nbytes for tensor in shard.values())
      safetensors.write_file(written[-1], shard, metadata)
      del shard  # else it would be held while the next one is gathered
    names = ['model.safetensors'] if len(written) == 1 else [
        f'model-{i + 1:05d}-of-{len(written):05d}.safetensors'
        for i in range(len(written))]
    for file, name in zip(written, names):
      file.rename(path / name)
  finally:
    for file in written:
      file.unlink(missing_ok=True)
  if len(names) > 1:
    index = dict(
        metadata=dict(total_size=total),
        weight_map={name: names[i] for name, i in sorted(places.items())})
    (path / f'model.safetensors{INDEX}').write_text(
        json.dumps(index, indent=2) + '\n', 'utf-8')


def _shards(
    tensors: Iterable[tuple[str, np.ndarray | Stored]], most: float
) -> Iterator[dict[str, np.ndarray | Stored]]:
  """Runs of tensors that fit in a file; one run at least, be it empty."""
  shard, size, names = {}, 0, set()
  for name, tensor in tensors:
    if name in names:
      raise ValueError(f'Tensor {name!r} comes twice. Give it one name each.')
    names.add(name)
    if shard and size + tensor.nbytes > most:
      yield shard
      shard, size = {}, 0
    shard[name] = tensor
    size += tensor.nbytes
  yield shard
