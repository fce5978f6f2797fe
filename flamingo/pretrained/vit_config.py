"""What a published ViT is: from the config beside it, or from its tensors."""

from collections.abc import Mapping
import json
import math
import pathlib
import re
from typing import Any, NamedTuple

from flamingo.model.vision import pixels
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.layouts import some

# What Hugging Face's config classes take for what a config.json does not say.
_CLIP: dict[str, Any] = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
    num_attention_heads=12, image_size=224, patch_size=32,
    hidden_act='quick_gelu', layer_norm_eps=1e-5, num_channels=3)
_FAMILIES: dict[str, dict[str, Any]] = {
    'clip': _CLIP,
    'siglip': _CLIP | dict(
        patch_size=16, hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-6,
        vision_use_head=True),
    'idefics': _CLIP | dict(
        embed_dim=768, intermediate_size=5120, num_hidden_layers=32,
        num_attention_heads=16, patch_size=14, hidden_act='gelu'),
}
_ACTIVATIONS = {
    'quick_gelu': 'quick_gelu', 'gelu': 'gelu',
    'gelu_pytorch_tanh': 'gelu_tanh', 'gelu_new': 'gelu_tanh'}

# Width of a head, where it is not 64, by the width of the ViT: H, g and G of
# open_clip.
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}

# What open_clip names its files of weights.
_OPEN_CLIP_CONFIG = 'open_clip_config.json'
_OPEN_CLIP_FILES = (
    'open_clip_model.safetensors', 'open_clip_pytorch_model.safetensors',
    'open_clip_pytorch_model.bin')
_FITS = {'shortest': 'crop', 'longest': 'pad', 'squash': 'squash'}


class Found(NamedTuple):
  """What was found out about a vision tower.

  Attributes:
    style: its layout, see `flamingo.pretrained.vit`.
    arguments: of `ViT`.
    fit: how a picture becomes a square: 'crop', 'squash' or 'pad'.
  """

  style: str
  arguments: dict[str, Any]
  fit: str


def find_weights(path: pathlib.Path) -> pathlib.Path:
  """The file that open_clip writes into a directory; else `path` as it is."""
  # Where both are, those of Hugging Face count; timm's config has no such key.
  is_hf = 'model_type' in _read_json(path / 'config.json')
  if (path / _OPEN_CLIP_CONFIG).exists() and not is_hf:
    for name in _OPEN_CLIP_FILES:
      if (path / name).exists():
        return path / name
  return path


def find_config(
    folder: pathlib.Path,
    tensors: Mapping[str, Stored],
    *,
    activation: str | None = None,
    heads: int | None = None,
) -> Found:
  """What the tensors and the files beside them tell of a CLIP or SigLIP.

  Args:
    folder: where its config is, if it has one.
    tensors: by their published names.
    activation: overrules the config.
    heads: number of attention heads, overrules the config.

  Raises:
    ValueError: there is no telling, or it is something else.
  """
  if 'vision_model.embeddings.patch_embedding.weight' in tensors:
    found = _find_hf(folder, tensors)
  else:
    found = _find_open_clip(folder, tensors, activation, heads)
  given = dict(activation=activation, heads=heads)
  found.arguments.update(
      {name: value for name, value in given.items() if value is not None})
  return found


def _find_hf(folder: pathlib.Path, tensors: Mapping[str, Stored]) -> Found:
  config = _read_json(folder / 'config.json')
  if not config:
    raise ValueError(
        f'{folder} has no config.json, which tells the sizes of the model. Put '
        'that of the weights beside them.')
  arguments = vit_config(config)
  projection = tensors.get('visual_projection.weight')
  if projection is not None:
    arguments['embed_width'] = projection.shape[0]
  preprocessor = _read_json(folder / 'preprocessor_config.json')
  arguments |= _scaling(preprocessor, 'image_mean', 'image_std')
  # SigLIP's preprocessor knows no cropping.
  crop = preprocessor.get(
      'do_center_crop', 'siglip' not in config['model_type'])
  return Found('hf', arguments, 'crop' if crop else 'squash')


