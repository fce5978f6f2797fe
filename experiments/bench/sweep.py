"""A sweep of shots and seeds, against OpenFlamingo's evaluation.

One model on both sides: SmolLM2 with gated blocks and a resampler of
OpenFlamingo's architecture, made-up weights in those, EfficientNet-Lite0 in
front. The same prompts, token by token. OpenFlamingo's evaluation encodes every
image of every prompt, reads every prompt, and reads candidate after candidate;
ours encodes an image once and reads once what prompts have in common.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import build
from experiments import cells as cells_lib
from experiments.bench import peer_needs
from experiments.bench.apart import apart
from experiments.bench.made import make_params, openflamingo_like
from experiments.bench.quickstart import Quickstart
from experiments.bench.sweep_sides import Ours, Peer, Sweep, time_sweep
from flamingo.eval.decode import Predictor
from flamingo.model.vision.grid import pool_grid
from flamingo.pretrained.efficientnet import find_package_file

ABOUT = "Five shot counts x three seeds on emoji, against OpenFlamingo's loop"
COST = 170
SHOTS = (0, 1, 2, 4, 8)
TASKS = (
    'openmoji_binding', 'openmoji_binding_subgroup', 'openmoji_category')


def run(quickstart: Quickstart) -> dict:
  """The three emoji tasks, 2-way, of 400 queries each.

  In a process of its own: the memory settings of training are not torch's.
  """
  peer_needs.check()
  with apart(_comparison, quickstart.config, quickstart.path) as compare:
    return compare()


def _comparison(config: ml_collections.ConfigDict, path: str):
  return functools.partial(_compare, Quickstart(config, path))


def _compare(quickstart: Quickstart) -> dict:
  of = peer_needs.load()
  frozen, pictures = quickstart.frozen, quickstart.pictures
  config, tokenizer = quickstart.config, frozen.tokenizer
  model = openflamingo_like(
      frozen.lm, every=config.model.every,
      visual_width=pictures.store.shape[1])
  params = make_params(model, (1, *pictures.store.shape))
  params['lm'] = build.frozen_params(frozen, 'bfloat16')['lm']

  side, drawings = config.data.grid, pictures.drawings
  see = jax.jit(lambda pixels: pool_grid(
      frozen.vision.apply({'params': frozen.vision_params}, pixels), side))
  ours = Ours(
      predictor=Predictor(
          model, params, pictures.features, never=tokenizer.unsaid_ids,
          pad_id=tokenizer.pad_id),
      tokenizer=tokenizer, features=pictures.features,
      encode=lambda pixels: see(jnp.asarray(pixels)),
      pixels=lambda row: drawings[row]())
  weights = str(find_package_file(config.frozen.vision))
  peer = Peer(
      of, lambda: _peer_model(of, frozen, model, params, weights, side),
      tokenizer, ours.pixels)
  return time_sweep(
      Sweep(cells=lambda seed, n: cells_lib.build_cells(
          _cells_config(seed, n), pictures, tokenizer), queries=400),
      ours, peer)


def _peer_model(of, frozen, model, params, weights, side):
  peer = of.build(
      frozen.lm, every=model.every, visual_width=model.resampler.width,
      encoder=of.Timed(of.Lite0(weights, side)))
  of.copy_params(peer, model, jax.tree.map(np.asarray, params))
  return peer


def _cells_config(seed: int, n: int) -> ml_collections.ConfigDict:
  """As experiments/configs/fewshot.py has them."""
  D = ml_collections.ConfigDict
  return D(dict(
      split='test', seed=seed, n=n, output='', captions=0, questions=0,
      families=tuple(
          D(dict(task=task, style='same', ways=2, shots=SHOTS))
          for task in TASKS)))
