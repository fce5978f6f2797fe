"""Otter, and OpenFlamingo as its authors publish it: whole, in one directory.

Li et al., 2023, arXiv:2305.03726. The model is OpenFlamingo with its layers
named otherwise, the CLIP of Hugging Face in it, and a config.json that holds
those of the language model and of the CLIP. For video it has embeddings of the
frames' numbers.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
from typing import Any

from flamingo.data.tags import OPENFLAMINGO_UNPADDED
from flamingo.model.lm import LM
from flamingo.model.products import Dtype
from flamingo.model.vision.vit import ViT
from flamingo.pretrained import vit_config
from flamingo.pretrained.flamingo import (
    parameter_shapes, Part, Published, renamed)
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.lm import family_of, lm_config
from flamingo.pretrained.openflamingo_model import block_names, build
from flamingo.pretrained.openflamingo_rules import IGNORED, PREFIX, rules
from flamingo.pretrained.placement import check_blocks
from flamingo.pretrained.rows import new_rows
from flamingo.pretrained.tokenizer import load_tokenizer
from flamingo.pretrained.tower import tower_in, tower_info

# OpenFlamingo's names to these.
NAMES = {
    r'^(perceiver\.layers\.\d+)\.0\.': r'\1.',
    r'^(perceiver\.layers\.\d+)\.1\.': r'\1.feed_forward.',
    r'(gated_cross_attn_layer)\.ff\.': r'\1.feed_forward.',
}

# By model_type. `<PAD>` follows if the tokenizer has no token for padding.
TAGS = {
    'flamingo': OPENFLAMINGO_UNPADDED,
    'otter': dataclasses.replace(
        OPENFLAMINGO_UNPADDED,
        new_tokens=('<|endofchunk|>', '<image>', '<answer>')),
}


def find(
    path: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Stored],
    *,
    lm: str | os.PathLike | None,
    dtype: Dtype,
) -> Published:
  """Understands a directory; see `flamingo.pretrained.load.load`.

  Args:
    path: the directory.
    config: its config.json.
    tensors: its weights.
    lm: where the language model's tokenizer is, if not there as well.
    dtype: type of matrix operands.

  Raises:
    ValueError: config and weights do not belong together.
  """
  names = NAMES if any('feed_forward' in name for name in tensors) else {}
  family = family_of(config['text_config'])
  text = dict(lm_config(config['text_config']), dtype=dtype)
  blocks, places = block_names(tensors)
  tokenizer = load_tokenizer(
      path if lm is None else lm, TAGS[config['model_type']])
  if tokenizer.pad_id == tokenizer.eos_id:
    tokenizer = tokenizer.tagged(dataclasses.replace(
        tokenizer.tags, new_tokens=(*tokenizer.new_tokens, '<PAD>'),
        pad='<PAD>'))
  # MPT's embedding keeps its padding: more rows than tokens.
  new = new_rows(
      tensors, f'{PREFIX}{family.trunks[0]}{next(iter(family.top))}', tokenizer,
      path)
  text['vocab_size'] = tokenizer.vocab_size
  model = build(
      tensors, LM(**text), new, names=names,
      every=config.get('cross_attn_every_n_layers', 4))
  check_blocks(model, tensors, blocks, places, what=str(path))
  what = f'{config["model_type"]} directory {path.name}'
  tower = tower_in(
      ViT(**vit_config.vit_config(config, 'clip'), features='patches',
          dtype=dtype),
      tensors, what=what, prefix='vision_encoder.vision_model.')
  part = Part(
      what=what, tensors=tensors,
      rules=[*renamed(rules(model, family), names), *tower.part.rules],
      ignored=IGNORED | family.unused(
          text, prefix=PREFIX) | tower.part.ignored)
  model = model.clone(vision=tower.module)
  info = tower_info(tower.module, name=path.name, fit='crop')
  return Published(
      model=model, parts=(part,), tokenizer=tokenizer, vision=info,
      shapes=parameter_shapes(model, info, embed=tower.embed))
