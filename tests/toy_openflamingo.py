"""OpenFlamingos small enough to write, with the directories of their parts."""

import dataclasses
import functools
import json

from flamingo import params as params_lib
from flamingo.data.tags import Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.vision.vit import ViT
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import formats
from flamingo.pretrained import layouts
from flamingo.pretrained import openflamingo
from flamingo.pretrained import vit
from flamingo.pretrained.lm import family_of, lm_config
from flamingo.pretrained.load import load
import jax
import jax.numpy as jnp
import numpy as np

VOCAB, PADDED = 259, 264  # tokens of the language model, rows of its embedding
LMS = {
    'llama': dict(
        model_type='llama', hidden_size=12, intermediate_size=17,
        num_hidden_layers=5, num_attention_heads=2),
    'gpt_neox': dict(
        model_type='gpt_neox', hidden_size=12, intermediate_size=17,
        num_hidden_layers=5, num_attention_heads=2, rotary_pct=1.0),
    'mpt': dict(model_type='mpt', d_model=12, n_layers=5, n_heads=2),
    'mosaic_gpt': dict(
        model_type='mosaic_gpt', d_model=12, n_layers=5, n_heads=2,
        attn_qk_ln=True),
    'opt': dict(
        model_type='opt', hidden_size=12, ffn_dim=17, num_hidden_layers=5,
        num_attention_heads=2, max_position_embeddings=31),
}
CLIP = dict(
    model_type='clip_vision_model', hidden_size=14, intermediate_size=19,
    num_hidden_layers=1, num_attention_heads=2, image_size=9, patch_size=3)


@dataclasses.dataclass(frozen=True)
class Toy:
  """An OpenFlamingo and the directories of what it is made of."""

  model: Flamingo
  params: dict
  family: object
  lm: object
  vision: object


def builder(random_params):
  """(family, every, new_tokens, visual) to a model and its parameters."""
  @functools.cache
  def make(name, every, new_tokens, visual):
    lm = LM(**dict(lm_config(lm_json(name)), vocab_size=VOCAB))
    model = Flamingo(
        lm=lm,
        resampler=PerceiverResampler(
            visual_width=visual, width=visual, layers=2, latents=5, heads=2,
            head_dim=64, ff_hidden=23, activation='gelu', frames=0),
        xattn=tuple(
            GatedCrossAttention(
                width=12, visual_width=visual, heads=1, head_dim=64,
                ff_hidden=29, activation='gelu', norm_visual=False)
            for _ in gated_layers(5, every, every - 1)),
        every=every, offset=every - 1, new_tokens=new_tokens,
        vision=ViT(
            patch=3, width=visual, layers=1, heads=2 if visual == 14 else 1,
            hidden=19, image_size=9, features='patches'))
    tokens = jnp.zeros((1, 2), jnp.int32)
    images = jnp.zeros((1, 1, 1, 9, 9, 3), jnp.uint8)
    params = random_params(model, images, tokens, tokens)
    # A CLIP has all that its embedding needs.
    params['vision'] = random_params(
        model.vision, images[0, 0], method='embed', seed=1)
    return model, params
  return make


def maker(built, tmp_path):
  """(family, every=2, new_tokens=3, visual=14) to a Toy."""
  def make(name='mpt', every=2, new_tokens=3, visual=14):
    model, params = built(name, every, new_tokens, visual)
    write_lm(tmp_path / 'lm', lm_json(name), params['lm'])
    write_clip(tmp_path / 'clip', model.vision, params['vision'])
    return Toy(
        model, params, family_of(lm_json(name)), tmp_path / 'lm',
        tmp_path / 'clip')
  return make


def lm_json(name):
  return LMS[name] | dict(vocab_size=PADDED)


def write_lm(path, config_json, params):
  """A Hugging Face directory whose embedding has rows of no token."""
  config = lm_config(config_json)
  family = family_of(config_json)

  def pad(path, leaf):
    if path in (('embed', 'embedding'), ('unembed', 'kernel')):
      axis = path[0] == 'unembed'
      rows = [(0, 0), (0, 0)]
      rows[axis] = (0, PADDED - leaf.shape[axis])
      leaf = np.pad(leaf, rows, constant_values=np.inf)  # never to be seen
    return leaf

  padded = params_lib.unflatten(
      (p, pad(p, np.asarray(x))) for p, x in params_lib.flatten(params))
  formats.write_safetensors(
      path, layouts.write_params(padded, family.rules(config)))
  (path / 'config.json').write_text(json.dumps(config_json))
  Tokenizer.bytes(Tags(new_tokens=(), eoc=None)).save(path)


def write_clip(path, module, params):
  formats.write_safetensors(path, layouts.write_params(
      params, vit.vision_rules(module, ours='', embed=True)))
  config = CLIP | dict(
      hidden_size=module.width, num_attention_heads=module.heads)
  (path / 'config.json').write_text(json.dumps(config))


def read(toy, path, **kwargs):
  kwargs = dict(lm=toy.lm, vision=toy.vision, progress=False) | kwargs
  return load(path, **kwargs)


def tensors_of(path):
  return {name: x.read() for name, x in formats.open_weights(path).items()}


def write(path, tensors):
  formats.write_safetensors(path, tensors.items())
  return path


def assert_same(expected, came):
  params_lib.check_same(expected, came, 'file')
  jax.tree.map(np.testing.assert_array_equal, came, expected)


def releaser(tmp_path):
  """(toy) to the path of what OpenFlamingo would release of it."""
  def make(toy):
    path = tmp_path / 'checkpoint.safetensors'
    openflamingo.save(path, toy.model, toy.params, toy.family)
    return path
  return make
