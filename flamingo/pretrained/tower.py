"""A CLIP inside a Flamingo: in its own file, or in the one of the whole."""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
from typing import NamedTuple

from flamingo.model.products import Dtype
from flamingo.model.vision.vit import ViT
from flamingo.pretrained import formats
from flamingo.pretrained import vit
from flamingo.pretrained import vit_config
from flamingo.pretrained.flamingo import Part
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.vision import REST, VisionInfo


class Tower(NamedTuple):
  """A vision tower that was found and not yet read.

  Attributes:
    module: the encoder.
    part: its tensors.
    embed: whether those are among them that only `ViT.embed` needs.
  """

  module: ViT
  part: Part
  embed: bool


def tower_info(tower: ViT, *, name: str, fit: str) -> VisionInfo:
  """What there is to know of a vision tower before its weights are read."""
  return VisionInfo(
      name=name, image_size=tower.image_size, features=tower.tokens,
      width=tower.width, fit=fit, fingerprint='')


def tower_in(
    module: ViT,
    tensors: Mapping[str, Stored],
    style: str = 'hf',
    *,
    what: str,
    prefix: str | None = None,
) -> Tower:
  """A vision tower and the rules for its tensors in a file.

  What only `embed` needs is read where the file has it. Of a vision tower alone
  it has no projection, and of that module `embed` returns what CLIP projects.

  Args:
    module: the tower, whose `embed_width` is what the file may have.
    tensors: of the file.
    style: see `vit.vision_rules`.
    what: a noun for messages.
    prefix: see `vit.vision_rules`.
  """
  settings = dict(style=style, prefix=prefix)
  embed = vit.has_embedding(module, tensors, **settings)
  if not embed:
    module = module.clone(embed_width=None)
    embed = vit.has_embedding(module, tensors, **settings)
  return Tower(module, Part(
      what=what, tensors=tensors,
      rules=vit.vision_rules(module, embed=embed, **settings),
      ignored=vit.vision_ignored(module, embed=embed, **settings)), embed)


def open_tower(
    path: str | os.PathLike,
    *,
    features: str,
    dtype: Dtype,
    activation: str | None = None,
) -> tuple[Tower, VisionInfo]:
  """Finds the vision tower of a CLIP that is a file or directory of its own.

  Args:
    path: see `load_vision`.
    features: see `ViT`.
    dtype: type of matrix operands.
    activation: of weights without a config, such as those of OpenAI.

  Returns:
    The encoder with its tensors, and what there is to know of it.
  """
  path = pathlib.Path(path)
  tensors = formats.open_weights(vit_config.find_weights(path))
  folder = path if path.is_dir() else path.parent
  told = (folder / 'open_clip_config.json', folder / 'config.json')
  found = vit_config.find_config(
      folder, tensors,
      activation=None if any(file.exists() for file in told) else activation)
  tower = tower_in(
      ViT(**found.arguments, features=features, dtype=dtype), tensors,
      found.style, what=f'vision encoder in {path}')
  part = dataclasses.replace(
      tower.part, ignored=REST | tower.part.ignored)
  return tower._replace(part=part), tower_info(
      tower.module, name=path.name, fit=found.fit)
