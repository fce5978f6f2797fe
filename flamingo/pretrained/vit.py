"""The ViT of CLIP and SigLIP by its published names, and what tells its sizes.

There are two layouts. 'hf' is that of Hugging Face's CLIPVisionModel and
SiglipVisionModel, which IDEFICS and Otter contain; 'open_clip' that of OpenAI's
release and of open_clip, which OpenFlamingo contains.
"""

from collections.abc import Container, Mapping
import functools
import re

import jax
import jax.numpy as jnp

from flamingo import params as params_lib
from flamingo.model.vision.vit import ViT
from flamingo.pretrained.rules import Rule
from flamingo.types import Params

# Axes: p q pixels of a patch, c colours, m width, s positions, h heads, d head
# dim, f hidden, e width of the embedding, n what is fused.
_Table = Mapping[str, tuple[str | tuple[str, ...], str]]
_QKV = ('query', 'key', 'value')
_IN, _IN_BIAS = '(h d) m -> m h d', '(h d) -> h d'
_FUSED, _FUSED_BIAS = '(n h d) m -> n m h d', '(n h d) -> n h d'
_OUT, _UP, _DOWN = 'm (h d) -> h d m', 'f m -> m f', 'm f -> f m'
_SAME = 'm -> m'


def _norm(theirs: str, ours: str) -> _Table:
  return {f'{theirs}.weight': (f'{ours}/scale', _SAME),
          f'{theirs}.bias': (f'{ours}/bias', _SAME)}


def _linear(theirs: str, ours: str, layout: str, bias: str) -> _Table:
  return {f'{theirs}.weight': (f'{ours}/kernel', layout),
          f'{theirs}.bias': (f'{ours}/bias', bias)}


def _fused_attention(theirs: str, ours: str) -> _Table:
  """torch.nn.MultiheadAttention."""
  paths = lambda leaf: tuple(f'{ours}/{name}/{leaf}' for name in _QKV)
  return {f'{theirs}.in_proj_weight': (paths('kernel'), _FUSED),
          f'{theirs}.in_proj_bias': (paths('bias'), _FUSED_BIAS),
          **_linear(f'{theirs}.out_proj', f'{ours}/out', _OUT, _SAME)}


def _mlp(up: str, down: str, ours: str) -> _Table:
  return {**_linear(up, f'{ours}/up', _UP, 'f -> f'),
          **_linear(down, f'{ours}/down', _DOWN, _SAME)}


# By layout: what precedes all names, the tensors, those of layer {}.
_PREFIX = {'hf': 'vision_model.', 'open_clip': 'visual.'}
_TOP: dict[str, _Table] = {
    'hf': {
        **_linear(
            'embeddings.patch_embedding', 'patch_embed', 'm c p q -> p q c m',
            _SAME),
        'embeddings.class_embedding': ('class_embedding', _SAME),
        'embeddings.position_embedding.weight': (
            'position_embedding', 's m -> s m'),
        **_norm('pre_layrnorm', 'first_norm'),  # sic
        **_norm('post_layernorm', 'post_norm'),
        'head.probe': ('head/probe', '1 1 m -> m'),
        **_fused_attention('head.attention', 'head/attn'),
        **_norm('head.layernorm', 'head/mlp_norm'),
        **_mlp('head.mlp.fc1', 'head.mlp.fc2', 'head/mlp'),
    },
    'open_clip': {
        'conv1.weight': ('patch_embed/kernel', 'm c p q -> p q c m'),
        'class_embedding': ('class_embedding', _SAME),
        'positional_embedding': ('position_embedding', 's m -> s m'),
        **_norm('ln_pre', 'first_norm'),
        **_norm('ln_post', 'post_norm'),
        'proj': ('projection/kernel', 'm e -> m e'),
    },
}
_LAYER: dict[str, tuple[str, _Table]] = {
    'hf': ('encoder.layers.{}.', {
        **_norm('layer_norm1', 'attn_norm'),
        **_linear('self_attn.q_proj', 'attn/query', _IN, _IN_BIAS),
        **_linear('self_attn.k_proj', 'attn/key', _IN, _IN_BIAS),
        **_linear('self_attn.v_proj', 'attn/value', _IN, _IN_BIAS),
        **_linear('self_attn.out_proj', 'attn/out', _OUT, _SAME),
        **_norm('layer_norm2', 'mlp_norm'),
        **_mlp('mlp.fc1', 'mlp.fc2', 'mlp'),
    }),
    'open_clip': ('transformer.resblocks.{}.', {
        **_norm('ln_1', 'attn_norm'),
        **_fused_attention('attn', 'attn'),
        **_norm('ln_2', 'mlp_norm'),
        **_mlp('mlp.c_fc', 'mlp.c_proj', 'mlp'),
    }),
}


