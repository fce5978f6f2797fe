"""The architecture of an OpenFlamingo, as its tensors tell it.

Names tell where the blocks stand, shapes the sizes. That attention of the new
layers has heads of 64, and the activation is GELU, is the same in all of them.
"""

from collections.abc import Iterable, Mapping
import re

from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import layouts
from flamingo.pretrained.flamingo import rename
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.openflamingo_rules import PREFIX

HEAD_DIM = 64


def block_names(tensors: Iterable[str]) -> tuple[str, tuple[int, ...]]:
  """Where a checkpoint has gated blocks, and before which layers they stand.

  Version 2 has them in the wrappers of the decoder layers, version 1 in a list
  of their own.

  Returns:
    the name of a block, with '{}' for the number of its layer; and the numbers.

  Raises:
    ValueError: there are none.
  """
  found = {}
  for name in tensors:
    for pattern in (
        rf'({PREFIX}.*\.)(\d+)(\.gated_cross_attn_layer)\.attn_gate',
        rf'({PREFIX}gated_cross_attn_layers\.)(\d+)()\.attn_gate'):
      if match := re.fullmatch(pattern, name):
        start, number, end = match.groups()
        found.setdefault(f'{start}{{}}{end}', set()).add(int(number))
  if not found:
    raise ValueError(
        'Expected gated blocks, tensors named lang_encoder. ... .attn_gate; '
        f'came {layouts.some(tensors)}. Give a checkpoint of OpenFlamingo.')
  # The list of version 1 is also in version 2, as a second name.
  name = max(found, key=lambda name: name.endswith('layer'))
  return name, tuple(sorted(found[name]))


def build(
    tensors: Mapping[str, Stored],
    lm: LM,
    new_tokens: int,
    *,
    every: int | None = None,
    names: Mapping[str, str] | None = None,
) -> Flamingo:
  """The model that a checkpoint was trained as, without its vision encoder.

  Args:
    tensors: of the checkpoint. Their sizes tell those of the model.
    lm: the language model.
    new_tokens: rows of the embedding behind the language model's own.
    every: see `Flamingo`; by default as the checkpoint has it.
    names: how its names differ from OpenFlamingo's, see `rename`.
  """
  def shape(name):
    name = rename(name, names or {})
    if name not in tensors:
      raise ValueError(
          f'The checkpoint lacks {name}. Check that it is a whole one.')
    return tensors[name].shape

  blocks, places = block_names(tensors)
  every = every or places[0] + 1
  latents, visual_width = shape('perceiver.latents')
  layers = {
      match[1] for match in map(
          re.compile(r'perceiver\.layers\.(\d+)\.').match, tensors) if match}
  frames = 'perceiver.frame_embs'
  resampler = PerceiverResampler(
      visual_width=visual_width, width=visual_width, layers=len(layers),
      latents=latents,
      heads=shape('perceiver.layers.0.0.to_q.weight')[0] // HEAD_DIM,
      head_dim=HEAD_DIM, ff_hidden=shape('perceiver.layers.0.1.1.weight')[0],
      activation='gelu', frames=shape(frames)[0] if frames in tensors else 0,
      dtype=lm.dtype)
  block = blocks.format(places[0])
  xattn = GatedCrossAttention(
      width=lm.width, visual_width=visual_width,
      heads=shape(f'{block}.attn.to_q.weight')[0] // HEAD_DIM,
      head_dim=HEAD_DIM, ff_hidden=shape(f'{block}.ff.1.weight')[0],
      activation='gelu', norm_visual=False, dtype=lm.dtype)
  return Flamingo(
      lm=lm, resampler=resampler, every=every, offset=every - 1,
      xattn=tuple(
          xattn.clone() for _ in gated_layers(lm.layers, every, every - 1)),
      new_tokens=new_tokens)
