"""Counts a config's parameters, from shapes alone.

  python -m experiments.plan --config=experiments/configs/flamingo.py:80b
"""

from absl import app
import jax
import jax.numpy as jnp
from ml_collections import config_flags

from experiments import build
from flamingo import params as params_lib
from flamingo.types import Params

CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)

_KNOWN = (
    'lm', 'visual', 'model', 'whitening', 'resampler', 'xattn', 'optimizer',
    'steps')


def shapes(config) -> Params:
  """Shapes of all parameters but the vision encoder's; nothing is allocated."""
  build.check_keys(config, _KNOWN, 'config')
  model = build.build_model(config, dict(config.lm), config.visual.width)
  images = jnp.zeros((1, 1, 1, config.visual.places, config.visual.width))
  tokens = jnp.zeros((1, 2), jnp.int32)
  return jax.eval_shape(
      lambda: model.init(jax.random.key(0), images, tokens, tokens))['params']


def counts(params: Params) -> dict[str, int]:
  """Parameters by part."""
  blocks = {k: v for k, v in params.items() if k.startswith('xattn')}
  return {
      'language model (frozen)': params_lib.count(params['lm']),
      'resampler': params_lib.count(params['resampler']),
      f'gated cross-attention ({len(blocks)} blocks)': params_lib.count(blocks),
      'new tokens': params_lib.count(
          {k: v for k, v in params.items() if k.startswith('new_')}),
  }


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  params = shapes(CONFIG.value)
  for name, count in counts(params).items():
    print(f'{name:<40}{count / 1e6:>12,.1f}M')
  total = params_lib.count(params)
  print(f"{'all but the vision encoder':<40}{total / 1e6:>12,.1f}M")


if __name__ == '__main__':
  app.run(main)