def vision_rules(
    vit: ViT,
    style: str = 'hf',
    *,
    prefix: str | None = None,
    ours: str = 'vision/',
    embed: bool = False,
) -> list[Rule]:
  """How published tensors become the parameters of a ViT.

  Args:
    vit: tells which parameters there are.
    style: 'hf' or 'open_clip'.
    prefix: what precedes 'embeddings.' ('hf') or 'conv1.' ('open_clip') in the
      names, in IDEFICS for one 'model.vision_model.'; None for what it is in a
      file of a CLIP.
    ours: what precedes our paths; '' for the tree of the ViT alone.
    embed: whether to read what `embed` alone needs.
  """
  expected = _paths(expected_params(vit, embed))
  return [
      Rule.of(theirs, tuple(f'{ours}{path}' for path in paths), layout)
      for theirs, paths, layout in _entries(vit, style, prefix)
      if all(path in expected for path in paths)]


def vision_ignored(
    vit: ViT,
    style: str = 'hf',
    *,
    prefix: str | None = None,
    embed: bool = False,
) -> dict[str, str]:
  """Patterns of the tensors of a vision tower that have no use, and why.

  Args: as for `vision_rules`.
  """
  expected = _paths(expected_params(vit, embed))
  ignored = {
      re.escape(theirs): 'only the embedding of a whole image needs it'
      for theirs, paths, _ in _entries(vit, style, prefix)
      if paths[0] not in expected
      and paths[0].partition('/')[0] in ('post_norm', 'head', 'projection')}
  ignored[r'(.*\.)?position_ids'] = 'they count from 0'
  return ignored


def has_embedding(
    vit: ViT,
    tensors: Container[str],
    style: str = 'hf',
    *,
    prefix: str | None = None,
) -> bool:
  """Whether a file has all that `embed` needs.

  Args:
    vit: the tower.
    tensors: names of the file's tensors.
    style: as for `vision_rules`.
    prefix: likewise.
  """
  return vit.embeds and all(
      rule.theirs in tensors
      for rule in vision_rules(vit, style, prefix=prefix, embed=True))


def expected_params(vit: ViT, embed: bool) -> Params:
  """Shapes of the parameters that features, or `embed` too, need."""
  images = jax.ShapeDtypeStruct(
      (1, vit.image_size, vit.image_size, 3), jnp.uint8)
  init = functools.partial(vit.init, method='embed' if embed else None)
  return jax.eval_shape(init, jax.random.key(0), images)['params']


def _entries(
    vit: ViT, style: str, prefix: str | None
) -> list[tuple[str, tuple[str, ...], str]]:
  """Name, our paths, layout of all that a ViT of so many layers may have."""
  if style not in _PREFIX:
    raise ValueError(
        f'Expected a layout of {sorted(_PREFIX)}, came {style!r}.')
  prefix = _PREFIX[style] if prefix is None else prefix
  table = {f'{prefix}{name}': entry for name, entry in _TOP[style].items()}
  layer, names = _LAYER[style]
  for i in range(vit.layers):
    for name, (paths, layout) in names.items():
      paths = (paths,) if isinstance(paths, str) else paths
      table[prefix + layer.format(i) + name] = (
          tuple(f'layer_{i}/{path}' for path in paths), layout)
  if style == 'hf':
    # The only one that stands beside the tower and not in it.
    beside = prefix.removesuffix('vision_model.')
    table[f'{beside}visual_projection.weight'] = (
        'projection/kernel', 'e m -> m e')
  return [
      (name, (paths,) if isinstance(paths, str) else paths, layout)
      for name, (paths, layout) in table.items()]


def _paths(params: Params) -> set[str]:
  return {'/'.join(path) for path, _ in params_lib.flatten(params)}
