"""flamingo-mini: GPT-2 or OPT, with a CLIP, in one directory.

The package flamingo-mini of D. Mair. Its config.json has all sizes of the new
layers, and of the language model and the CLIP only the names.
"""

from collections.abc import Mapping
import os
import pathlib
import re
from typing import Any

from flamingo.data.tags import FLAMINGO_MINI
from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.products import Dtype
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.vision.vit import VARIANTS, ViT
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained.families import Family
from flamingo.pretrained.flamingo import (
    arguments, parameter_shapes, Part, Published, renamed)
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.rules import Rule
from flamingo.pretrained.lm import family_of, lm_config, read_config_json
from flamingo.pretrained.openflamingo_rules import block_rules, resampler_rules
from flamingo.pretrained.placement import check_blocks
from flamingo.pretrained.rows import new_rows, with_new_rows
from flamingo.pretrained.tokenizer import load_tokenizer
from flamingo.pretrained.tower import open_tower, tower_in, tower_info

PREFIX = 'flamingo.'
VISION = 'flamingo.vision_encoder.vision_model.'

_ACTIVATIONS = {'gelu': 'gelu', 'sqrelu': 'squared_relu', 'relu': 'relu'}
_CLIPS = {
    'openai/clip-vit-base-patch32': 'clip-b32',
    'openai/clip-vit-base-patch16': 'clip-b16',
    'openai/clip-vit-large-patch14': 'clip-l14',
    'openai/clip-vit-large-patch14-336': 'clip-l14-336',
}


def find(
    path: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Stored],
    *,
    lm: str | os.PathLike | None,
    vision: str | os.PathLike | None,
    dtype: Dtype,
) -> Published:
  """Understands a directory; see `flamingo.pretrained.load.load`.

  Args:
    path: the directory.
    config: its config.json.
    tensors: its weights.
    lm: directory of the language model, for its config and its tokenizer.
    vision: of the CLIP. Its weights are taken if the directory has none.
    dtype: type of matrix operands.

  Raises:
    ValueError: parts are missing, or do not belong together.
  """
  if lm is None:
    raise ValueError(
        f'{path} says the name of its language model, {config.get("lm")!r}, '
        'and not its sizes. Pass lm=DIRECTORY with the config.json and the '
        'tokenizer of that model.')
  config_json = read_config_json(lm)
  family = family_of(config_json)
  text = dict(lm_config(config_json), dtype=dtype)
  tokenizer = load_tokenizer(lm, FLAMINGO_MINI)
  # It adds a row behind those that pad OPT's embedding, and a token behind the
  # tokens: the rows between are of no token.
  new = new_rows(
      tensors, f'{PREFIX}lm.{next(iter(family.top))}', tokenizer, path)
  text['vocab_size'] = tokenizer.vocab_size
  model = build(config, LM(**text), new)
  blocks = f'{PREFIX}lm.{family.layer}.xattn_block'
  found = {
      int(match[1]) for match in map(re.compile(
          re.escape(blocks).replace(r'\{\}', r'(\d+)') + r'\.alpha_attn'
      ).fullmatch, tensors) if match}
  check_blocks(
      model, tensors, blocks, tuple(sorted(found)), what=str(path), lm=str(lm),
      gate='alpha_attn')
  tower, info = _tower(path, config, tensors, vision, dtype)
  layout, ignored = rules(model, family), family.unused(text, prefix=PREFIX)
  parts = (tower.part,)
  if tower.part.tensors is tensors:
    layout, ignored = layout + [*tower.part.rules], ignored | tower.part.ignored
    parts = ()
  own = Part(
      what=f'flamingo-mini directory {path.name}', tensors=tensors,
      rules=layout, ignored=ignored)
  model = model.clone(vision=tower.module)
  return Published(
      model=model, parts=(own, *parts), tokenizer=tokenizer, vision=info,
      shapes=parameter_shapes(model, info, embed=tower.embed))


