"""Weights in whatever file, or directory of files, they come."""

from collections.abc import Mapping
import os
import pathlib

from flamingo.pretrained.formats import gguf
from flamingo.pretrained.formats import shards
from flamingo.pretrained.formats import torch_archive
from flamingo.pretrained.formats.safetensors import open_safetensors
from flamingo.pretrained.formats.stored import Stored

# What a directory is looked through for: the first that is there counts.
_NAMES = (
    'model.safetensors',
    f'model.safetensors{shards.INDEX}',
    'pytorch_model.bin',
    f'pytorch_model.bin{shards.INDEX}',
    'checkpoint.pt',
)
_SUFFIXES = ('.safetensors', '.bin', '.pt', '.pth', '.ckpt')

_GIT_LFS = b'version https://git-lfs'
_PICKLE = b'\x80'


def open_weights(path: str | os.PathLike) -> dict[str, Stored]:
  """Reads which tensors a model's weights have, and none of them yet.

  Args:
    path: a safetensors file, a file of `torch.save` or `torch.jit.save` by any
      name, an index of several of these, or a directory. In a directory these
      names are looked for, in this order: `model.safetensors`, its
      `.index.json`, `pytorch_model.bin`, its `.index.json`, `checkpoint.pt`,
      and then the only file with a suffix of weights.

  Returns:
    The tensors by name. Of what a trainer saved, those of the model; and
    without the `module.` in front that `DistributedDataParallel` puts there.

  Raises:
    FileNotFoundError: if there are no weights, or a file of several is missing.
    pickle.UnpicklingError: if a file of torch could run code.
    ValueError: if a file is cut short, damaged, or of another format, or there
      is no telling which of several to take.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(
        f'There is no {path}. Give a file of weights or a directory with one.')
  file = _find(path) if path.is_dir() else path
  if file.name.endswith(shards.INDEX):
    return _without_module(shards.open_shards(file, _open_file))
  return _without_module(_open_file(file))


def _find(directory: pathlib.Path) -> pathlib.Path:
  """The file of weights in a directory, or its index."""
  for name in _NAMES:
    if (directory / name).exists():
      return directory / name
  found = sorted(
      file for file in directory.iterdir() if file.suffix in _SUFFIXES)
  if len(found) == 1:
    return found[0]
  if found:
    raise ValueError(
        f'{directory}: expected one file of weights, came {len(found)}: '
        f'{", ".join(file.name for file in found[:6])}. Give the path of the '
        'one to read.')
  raise FileNotFoundError(
      f'{directory}: expected one of {", ".join(_NAMES)} or a file that ends '
      f'in {", ".join(_SUFFIXES)}; came '
      f'{sorted(file.name for file in directory.iterdir())[:6]}.')


def _open_file(path: pathlib.Path) -> dict[str, Stored]:
  """Opens one file by what is in it: names do not tell .bin from .bin."""
  with open(path, 'rb') as file:
    start = file.read(max(len(_GIT_LFS), 9))
  if start.startswith(_GIT_LFS):
    raise ValueError(
        f'{path} is a pointer of Git LFS and not the weights. Fetch them with '
        '`git lfs pull`.')
  if start.startswith(gguf.MAGIC):
    raise ValueError(
        f'{path} is a GGUF file, whose tensors have other names. Load it as a '
        'language model.')
  # Of a header in safetensors, byte 8 is the brace that opens it.
  if path.suffix == '.safetensors' or start[8:9] == b'{' and not (
      start.startswith(_PICKLE)):
    return open_safetensors(path)
  return torch_archive.open_torch_archive(path)


def _without_module(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
  if not all(name.startswith('module.') for name in tensors):
    return dict(tensors)
  return {
      name.removeprefix('module.'): tensor for name, tensor in tensors.items()}
