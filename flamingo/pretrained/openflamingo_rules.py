"""OpenFlamingo's names of tensors as rules; Otter and flamingo-mini have most.

  perceiver.layers.0.0.to_kv.weight       keys and values of a resampler's layer
  B.gated_cross_attn_layer.attn_gate      B is a decoder layer, of any family
  B.decoder_layer....                     what the language model calls it
"""

from collections.abc import Iterator

from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.pretrained.families import Family
from flamingo.pretrained.flamingo import arguments
from flamingo.pretrained.rules import Rule
from flamingo.pretrained.rows import with_new_rows

PREFIX = 'lang_encoder.'

IGNORED = {
    r'lang_encoder\.old_decoder_blocks\..*':
        'a second name of the decoder layers',
    r'lang_encoder\.gated_cross_attn_layers\..*':
        'a second name of the gated blocks',
}


def rules(
    model: Flamingo, family: Family, blocks: str | None = None
) -> list[Rule]:
  """How the tensors of a whole model become ours, save its vision encoder's.

  Args:
    model: what is read.
    family: of its language model.
    blocks: name of a block, see `openflamingo_model.block_names`; None for that
      of version 2.
  """
  layer = PREFIX + family.trunks[0] + family.layer
  blocks = blocks or f'{layer}.gated_cross_attn_layer'
  places = gated_layers(model.lm.layers, model.every, model.offset)
  result = resampler_rules(
      model.resampler.layers, frames=bool(model.resampler.frames))
  for i, place in enumerate(places):
    result += block_rules(blocks.format(place), f'xattn_{i}')
  return result + with_new_rows(family.rules(
      arguments(model.lm), prefix=PREFIX, layer='{}.decoder_layer',
      ours='lm/'))


def resampler_rules(
    layers: int, *, theirs: str = 'perceiver', frames: bool = False
) -> list[Rule]:
  """The resampler; `frames` is whether it has embeddings of time."""
  rules = [
      Rule.of(f'{theirs}.latents', 'resampler/latent', 'r m -> r m'),
      *norm_rules(f'{theirs}.norm', 'resampler/norm')]
  if frames:
    rules.append(
        Rule.of(f'{theirs}.frame_embs', 'resampler/time', 't m -> t m'))
  for i in range(layers):
    layer, ours = f'{theirs}.layers.{i}', f'resampler/layer_{i}'
    rules += [
        *norm_rules(f'{layer}.0.norm_media', f'{ours}/norm_visual'),
        *norm_rules(f'{layer}.0.norm_latents', f'{ours}/norm_latents'),
        *attention_rules(f'{layer}.0', ours),
        *dense_rules(f'{layer}.1', ours)]
  return rules


def block_rules(theirs: str, ours: str) -> list[Rule]:
  """One gated block; its gates are arrays of one number."""
  return [
      Rule.of(f'{theirs}.attn_gate', f'{ours}/attn_gate', '1 -> '),
      Rule.of(f'{theirs}.ff_gate', f'{ours}/ff_gate', '1 -> '),
      *norm_rules(f'{theirs}.attn.norm', f'{ours}/norm_text'),
      *attention_rules(f'{theirs}.attn', ours),
      *dense_rules(f'{theirs}.ff', ours),
  ]


def attention_rules(theirs: str, ours: str) -> Iterator[Rule]:
  """Projections of queries, of keys and values in one, and of the output."""
  yield Rule.of(
      f'{theirs}.to_q.weight', f'{ours}/query/kernel', '(h d) m -> m h d')
  yield Rule.of(
      f'{theirs}.to_kv.weight', (f'{ours}/key/kernel', f'{ours}/value/kernel'),
      '(n h d) m -> n m h d')
  yield Rule.of(
      f'{theirs}.to_out.weight', f'{ours}/out/kernel', 'm (h d) -> h d m')


def dense_rules(theirs: str, ours: str) -> list[Rule]:
  """Norm, linear layer, activation and linear layer as a torch Sequential."""
  return [
      *norm_rules(f'{theirs}.0', f'{ours}/norm_ff'),
      Rule.of(f'{theirs}.1.weight', f'{ours}/ff/up/kernel', 'f m -> m f'),
      Rule.of(f'{theirs}.3.weight', f'{ours}/ff/down/kernel', 'm f -> f m'),
  ]


def norm_rules(theirs: str, ours: str) -> list[Rule]:
  """A LayerNorm of torch."""
  return [
      Rule.of(f'{theirs}.weight', f'{ours}/scale', 'm -> m'),
      Rule.of(f'{theirs}.bias', f'{ours}/bias', 'm -> m'),
  ]
