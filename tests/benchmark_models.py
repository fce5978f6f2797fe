"""A tiny Flamingo with eyes, and a task of one's own, for tests."""

import json
import pathlib

from benchmark_files import picture
from experiments import benchmark
from experiments.configs import benchmarks as config_lib
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval import harness
from flamingo.model.vision.vit import ViT
from flamingo.pretrained.layouts import Report
from flamingo.pretrained.load import Loaded
from flamingo.pretrained.vision import VisionInfo
import jax
import jax.numpy as jnp
import pytest

SIZE = 9
TOKENIZER = Tokenizer.bytes()
BIRDS = ('wren', 'robin', 'wren tit')  # one is the beginning of another
QUERIES, SUPPORT = 11, 13
# What all files of a process share: models by seed, and what is compiled.
_SEEING, _PREDICTORS = {}, {}


def seeing(tiny, random_params, *, seed: int = 0) -> Loaded:
  """A tiny Flamingo of bytes, as `flamingo.load` gives one; each made once."""
  if seed in _SEEING:
    return _SEEING[seed]
  # As shallow as can be, since most of the time is compiling its programs.
  model = tiny.model.clone(
      lm=tiny.model.lm.clone(layers=2), xattn=tiny.model.xattn[:1],
      vision=ViT(
          patch=3, width=14, layers=1, heads=2, hidden=17, image_size=SIZE,
          class_token=False),
      resampler=tiny.model.resampler.clone(visual_width=14, layers=1))
  pixels = jnp.zeros((1, 1, 1, SIZE, SIZE, 3), jnp.uint8)
  tokens = jnp.zeros((1, 2), jnp.int32)
  return _SEEING.setdefault(seed, loaded(
      model, random_params(model, pixels, tokens, tokens, seed=seed)))


def loaded(model, params) -> Loaded:
  """The same of a model that is there already."""
  return Loaded(
      model=model, params=params, tokenizer=TOKENIZER,
      vision=VisionInfo(
          name='toy', image_size=SIZE, features=9, width=14, fingerprint='a',
          fit='squash'),
      report=Report({}, {}, {}))


def birds(root: pathlib.Path, *, ranked: bool) -> None:
  """Questions about birds: `birds/query.jsonl` and `birds/support.jsonl`.

  Some pictures of the support are those of queries, under other names.
  """
  for split, count in (('query', QUERIES), ('support', SUPPORT)):
    lines = []
    for i in range(count):
      path = f'birds/{split}/{i}.png'
      picture(root / path, seed=i)  # picture i of both splits is the same
      lines.append({
          'id': f'{split} {i}', 'image': path,
          'question': f'which bird is it, {"o" * (i % 3)}?',
          'answer': BIRDS[i % 3]}
          | ({'candidates': BIRDS} if ranked else {}))
    (root / f'birds/{split}.jsonl').write_text(
        ''.join(json.dumps(line) + '\n' for line in lines))


def config_of(cache: pathlib.Path, *, ranked: bool = True, **changes):
  """The config of the benchmarks, asking about birds alone."""
  config = config_lib.get_config()
  own = dict(
      name='birds', query='birds/query.jsonl', support='birds/support.jsonl',
      template='qa', metric='top1', open_ended=not ranked, max_tokens=5)
  return config.to_dict() | dict(
      own=(own,), tasks=('birds',), shots=(0, 1, 3), seeds=(0,),
      cache=str(cache), chunk=4, tokens_at_once=512, beams=1) | changes


def compile_once(patch, quick_jit) -> None:
  """Lets one predictor serve all evaluations: most of their time is compiling.

  Its results depend neither on when it was made nor on its batches.
  """
  def predictor(
      model, params, pictures, tokenizer, *, tokens_at_once, mesh=None):
    assert mesh is None
    if id(params) not in _PREDICTORS:
      with pytest.MonkeyPatch.context() as quick:
        quick.setattr(jax, 'jit', quick_jit)
        _PREDICTORS[id(params)] = params, harness.PicturePredictor(
            model, params, pictures, tokenizer, tokens_at_once=tokens_at_once)
    found = _PREDICTORS[id(params)][1]
    found.features, found.tokens_at_once = pictures.latents, tokens_at_once
    return found

  patch.setattr(benchmark, 'make_predictor', predictor)