def _find_open_clip(
    folder: pathlib.Path,
    tensors: Mapping[str, Stored],
    activation: str | None,
    heads: int | None,
) -> Found:
  config = _read_json(folder / _OPEN_CLIP_CONFIG)
  model = config.get('model_cfg', {})
  preprocessor = config.get('preprocess_cfg', {})
  if config and activation is None:
    activation = 'quick_gelu' if model.get('quick_gelu') else 'gelu'
  arguments = vit_config_from_shapes(
      tensors, activation=activation, heads=heads)
  if activation is None:
    raise ValueError(
        f'Nothing in {folder} tells which activation the weights were trained '
        "with. Give activation='quick_gelu' for those of OpenAI, 'gelu' for "
        'those of LAION.')
  head_width = model.get('vision_cfg', {}).get('head_width')
  if head_width is not None:
    arguments['heads'] = arguments['width'] // head_width
  arguments |= _scaling(preprocessor, 'mean', 'std')
  fit = _FITS[preprocessor.get('resize_mode', 'shortest')]
  return Found('open_clip', arguments, fit)


def vit_config(
    config: Mapping[str, Any], family: str | None = None
) -> dict[str, Any]:
  """The arguments of `ViT` from a config.json of Hugging Face.

  Args:
    config: of a CLIP or SigLIP, whole or the vision tower alone, or of an
      IDEFICS.
    family: 'clip', 'siglip' or 'idefics'; None goes by `model_type`.

  Raises:
    ValueError: it is of another family, or of something that `ViT` lacks.
  """
  if family is None:
    family = str(config.get('model_type')).removesuffix('_model').removesuffix(
        '_vision')
  if family not in _FAMILIES:
    raise ValueError(
        f'Expected the config of one of {sorted(_FAMILIES)}, came model_type '
        f'{config.get("model_type")!r}.')
  values = _FAMILIES[family] | config.get('vision_config', config)
  if values['num_channels'] != 3 or values['hidden_act'] not in _ACTIVATIONS:
    raise ValueError(
        'Expected 3 channels and an activation of '
        f'{sorted(_ACTIVATIONS)}; came {values["num_channels"]} and '
        f'{values["hidden_act"]!r}.')
  arguments = dict(
      image_size=values['image_size'],
      patch=values['patch_size'],
      width=values['embed_dim' if family == 'idefics' else 'hidden_size'],
      layers=values['num_hidden_layers'],
      heads=values['num_attention_heads'],
      hidden=values['intermediate_size'],
      activation=_ACTIVATIONS[values['hidden_act']],
      norm_eps=values['layer_norm_eps'])
  if family == 'siglip':
    arguments |= dict(
        class_token=False, pre_norm=False, patch_bias=True,
        pooling_head=values['vision_use_head'], mean=pixels.HALF,
        std=pixels.HALF)
  return arguments


def vit_config_from_shapes(
    tensors: Mapping[str, Stored],
    *,
    activation: str | None,
    heads: int | None = None,
    prefix: str = 'visual.',
) -> dict[str, Any]:
  """The arguments of `ViT` from the tensors of an open_clip or OpenAI file.

  Args:
    tensors: by their published names.
    activation: see `ViT`. No tensor tells: OpenAI's weights were trained with
      'quick_gelu', LAION's mostly with 'gelu'.
    heads: number of them, which no tensor tells either; None for what open_clip
      has at this width.
    prefix: what precedes 'conv1.' in the names.

  Raises:
    ValueError: it is no Vision Transformer.
  """
  if f'{prefix}positional_embedding' not in tensors:
    raise ValueError(
        f"Expected a Vision Transformer with open_clip's names, such as "
        f'{prefix}positional_embedding; came {some(tensors)}. Residual '
        'networks and the towers of timm are not read.')
  width, _, patch, _ = tensors[f'{prefix}conv1.weight'].shape
  # One position is the class token's.
  side = math.isqrt(tensors[f'{prefix}positional_embedding'].shape[0] - 1)
  block = re.escape(f'{prefix}transformer.resblocks.') + r'(\d+)\..*'
  matches = [re.fullmatch(block, name) for name in tensors]
  layers = len({match[1] for match in matches if match})
  hidden, _ = tensors[f'{prefix}transformer.resblocks.0.mlp.c_fc.weight'].shape
  projection = tensors.get(f'{prefix}proj')
  return dict(
      image_size=side * patch, patch=patch, width=width, layers=layers,
      heads=heads or width // _HEAD_WIDTHS.get(width, 64), hidden=hidden,
      activation=activation,
      embed_width=None if projection is None else projection.shape[1])


def _scaling(config: Mapping[str, Any], mean: str, std: str) -> dict[str, Any]:
  return {
      ours: tuple(config[theirs]) for ours, theirs in (
          ('mean', mean), ('std', std)) if theirs in config}


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.exists() else {}
