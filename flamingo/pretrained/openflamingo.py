"""OpenFlamingo: the files it comes in, and the architecture they are of.

The released `checkpoint.pt` holds what was trained, and the embedding: the
language model and CLIP are files of their own. Awadalla et al., 2023,
arXiv:2308.01390, and the package open-flamingo.
"""

from collections.abc import Mapping
import os
import pathlib
import re

import numpy as np

from flamingo import params as params_lib
from flamingo.data.tags import OPENFLAMINGO, OPENFLAMINGO_UNPADDED
from flamingo.model.flamingo import Flamingo
from flamingo.model.lm import LM
from flamingo.model.products import Dtype
from flamingo.model.vision.vit import ViT
from flamingo.pretrained import formats
from flamingo.pretrained import layouts
from flamingo.pretrained import vit_config
from flamingo.pretrained.families import Family
from flamingo.pretrained.flamingo import parameter_shapes, Part, Published
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.rules import Rule
from flamingo.pretrained.lm import family_of, lm_config, read_config_json
from flamingo.pretrained.native import check_expressed
from flamingo.pretrained.openflamingo_model import block_names, build
from flamingo.pretrained.openflamingo_rules import IGNORED, PREFIX, rules
from flamingo.pretrained.placement import check_blocks
from flamingo.pretrained.rows import cut_rows
from flamingo.pretrained.tokenizer import check_fits, load_tokenizer
from flamingo.pretrained.tower import open_tower, Tower, tower_in, tower_info
from flamingo.pretrained.vision import VisionInfo
from flamingo.types import Params

VISION = 'vision_encoder.'


def find(
    path: pathlib.Path,
    tensors: Mapping[str, Stored],
    *,
    lm: str | os.PathLike | None,
    vision: str | os.PathLike | None,
    dtype: Dtype,
) -> Published:
  """Understands a checkpoint; see `flamingo.pretrained.load.load`.

  Args:
    path: of the checkpoint, for messages.
    tensors: of the checkpoint: what was trained, or the whole model.
    lm: directory of the language model. Of a whole model its config and its
      tokenizer are taken.
    vision: directory or file of the CLIP. Of a whole model its config is taken;
      with None, its sizes from the tensors, as open_clip's are.
    dtype: type of matrix operands.

  Raises:
    ValueError: parts are missing, or do not belong together.
  """
  if lm is None:
    raise ValueError(
        f'{path} does not say which language model it was trained with. Pass '
        'lm=DIRECTORY: mpt-1b-redpajama-200b for OpenFlamingo-3B, '
        'RedPajama-INCITE-Base-3B-v1 for 4B, mpt-7b for 9B.')
  config_json = read_config_json(lm)
  family, config = family_of(config_json), lm_config(config_json)
  blocks, places = block_names(tensors)
  rows = tensors[_embedding(family, blocks, tensors, path, lm)].shape[0]
  tokenizer = load_tokenizer(lm, OPENFLAMINGO)
  if rows == tokenizer.vocab_size + 2:
    tokenizer = tokenizer.tagged(OPENFLAMINGO_UNPADDED)
  new = len(tokenizer.new_tokens)
  check_fits(tokenizer, rows - new, new, what=f'The embedding in {path}')
  config = dict(config, vocab_size=tokenizer.vocab_size, dtype=dtype)
  model = build(tensors, LM(**config), new)
  check_blocks(model, tensors, blocks, places, what=str(path), lm=str(lm))

  layout = rules(model, family, blocks)
  unused = family.unused(config, prefix=PREFIX)
  ours = [rule for rule in layout if rule.theirs in tensors or not (
      rule.ours[0].startswith('lm/'))]
  whole = any(rule.ours[0].startswith('lm/layer_') for rule in ours)
  parts, absent = [], {}
  if whole:
    ours = layout
  else:
    parts.append(_language_model(lm, family, config, ours))
    absent['new_unembedding'] = (
        'the checkpoint has no output rows of the new tokens: they were not '
        'trained')
  tower, info = _vision_encoder(tensors, path, vision, dtype)
  rest = tower.part
  if rest.tensors is tensors:
    ours, unused = [*ours, *rest.rules], unused | rest.ignored
  else:
    parts.append(rest)
  checkpoint = Part(
      what=f'OpenFlamingo checkpoint {path.name}', tensors=tensors, rules=ours,
      ignored=IGNORED | unused)
  model = model.clone(vision=tower.module)
  return Published(
      model=model, parts=(checkpoint, *parts), tokenizer=tokenizer, vision=info,
      shapes=parameter_shapes(model, info, embed=tower.embed), absent=absent)


