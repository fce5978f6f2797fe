"""IDEFICS, 9B and 80B: one directory holds all of it.

Laurencon et al., 2023, arXiv:2306.16527, in the layout of the class
IdeficsForVisionText2Text of transformers. What its config says nothing of is
that class's default.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import re
from typing import Any

from flamingo.data.tags import IDEFICS, IDEFICS_INSTRUCT, Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.products import Dtype
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.vision.vit import ViT
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import formats
from flamingo.pretrained import vit_config
from flamingo.pretrained.families import Fields
from flamingo.pretrained.flamingo import parameter_shapes, Part, Published
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.idefics_rules import IGNORED, rules
from flamingo.pretrained.layouts import write_params
from flamingo.pretrained.native import check_expressed
from flamingo.pretrained.tokenizer import check_fits, load_tokenizer
from flamingo.pretrained.tower import tower_info
from flamingo.types import Params

# By `additional_vocab_size`.
TAGS = {
    0: Tags(new_tokens=(), eoc=None),  # with its image tag in the vocabulary
    len(IDEFICS.new_tokens): IDEFICS,
    len(IDEFICS_INSTRUCT.new_tokens): IDEFICS_INSTRUCT,
}

# Ours that transformers names otherwise.
_ACTIVATIONS = {'gelu_tanh': 'gelu_pytorch_tanh', 'squared_relu': 'relu2'}


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
    lm: where the tokenizer is, if not there as well.
    dtype: type of matrix operands.

  Raises:
    ValueError: config and tokenizer do not belong together.
  """
  model = build(config, dtype)
  _check_interval(model, tensors, path)
  tokenizer = load_tokenizer(
      path if lm is None else lm, TAGS.get(model.new_tokens, IDEFICS))
  check_fits(
      tokenizer, model.lm.vocab_size, model.new_tokens,
      what=f'The embedding in {path}')
  ignored = IGNORED
  if model.lm.tied:
    ignored = ignored | {
        r'lm_head\..*': 'the output projection is the embedding'}
  part = Part(
      what=f'IDEFICS directory {path.name}', tensors=tensors,
      rules=rules(model), ignored=ignored)
  info = tower_info(model.vision, name=path.name, fit='squash')
  return Published(
      model=model, parts=(part,), tokenizer=tokenizer, vision=info,
      shapes=parameter_shapes(model, info, embed=True))


def _check_interval(
    model: Flamingo, tensors: Mapping[str, Stored], path: pathlib.Path
) -> None:
  found = sorted(
      int(match[1]) for match in map(re.compile(
          r'model\.gated_cross_attn_layers\.(\d+)\.alpha_dense').fullmatch,
          tensors) if match)
  expected, layers = len(model.xattn), model.lm.layers
  if found and len(found) != expected:
    listed = ', '.join(map(str, found))
    raise ValueError(
        f'{path} has the gated blocks {listed}: cross_layer_interval = '
        f'{layers // len(found)} over {layers} layers; its config.json says '
        f'cross_layer_interval = {model.every}, which asks for {expected}. '
        'Fetch config.json again.')


def save(
    path: str | os.PathLike,
    model: Flamingo,
    params: Params,
    tokenizer: Tokenizer,
) -> None:
  """Writes a directory that IdeficsForVisionText2Text reads, and `load`.

  Args:
    path: the directory, made if it is not there.
    model: a Flamingo of IDEFICS' architecture, with its vision encoder.
    params: its parameters, in the types they are to have in the file. If the
      vision encoder's last norm is not among them, transformers makes one.
    tokenizer: of its language model.

  Raises:
    ValueError: the model is of another architecture. It names what differs.
  """
  if not isinstance(model.vision, ViT):
    raise ValueError(
        'IDEFICS cannot express this model: its vision encoder is a CLIP, '
        f'{type(model.vision).__name__} came. Write it in our own layout, with '
        '`save`.')
  config = config_of(model, tokenizer)
  check_expressed(model, build(config, model.lm.dtype), 'IDEFICS')
  path = pathlib.Path(path)
  formats.write_safetensors(
      path, write_params(params, rules(model)),
      metadata={'format': 'pt'})
  (path / 'config.json').write_text(json.dumps(config, indent=2))
  tokenizer.save(path)