def _tower(path, config, tensors, vision, dtype):
  """The CLIP of a config: what `vision` has, or what its name stands for."""
  inside = any(name.startswith(VISION) for name in tensors)
  if vision is not None:
    tower, info = open_tower(vision, features='all', dtype=dtype)
    if not inside:
      return tower, info
    return tower_in(
        tower.module, tensors, what=str(path), prefix=VISION), info
  name = config.get('clip_model_type')
  if name not in _CLIPS:
    raise ValueError(
        f'{path} has clip_model_type = {name!r} in config.json; the sizes of '
        f'{sorted(_CLIPS)} are known. Pass vision=DIRECTORY of that CLIP.')
  if not inside:
    raise ValueError(
        f'{path} does not hold its CLIP, {name!r}. Pass vision=PATH of it.')
  tower = tower_in(
      ViT(**VARIANTS[_CLIPS[name]], dtype=dtype), tensors, what=str(path),
      prefix=VISION)
  return tower, tower_info(tower.module, name=name, fit='crop')


def build(config: Mapping[str, Any], lm: LM, new_tokens: int) -> Flamingo:
  """The model of a config.json, without its vision encoder."""
  get = lambda name, default: config.get(name, default)
  visual_width, every = get('dim_visual', 768), get('xattn_every', 1)
  if get('dim', 1024) != lm.width:
    raise ValueError(
        f'config.json has dim = {get("dim", 1024)}, and the language model is '
        f'{lm.width} wide. Pass lm=DIRECTORY of {config.get("lm")!r}.')
  resampler = PerceiverResampler(
      visual_width=visual_width, width=visual_width,
      layers=get('resampler_depth', 6),
      latents=get('resampler_num_latents', 64),
      heads=get('resampler_heads', 8), head_dim=get('resampler_dim_head', 64),
      ff_hidden=visual_width * get('resampler_ff_mult', 4),
      activation=_ACTIVATIONS[get('resampler_act', 'gelu')],
      frames=get('resampler_num_time_embeds', 4), dtype=lm.dtype)
  block = GatedCrossAttention(
      width=lm.width, visual_width=visual_width, heads=get('xattn_heads', 8),
      head_dim=get('xattn_dim_head', 64),
      ff_hidden=lm.width * get('xattn_ff_mult', 4),
      activation=_ACTIVATIONS[get('xattn_act', 'gelu')], norm_visual=False,
      dtype=lm.dtype)
  return Flamingo(
      lm=lm, resampler=resampler, every=every,
      xattn=tuple(block.clone() for _ in gated_layers(lm.layers, every, 0)),
      new_tokens=new_tokens)


def rules(model: Flamingo, family: Family) -> list[Rule]:
  """How the tensors of a file become ours, save its vision encoder's."""
  layer = f'{PREFIX}lm.{family.layer}'
  places = gated_layers(model.lm.layers, model.every, model.offset)
  result = []
  theirs = f'{PREFIX}resampler'
  for rule in resampler_rules(model.resampler.layers, theirs=theirs):
    result += _apart(rule)
  result.append(
      Rule.of(f'{theirs}.time_pos_emb', 'resampler/time', 't 1 m -> t m'))
  for i, place in enumerate(places):
    result += renamed(
        block_rules(f'{layer.format(place)}.xattn_block', f'xattn_{i}'), {
            r'\.attn_gate$': '.alpha_attn', r'\.ff_gate$': '.alpha_ffw',
            r'\.ff\.(\d)': r'.ffw.\1'})
  # A layer with a block is wrapped, one without is not.
  wrapped = {
      '^' + re.escape(f'{layer.format(place)}.'):
          f'{layer.format(place)}.lm_block.'
      for place in places}
  return result + renamed(with_new_rows(family.rules(
      arguments(model.lm), prefix=PREFIX, trunk='lm.', ours='lm/')), wrapped)


def _apart(rule: Rule) -> list[Rule]:
  """In the resampler, keys and values are two tensors."""
  if not rule.theirs.endswith('.to_kv.weight'):
    return [rule]
  return [
      Rule.of(rule.theirs.replace('to_kv', name), ours, '(h d) m -> m h d')
      for name, ours in zip(('to_k', 'to_v'), rule.ours)]
