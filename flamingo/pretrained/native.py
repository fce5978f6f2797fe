"""Our own layout: a directory that says everything about a model.

  config.json         how every module was built, the names of the new tokens,
                      and what there is to know of the vision encoder
  model.safetensors   parameters by their paths, 'lm/embed/embedding' for one;
                      in several files if they are large
  tokenizer.json      of the language model, with tokenizer_config.json
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax

from flamingo import params as params_lib
from flamingo.data.tags import Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo
from flamingo.model.induction import InductionPath
from flamingo.model.lm import LM
from flamingo.model.positions import RopeScaling
from flamingo.model.products import Dtype
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.stack import groups_in, unstack
from flamingo.model.vision.efficientnet import EfficientNetLite
from flamingo.model.vision.grid import PooledGrid
from flamingo.model.vision.nfnet import NFNet
from flamingo.model.vision.vit import ViT
from flamingo.model.whitening import Whitening
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import formats
from flamingo.pretrained.flamingo import parameter_shapes, Part, Published
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.layouts import Rule, write_params
from flamingo.pretrained.tokenizer import load_tokenizer
from flamingo.pretrained.vision import VisionInfo
from flamingo.types import Params

KIND = 'flamingo-jax'  # model_type of its config.json
VERSION = 1

# What a model may be made of.
_CLASSES = {
    cls.__name__: cls for cls in (
        Flamingo, LM, RopeScaling, PerceiverResampler, GatedCrossAttention,
        Whitening, InductionPath, ViT, NFNet, EfficientNetLite, PooledGrid)}


def save(
    path: str | os.PathLike,
    model: Flamingo,
    params: Params,
    tokenizer: Tokenizer,
    vision: VisionInfo,
) -> None:
  """Writes a Flamingo into a directory, for `load` to read.

  Args:
    path: the directory, made if it is not there.
    model: what it is.
    params: its parameters, in the types they are to have in the file; stacked
      ones are written as unrolled ones.
    tokenizer: of its language model, with its new tokens.
    vision: what there is to know of its vision encoder.
  """
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  if groups_in(params):
    params = unstack(jax.device_get(params))  # slices that copy nothing
  formats.write_safetensors(path, write_params(params, [
      _as_it_is('/'.join(leaf), array.ndim)
      for leaf, array in params_lib.flatten(params)]))
  tokenizer.save(path)
  (path / 'config.json').write_text(json.dumps({
      'model_type': KIND,
      'version': VERSION,
      'model': describe(model),
      'tags': dataclasses.asdict(tokenizer.tags),
      'vision': dataclasses.asdict(vision),
  }, indent=2))


def find(
    path: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Stored],
    *,
    dtype: Dtype,
) -> Published:
  """Understands a directory; see `flamingo.pretrained.load.load`.

  Args:
    path: the directory.
    config: its config.json.
    tensors: its weights.
    dtype: type of matrix operands.

  Raises:
    ValueError: it was written by a later version.
  """
  if config.get('version') != VERSION:
    raise ValueError(
        f'{path} is of version {config.get("version")!r}, and this is a reader '
        f'of {VERSION}. Install the version that wrote it.')
  model = build(config['model'], dtype)
  tags = {
      name: tuple(value) if isinstance(value, list) else value
      for name, value in config['tags'].items()}
  tokenizer = load_tokenizer(
      path, Tags(**tags), vocab_size=model.lm.vocab_size)
  info = VisionInfo(**config['vision'])
  part = Part(
      what=f'Flamingo in {path}', tensors=tensors,
      rules=[_as_it_is(name, len(x.shape)) for name, x in tensors.items()])
  return Published(
      model=model, parts=(part,), tokenizer=tokenizer, vision=info,
      shapes=parameter_shapes(
          model, info, embed='vision/post_norm/scale' in tensors))


def _as_it_is(name: str, axes: int) -> Rule:
  letters = ' '.join('abcdefgh'[:axes])
  return Rule.of(name, name, f'{letters} -> {letters}')


def describe(value: Any) -> Any:
  """A module, or what it was built with, as JSON has it.

  What is chosen when loading is left out: the type of matrix operands, and how
  layers are run.
  """
  if isinstance(value, tuple | list):
    return [describe(item) for item in value]
  if type(value).__name__ not in _CLASSES:
    return value
  fields = {
      field.name: describe(getattr(value, field.name))
      for field in dataclasses.fields(value)
      if field.name not in (
          'parent', 'name', 'dtype', 'scan', 'remat', 'activations')}
  return {'class': type(value).__name__, **fields}


def build(value: Any, dtype: Dtype) -> Any:
  """The inverse of `describe`.

  Raises:
    ValueError: it has a class that no model is made of.
  """
  if isinstance(value, list):
    return tuple(build(item, dtype) for item in value)
  if not isinstance(value, dict):
    return value
  fields = {name: build(item, dtype) for name, item in value.items()}
  name = fields.pop('class', None)
  if name not in _CLASSES:
    raise ValueError(
        f'config.json builds a {name!r}; a model is made of '
        f'{sorted(_CLASSES)}. Load it with the version that wrote it.')
  cls = _CLASSES[name]
  if any(field.name == 'dtype' for field in dataclasses.fields(cls)):
    fields['dtype'] = dtype
  return cls(**fields)


def check_expressed(model: Flamingo, came_back: Flamingo, what: str) -> None:
  """Checks that a layout expresses all of a model.

  Args:
    model: what is to be written.
    came_back: what a reader would make of it.
    what: the layout, for the message.

  Raises:
    ValueError: they differ, say in an activation. It names the attributes.
  """
  differences = list(_differences(
      *(_computes(describe(x)) for x in (came_back, model))))
  if differences:
    raise ValueError(
        f'{what} cannot express this model: {"; ".join(differences[:6])}. '
        'Write it in our own layout, with `save`.')


def _computes(value: Any) -> Any:
  """A description without what only tells how parameters are initialised."""
  if isinstance(value, list):
    return [_computes(item) for item in value]
  if not isinstance(value, dict):
    return value
  value = {
      name: _computes(item) for name, item in value.items()
      if name not in ('gate_init', 'ff_gate_init', 'new_token_scale')}
  if value['class'] == 'PerceiverResampler' and value['ff_hidden'] is None:
    value['ff_hidden'] = 4 * value['width']
  return value


def _differences(there: Any, here: Any, path: str = 'model') -> Iterator[str]:
  if isinstance(there, dict) and isinstance(here, dict):
    for name in sorted(there.keys() | here.keys()):
      yield from _differences(
          there.get(name), here.get(name), f'{path}.{name}')
  elif isinstance(there, list) and isinstance(here, list) and (
      len(there) == len(here)):
    for i, (one, other) in enumerate(zip(there, here)):
      yield from _differences(one, other, f'{path}[{i}]')
  elif there != here:
    yield f'it has {path} = {there!r}, the model {here!r}'
