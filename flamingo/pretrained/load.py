"""`flamingo.load`: a published Flamingo, ready to be applied."""

from collections.abc import Iterable
import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import tqdm

from flamingo import sharding
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo
from flamingo.model.products import Dtype
from flamingo.pretrained import flamingo_mini
from flamingo.pretrained import formats
from flamingo.pretrained import idefics
from flamingo.pretrained import native
from flamingo.pretrained import openflamingo
from flamingo.pretrained import otter
from flamingo.pretrained.flamingo import Published
from flamingo.pretrained.layouts import Report
from flamingo.pretrained.lm import read_config_json
from flamingo.pretrained.vision import VisionInfo
from flamingo.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
  """A Flamingo from a file.

  Attributes:
    model: from pixels and tokens to logits.
    params: its parameters, `model.apply({'params': params}, ...)`.
    tokenizer: of its language model, with its new tokens behind.
    vision: how its pictures are prepared: see `images.Preprocess`.
    report: what was read, what was left and why, what was lacking and why.
  """

  model: Flamingo
  params: Params
  tokenizer: Tokenizer
  vision: VisionInfo
  report: Report


def load(
    path: str | os.PathLike,
    *,
    lm: str | os.PathLike | None = None,
    vision: str | os.PathLike | None = None,
    dtype: Dtype | None = jnp.float32,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> Loaded:
  """Loads a Flamingo, whatever layout it was published in.

  OpenFlamingo (a file, or what its trainer saved), Otter, IDEFICS,
  flamingo-mini, and what `save` wrote. The architecture is that of the files.
  Each tensor is cast and placed as soon as it is read, so that the memory of
  the host holds one at a time beside what has been placed there.

  Args:
    path: a file of weights, or a directory with a config.json.
    lm: directory of the language model, where `path` does not have it
      (OpenFlamingo) or not its config (flamingo-mini); or of the tokenizer
      alone, where that is all it lacks.
    vision: directory or file of the CLIP, where `path` does not have it.
    dtype: type of parameters and of matrix operands. None keeps parameters in
      the types that the files have, and multiplies in float32.
    mesh: devices that share each parameter along its largest axis; None for
      one device.
    progress: whether to show how far it is.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, or parts do not belong together. The message
      names the first tensor that does not fit, and what to do.
  """
  published = find(
      pathlib.Path(path), lm=lm, vision=vision,
      dtype=jnp.float32 if dtype is None else dtype)

  def place(path, leaf):
    del path
    leaf = np.asarray(leaf, dtype, order='C')
    where = None
    if mesh is not None:
      where = sharding.over_largest_axis(leaf.shape, mesh)
    return jax.device_put(leaf, where)

  def bar(rules: Iterable, what: str) -> Iterable:
    return tqdm.tqdm(rules, desc=what, unit='tensor', disable=not progress)

  params, info, report = published.read(place, bar)
  return Loaded(
      model=published.model, params=params, tokenizer=published.tokenizer,
      vision=info, report=report)


def find(
    path: pathlib.Path,
    *,
    lm: str | os.PathLike | None = None,
    vision: str | os.PathLike | None = None,
    dtype: Dtype = jnp.float32,
) -> Published:
  """Finds out what a file or directory is, and reads nothing of its weights.

  Args and Raises: as for `load`.
  """
  config = {}
  if path.is_dir() and (path / 'config.json').exists():
    config = read_config_json(path)
  tensors = formats.open_weights(path)
  kind = config.get('model_type')
  if kind == native.KIND:
    return native.find(path, config, tensors, dtype=dtype)
  if kind == 'idefics':
    return idefics.find(path, config, tensors, lm=lm, dtype=dtype)
  if kind in otter.TAGS and 'text_config' in config:
    return otter.find(path, config, tensors, lm=lm, dtype=dtype)
  if 'clip_model_type' in config:
    return flamingo_mini.find(
        path, config, tensors, lm=lm, vision=vision, dtype=dtype)
  if not config:
    return openflamingo.find(path, tensors, lm=lm, vision=vision, dtype=dtype)
  raise ValueError(
      f'{path} has a config.json with model_type = {kind!r}; expected '
      f'{native.KIND}, idefics, {" or ".join(otter.TAGS)} with a text_config, '
      'or flamingo-mini with a clip_model_type. Give the directory of a '
      'Flamingo, or the file of an OpenFlamingo.')