def _vision_encoder(
    tensors: Mapping[str, Stored],
    path: pathlib.Path,
    vision: str | os.PathLike | None,
    dtype: Dtype,
) -> tuple[Tower, VisionInfo]:
  """The CLIP, in the checkpoint if it is there, else in `vision`."""
  inside = any(name.startswith(VISION) for name in tensors)
  if vision is not None:
    tower, info = open_tower(
        vision, features='patches', dtype=dtype, activation='quick_gelu')
    if not inside:
      return tower, info
    module = tower.module
  elif inside:
    sizes = vit_config.vit_config_from_shapes(
        tensors, activation='quick_gelu', prefix=VISION)
    module = ViT(**sizes, features='patches', dtype=dtype)
    info = tower_info(module, name=path.name, fit='crop')
  else:
    raise ValueError(
        f'{path} holds no vision encoder. Pass vision=PATH of the CLIP it was '
        'trained with: ViT-L/14 of OpenAI for all that were released.')
  projection = tensors.get(f'{VISION}proj')
  module = module.clone(
      embed_width=None if projection is None else projection.shape[1])
  return tower_in(
      module, tensors, 'open_clip', what=str(path), prefix=VISION), info


def _embedding(
    family: Family, blocks: str, tensors: Mapping[str, Stored],
    path: pathlib.Path, lm: str | os.PathLike
) -> str:
  """Name of the embedding, if the checkpoint is of this family of LMs."""
  layer = PREFIX + family.trunks[0] + family.layer
  name = f'{PREFIX}{family.trunks[0]}{next(iter(family.top))}'
  listed = f'{PREFIX}gated_cross_attn_layers.{{}}'
  if name not in tensors or blocks not in (
      listed, f'{layer}.gated_cross_attn_layer'):
    raise ValueError(
        f'{path} was trained with a language model of another family than '
        f'the one in {lm}: expected the embedding {name} and gated blocks in '
        f'{layer}; came blocks in {blocks}. Pass lm=DIRECTORY of the one it '
        'was trained with.')
  return name


def _language_model(
    lm: str | os.PathLike, family: Family, config: Mapping[str, object],
    others: list[Rule]
) -> Part:
  """What the language model's own directory has and the checkpoint has not."""
  tensors = formats.open_weights(lm)
  layout = family.rules(config, trunk=family.find_trunk(tensors), ours='lm/')
  have = {path for rule in others for path in rule.ours}
  there = [rule for rule in layout if rule.ours[0] in have]
  return Part(
      what=f'language model in {lm}',
      tensors=cut_rows(tensors, layout, config['vocab_size']),
      rules=[rule for rule in layout if rule not in there],
      ignored=family.unused(config) | {
          re.escape(rule.theirs): 'the checkpoint has it, with the new rows'
          for rule in there})


def save(
    path: str | os.PathLike, model: Flamingo, params: Params, family: Family
) -> None:
  """Writes what OpenFlamingo releases: what is trained, and the embedding.

  The file has a `checkpoint.pt`'s names and shapes. To have it in the original:

    checkpoint = safetensors.torch.load_file(path)
    model.load_state_dict(checkpoint, strict=False)

  Args:
    path: a file whose name ends in `.safetensors`.
    model: a Flamingo of OpenFlamingo's architecture.
    params: its parameters, in the types they are to have in the file.
    family: of its language model, one of `families.FAMILIES`.

  Raises:
    ValueError: the model is of another architecture. It names what differs.
  """
  leaves = dict(params_lib.flatten(params))
  layout = released_rules(model, family)
  # Version 1 did not save its output rows, which `load` makes zero.
  if not model.lm.tied and not np.any(np.asarray(leaves['new_unembedding',])):
    layout = [
        rule for rule in layout if rule.ours[-1] != 'new_unembedding']
  shapes = {
      rule.theirs: Stored(
          rule.their_shape([leaves[p].shape for p in rule.paths]),
          np.dtype(np.float32), lambda: None, str(path)) for rule in layout}
  check_expressed(
      model.clone(vision=None), build(shapes, model.lm, model.new_tokens),
      'OpenFlamingo')
  covered = {p for rule in layout for p in rule.paths}
  formats.write_safetensors(path, layouts.write_params(
      params_lib.split(params, covered.__contains__)[0], layout))


def released_rules(model: Flamingo, family: Family) -> list[Rule]:
  """Rules for what a released file has: see `save`."""
  # Of the language model it keeps rows of tokens, and of positions.
  return [
      rule for rule in rules(model, family)
      if not rule.ours[0].startswith('lm/')
      or rule.ours[-1].startswith('new_') or 'embed' in rule.theirs]
