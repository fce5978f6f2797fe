"""Loads a checkpoint of a published size that you do not have, and its peak.

  python -m experiments.rehearse --directory=/tmp/openflamingo-9b

Random weights are written in OpenFlamingo-9B's names, shapes and shards (17 GB
of disk), and loaded as a download would be, in a process of its own whose peak
memory is printed beside the bound: 1.3 times the model and its largest shard.
Run again, it loads what is there.
"""

from collections.abc import Iterator
import json
import math
import pathlib
import subprocess
import sys
import time

from absl import app, flags
import ml_dtypes
import numpy as np
import tokenizers
import tqdm

from experiments import convert
from flamingo import params as params_lib
from flamingo.data.tags import OPENFLAMINGO_UNPADDED
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.vision.vit import ViT
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import formats
from flamingo.pretrained import load as load_lib
from flamingo.pretrained import vit, vit_config
from flamingo.pretrained.families import FAMILIES
from flamingo.pretrained.flamingo import parameter_shapes
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.rules import Rule
from flamingo.pretrained.lm import lm_config
from flamingo.pretrained.openflamingo_rules import rules
from flamingo.pretrained.tower import tower_info

# OpenFlamingo-9B: MPT-7B, a gated block before every fourth layer, and CLIP
# ViT-L/14. Fewer layers, by --layers, try this script in a minute.
TEXT = dict(
    model_type='mpt', d_model=4096, n_heads=32, n_layers=32,
    expansion_ratio=4, vocab_size=50280, no_bias=True,
    attn_config=dict(alibi=True))
VISION = dict(
    model_type='clip_vision_model', hidden_size=1024, intermediate_size=4096,
    num_hidden_layers=24, num_attention_heads=16, image_size=224,
    patch_size=14, hidden_act='quick_gelu', projection_dim=768)
EVERY = 4
TOKENS = 50277  # of GPT-NeoX's tokenizer

_DIRECTORY = flags.DEFINE_string(
    'directory', None, 'Where the checkpoint is, or is to be.', required=True)
_LAYERS = flags.DEFINE_integer(
    'layers', TEXT['n_layers'], 'Depth of the language model.')
_SHARD = flags.DEFINE_float(
    'shard_gigabytes', 5.0, 'Most bytes in a file, in 10**9.')
_LOAD = flags.DEFINE_boolean(
    'load', False, 'Only load: what the process of its own does.')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  directory = pathlib.Path(_DIRECTORY.value)
  if _LOAD.value:
    load(directory)
    return
  if not (directory / 'config.json').exists():
    write(directory, _LAYERS.value, _SHARD.value * 1e9)
  subprocess.run(
      [sys.executable, '-m', 'experiments.rehearse', f'--directory={directory}',
       '--load'], check=True)


def write(directory: pathlib.Path, layers: int, shard_bytes: float) -> None:
  """Writes random weights, shard by shard; the config comes last."""
  text = TEXT | dict(n_layers=layers)
  tensors = list(random_tensors(text))
  size = sum(tensor.nbytes for _, tensor in tensors)
  with tqdm.tqdm(
      total=size, desc=f'Writing {directory}', unit='B', unit_scale=True
  ) as bar:
    formats.write_safetensors(
        directory, ((name, counted(tensor, bar)) for name, tensor in tensors),
        max_shard_bytes=shard_bytes)
  filler_tokenizer(TOKENS).save(directory)
  (directory / 'config.json').write_text(json.dumps(dict(
      model_type='flamingo', cross_attn_every_n_layers=EVERY, text_config=text,
      vision_config=VISION), indent=2))


def random_tensors(text: dict) -> Iterator[tuple[str, Stored]]:
  """Every tensor of the model by its published name, made when it is read."""
  family = FAMILIES[text['model_type']]
  config = dict(lm_config(text), vocab_size=TOKENS)
  places = gated_layers(config['layers'], EVERY, EVERY - 1)
  tower = ViT(
      **vit_config.vit_config(dict(vision_config=VISION), 'clip'),
      features='patches')
  width = VISION['hidden_size']
  model = Flamingo(
      lm=LM(**config),
      resampler=PerceiverResampler(
          visual_width=width, width=width, heads=8, head_dim=64,
          activation='gelu', frames=0),
      xattn=[
          GatedCrossAttention(
              width=config['width'], visual_width=width, heads=8, head_dim=64,
              ff_hidden=4 * config['width'], activation='gelu',
              norm_visual=False) for _ in places],
      every=EVERY, offset=EVERY - 1, new_tokens=text['vocab_size'] - TOKENS,
      vision=tower)
  shapes = dict(params_lib.flatten(parameter_shapes(
      model, tower_info(tower, name='CLIP', fit='crop'))))
  every_rule = rules(model, family) + vit.vision_rules(
      tower, prefix='vision_encoder.vision_model.')
  for number, rule in enumerate(every_rule):
    if all(path in shapes for path in rule.paths):
      yield rule.theirs, random_tensor(rule, shapes, number)


def random_tensor(rule: Rule, shapes: dict, seed: int) -> Stored:
  """A tensor of the shape that a rule gives it, in bfloat16."""
  shape = rule.their_shape([shapes[path].shape for path in rule.paths])

  def read() -> np.ndarray:
    rng = np.random.default_rng(seed)
    flat = np.empty(math.prod(shape), ml_dtypes.bfloat16)
    for start in range(0, flat.size, 1 << 24):  # in float32 no more than this
      part = flat[start:start + (1 << 24)]
      part[:] = rng.standard_normal(part.size, np.float32) * np.float32(0.02)
    return flat.reshape(shape)

  return Stored(shape, np.dtype(ml_dtypes.bfloat16), read, 'random')


def counted(tensor: Stored, bar: tqdm.tqdm) -> Stored:
  """The same tensor, which tells the bar when it is read."""
  def read() -> np.ndarray:
    bar.update(tensor.nbytes)
    return tensor.read()
  return Stored(tensor.shape, tensor.dtype, read, tensor.file)


def filler_tokenizer(size: int) -> Tokenizer:
  """A tokenizer of bytes, and of words that nobody writes up to `size`."""
  special = ['<|endoftext|>', '<|padding|>']
  words = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()) + special
  words += [f'filler{i}' for i in range(size - len(words))]
  return Tokenizer.from_bpe(
      words, [], special=special, bos='<|endoftext|>', eos='<|endoftext|>',
      pad='<|endoftext|>', tags=OPENFLAMINGO_UNPADDED)


def load(directory: pathlib.Path) -> None:
  """Loads the checkpoint in bfloat16 and prints what it took."""
  shards = [file.stat().st_size for file in directory.glob('*.safetensors')]
  before, start = convert.peak_gigabytes(), time.monotonic()
  loaded = load_lib.load(directory, dtype=ml_dtypes.bfloat16)
  seconds = time.monotonic() - start
  size = sum(convert.parts(loaded).values()) * 2 / 1e9
  bound = 1.3 * (size + max(shards) / 1e9)
  peak = convert.peak_gigabytes()
  print(convert.describe(loaded))
  print(
      f'{len(shards)} files, model {size:.2f} GB in bfloat16, read in '
      f'{seconds:.0f} s. Peak memory {peak:.2f} GB (before reading '
      f'{before:.2f}); bound 1.3 x (model + largest shard) = {bound:.2f} GB: '
      f'{"kept" if peak <= bound else "BROKEN"}.')
  if peak > bound:
    sys.exit(1)


if __name__ == '__main__':
  app.run(main)
