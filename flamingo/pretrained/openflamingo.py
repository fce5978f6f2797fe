"""OpenFlamingo: its names, its architecture, and the files it comes in.

The released `checkpoint.pt` holds what was trained, and the embedding: the
language model and CLIP are files of their own. All of it in Awadalla et al.,
2023, arXiv:2308.01390, and the package open-flamingo.
"""

from collections.abc import Iterator

from flamingo.pretrained.layouts import Rule


def norm_rules(theirs: str, ours: str) -> list[Rule]:
  """A LayerNorm of torch."""
  return [
      Rule.of(f'{theirs}.weight', f'{ours}/scale', 'm -> m'),
      Rule.of(f'{theirs}.bias', f'{ours}/bias', 'm -> m'),
  ]


def dense_rules(theirs: str, ours: str) -> list[Rule]:
  """Norm, linear layer, activation and linear layer as a torch Sequential."""
  return [
      *norm_rules(f'{theirs}.0', f'{ours}/norm_ff'),
      Rule.of(f'{theirs}.1.weight', f'{ours}/ff/up/kernel', 'f m -> m f'),
      Rule.of(f'{theirs}.3.weight', f'{ours}/ff/down/kernel', 'm f -> f m'),
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