def config_of(model: Flamingo, tokenizer: Tokenizer) -> dict[str, Any]:
  """The config.json that describes a model: the inverse of `build`."""
  lm, vision, resampler = model.lm, model.vision, model.resampler
  block = model.xattn[0]
  config = dict(
      model_type='idefics', architectures=['IdeficsForVisionText2Text'],
      vocab_size=lm.vocab_size, additional_vocab_size=model.new_tokens,
      hidden_size=lm.width, intermediate_size=lm.hidden,
      num_hidden_layers=lm.layers, num_attention_heads=lm.heads,
      hidden_act=_ACTIVATIONS.get(lm.activation, lm.activation),
      rms_norm_eps=lm.norm_eps,
      tie_word_embeddings=lm.tied, cross_layer_interval=model.every,
      qk_layer_norms=block.norm_heads, use_resampler=resampler is not None,
      alpha_type='vector' if block.gate == 'vector' else 'float',
      bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id,
      pad_token_id=tokenizer.pad_id,
      vision_config=dict(
          embed_dim=vision.width, image_size=vision.image_size,
          patch_size=vision.patch, num_hidden_layers=vision.layers,
          num_attention_heads=vision.heads, intermediate_size=vision.hidden,
          hidden_act=_ACTIVATIONS.get(vision.activation, vision.activation),
          layer_norm_eps=vision.norm_eps))
  if resampler is not None:
    config['perceiver_config'] = dict(
        resampler_depth=resampler.layers, resampler_n_heads=resampler.heads,
        resampler_head_dim=resampler.head_dim,
        resampler_n_latents=resampler.latents,
        qk_layer_norms_perceiver=resampler.norm_heads)
  return config


def build(config: Mapping[str, Any], dtype: Dtype) -> Flamingo:
  """The model that a config.json describes."""
  get = lambda name, default: config.get(name, default)
  width, heads = get('hidden_size', 4096), get('num_attention_heads', 32)
  hidden, eps = get('intermediate_size', 11008), get('rms_norm_eps', 1e-6)
  activation = Fields(config).activation('hidden_act', 'silu')
  lm = LM(
      vocab_size=get('vocab_size', 32000), width=width,
      layers=get('num_hidden_layers', 32), heads=heads, kv_heads=heads,
      head_dim=width // heads, hidden=hidden, norm_eps=eps,
      activation=activation, tied=get('tie_word_embeddings', False),
      dtype=dtype)
  vision = ViT(**vit_config.vit_config(config, 'idefics'), dtype=dtype)
  visual_width = vision.width
  resampler = None
  if get('use_resampler', False):
    perceiver = get('perceiver_config', {}).get
    resampler = PerceiverResampler(
        visual_width=visual_width, width=visual_width,
        layers=perceiver('resampler_depth', 6),
        latents=perceiver('resampler_n_latents', 64),
        heads=perceiver('resampler_n_heads', 16),
        head_dim=perceiver('resampler_head_dim', 96),
        norm_heads=perceiver('qk_layer_norms_perceiver', False),
        activation='relu', frames=0, dtype=dtype)
  block = GatedCrossAttention(
      width=width, visual_width=visual_width, heads=heads,
      head_dim=width // heads, ff_hidden=hidden, activation=activation,
      gated_ff=True, norm='rms', norm_visual=False,
      norm_heads=get('qk_layer_norms', False), norm_eps=eps,
      gate=_GATES[get('alpha_type', 'float')], dtype=dtype)
  every = get('cross_layer_interval', 1)
  return Flamingo(
      lm=lm, resampler=resampler, every=every,
      xattn=tuple(
          block.clone() for _ in gated_layers(lm.layers, every, 0)),
      new_tokens=get('additional_vocab_size', 0), vision=vision)


_GATES = {'float': 'tanh', 'vector': 'vector'}
