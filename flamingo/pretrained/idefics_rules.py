"""IDEFICS' names of tensors as rules, those of IdeficsForVisionText2Text."""

from flamingo.model.flamingo import Flamingo
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import vit
from flamingo.pretrained.families import FAMILIES
from flamingo.pretrained.flamingo import arguments
from flamingo.pretrained.rules import Rule
from flamingo.pretrained.openflamingo_rules import norm_rules

VISION = 'model.vision_model.'

IGNORED = {
    r'.*\.rotary_emb\.inv_freq': 'frequencies follow from the width of a head',
    r'.*\.position_ids': 'they count from 0',
}


def rules(model: Flamingo) -> list[Rule]:
  """How the tensors of a file become the parameters of such a model."""
  lm = model.lm
  result = FAMILIES['llama'].rules(arguments(lm), ours='lm/')
  result += vit.vision_rules(model.vision, prefix=VISION, embed=True)
  if model.new_tokens:
    result.append(Rule.of(
        'model.embed_tokens.additional_embedding.weight', 'new_embedding',
        'r m -> r m'))
    if not lm.tied:
      result.append(Rule.of(
          'lm_head.additional_fc.weight', 'new_unembedding', 'r m -> r m'))
  if model.resampler is not None:
    result += _resampler_rules(model.resampler)
  for i, block in enumerate(model.xattn):
    result += _block_rules(block, i)
  return result


def _resampler_rules(resampler: PerceiverResampler) -> list[Rule]:
  theirs = 'model.perceiver_resampler'
  result = [
      Rule.of(f'{theirs}.latents', 'resampler/latent', 'r m -> r m'),
      *norm_rules(f'{theirs}.layer_norm', 'resampler/norm')]
  norms = dict(context='norm_visual', latents='norm_latents')
  if resampler.norm_heads:
    norms |= dict(q='norm_query', k='norm_key')
  for i in range(resampler.layers):
    attn, dense = f'{theirs}.blocks.{i}.0', f'{theirs}.blocks.{i}.1'
    ours = f'resampler/layer_{i}'
    for name, norm in norms.items():
      result += norm_rules(f'{attn}.{name}_layer_norm', f'{ours}/{norm}')
    result += [
        *_attention_rules(attn, ours, out='output_proj'),
        *norm_rules(f'{dense}.ln', f'{ours}/norm_ff'),
        Rule.of(f'{dense}.fc.weight', f'{ours}/ff/up/kernel', 'f m -> m f'),
        Rule.of(
            f'{dense}.c_proj.weight', f'{ours}/ff/down/kernel', 'm f -> f m')]
  return result


def _block_rules(block: GatedCrossAttention, i: int) -> list[Rule]:
  theirs, ours = f'model.gated_cross_attn_layers.{i}', f'xattn_{i}'
  gate = '1 -> ' if block.gate == 'tanh' else '1 1 m -> m'
  norms = {
      'input_layernorm': 'norm_text', 'post_attention_layernorm': 'norm_ff'}
  if block.norm_heads:
    norms |= {
        'cross_attn.q_layer_norm': 'norm_query',
        'cross_attn.k_layer_norm': 'norm_key'}
  return [
      Rule.of(f'{theirs}.alpha_cross_attn', f'{ours}/attn_gate', gate),
      Rule.of(f'{theirs}.alpha_dense', f'{ours}/ff_gate', gate),
      *_attention_rules(f'{theirs}.cross_attn', ours, out='o_proj'),
      *(Rule.of(f'{theirs}.{name}.weight', f'{ours}/{norm}/scale', 'm -> m')
        for name, norm in norms.items()),
      *(Rule.of(
          f'{theirs}.mlp.{name}_proj.weight', f'{ours}/ff/{name}/kernel',
          'i o -> o i') for name in ('gate', 'up', 'down')),
  ]


def _attention_rules(theirs: str, ours: str, out: str) -> list[Rule]:
  names = dict(q_proj='query', k_proj='key', v_proj='value')
  return [
      *(Rule.of(
          f'{theirs}.{name}.weight', f'{ours}/{part}/kernel',
          '(h d) m -> m h d') for name, part in names.items()),
      Rule.of(f'{theirs}.{out}.weight', f'{ours}/out/kernel',
              'm (h d) -> h d m'),
  ]
