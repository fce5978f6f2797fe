"""`experiments.train` with a tiny language model and pictures made of numbers.

A program, as users run it, for tests that need several devices or processes:

  python tests/tiny_training.py --config=... --workdir=... --devices=4 [flags]

Everything is real but the frozen parts and the pictures, which would have to be
read from packages.
"""

import functools
import time

from absl import app
from absl import flags
from experiments import build
from experiments import data as data_lib
from experiments import train
from flamingo.data.easy_vqa import Question
from flamingo.data.episodes import Gallery
from flamingo.data.openmoji import Emoji
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.lm import LM
from flamingo.sharding import rules
import jax
import jax.numpy as jnp
import numpy as np

DEVICES = flags.DEFINE_integer('devices', 1, 'CPU devices of this process.')
SLOW = flags.DEFINE_float('slow', 0.0, 'Seconds that each row takes to draw.')
LM_SIZES = dict(
    vocab_size=259, width=24, layers=2, heads=4, kv_heads=2, head_dim=6,
    hidden=20)
FEATURES = (3, 10)  # of a picture


class Numbers:
  """Stands for a feature store: what is in a row is its number."""

  shape, dtype = FEATURES, np.dtype(np.float32)

  def __getitem__(self, rows):
    time.sleep(SLOW.value)
    places = np.arange(1, 1 + np.prod(FEATURES)).reshape(FEATURES)
    return np.sin(np.asarray(rows)[..., None, None] * places).astype(np.float32)


def load_frozen(config) -> build.Frozen:
  del config
  shapes = jax.eval_shape(
      LM(**LM_SIZES).init, jax.random.key(0), jnp.zeros((1, 2), int))['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32),
      shapes)
  return build.Frozen(
      lm=LM_SIZES, lm_params=params, tokenizer=Tokenizer.bytes(), vision=None,
      vision_params={}, image_size=8, feature_shape=FEATURES,
      fingerprints={'lm': 'tiny', 'vision': 'numbers'})


def load_pictures(config, frozen) -> data_lib.Pictures:
  del config, frozen

  def gallery(first):
    emoji = [
        Emoji(hexcode=f'{first}-{i}', name=f'thing {i}', group='g',
              subgroup='s', colour=b'', line=b'%d' % i) for i in range(20)]
    return Gallery(emoji, first + np.arange(40).reshape(20, 2, 1))

  question = Question(b'', 0, 'is it red?', 'yes')
  return data_lib.Pictures(
      store=Numbers(), blank=0, drawings={},
      galleries={s: gallery(1 + 40 * i) for i, s in enumerate(
          ('train', 'validation', 'test'))},
      questions={s: ([question], [0]) for s in ('train', 'test')})


def main(argv):
  jax.config.update('jax_num_cpu_devices', DEVICES.value)
  build.load_frozen, data_lib.load_pictures = load_frozen, load_pictures
  rules.SMALL = 2  # nothing is too small to be split
  jax.jit = functools.partial(jax.jit, compiler_options={
      'xla_backend_optimization_level': 0,
      'xla_llvm_disable_expensive_passes': True})
  train.main(argv)


if __name__ == '__main__':
  app.run(main)
