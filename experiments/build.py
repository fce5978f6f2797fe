"""From a config to the library's objects: the only place that knows both.

Sections of a config mirror constructors,
`PerceiverResampler(**config.resampler)`, so a hyper-parameter is written once,
and a misspelt one is an error here.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import difflib
import inspect
from typing import Any

import jax
from jax.sharding import Mesh
import jax.numpy as jnp
import ml_collections
import numpy as np

from flamingo import params as params_lib
from flamingo import sharding
from flamingo.data.tokenizer import Tokenizer
from flamingo.model import induction
from flamingo.model import scan
from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.stack import Groups, stack
from flamingo.model.vision.efficientnet import EfficientNetLite
from flamingo.model.whitening import Whitening
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained import efficientnet
from flamingo.pretrained import lm as pretrained_lm
from flamingo.train.optimizer import make_optimizer
from flamingo.types import Params

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}

# What a frozen residual stream is measured on; any ordinary English would do.
_ORDINARY_TEXT = (
    'The little dog ran over the hill to find a red ball, and then it slept '
    'under the old tree until the evening came.')


def check_keys(
    section: Mapping[str, Any], known: Sequence[str], where: str
) -> None:
  """Raises ValueError that names an unknown key and the nearest known one."""
  for key in section:
    if key not in known:
      near = difflib.get_close_matches(key, known, n=1)
      hint = f' Did you mean {near[0]!r}?' if near else ''
      raise ValueError(
          f'Nothing reads config key {where}.{key}.{hint} Known keys: '
          f'{", ".join(sorted(known))}.')


def call(
    function: Callable, section: Mapping[str, Any], where: str, **given
) -> Any:
  """Calls a constructor with a section of the config and what is given.

  Raises:
    ValueError: a key is not an argument, or is given already.
  """
  known = [
      name for name in inspect.signature(function).parameters
      if name not in given and name not in ('parent', 'name')]
  check_keys(section, known, where)
  return function(**dict(section), **given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen:
  """The pretrained parts.

  Attributes:
    lm: arguments of `LM`.
    lm_params: float32 numpy.
    tokenizer: of the LM.
    vision: the encoder, of float pixels 0..255.
    vision_params: float32 numpy.
    image_size: pixels of a side.
    feature_shape: [S D] of an image.
    fingerprints: of the files, by part.
  """

  lm: dict[str, Any]
  lm_params: Params
  tokenizer: Tokenizer
  vision: EfficientNetLite
  vision_params: Params
  image_size: int
  feature_shape: tuple[int, int]
  fingerprints: dict[str, str]


def load_frozen(config: ml_collections.ConfigDict) -> Frozen:
  """Reads the vision encoder and the language model the config names."""
  check_keys(config.frozen, ('vision', 'lm'), 'config.frozen')
  if config.frozen.lm != 'smollm2-135m-instruct':
    raise ValueError(
        f'config.frozen.lm is {config.frozen.lm!r}; the pretrained language '
        "model that is known is 'smollm2-135m-instruct'.")
  path = pretrained_lm.find_smollm2()
  lm, lm_params, tokenizer = pretrained_lm.load_lm(path)
  vision, vision_params, info = efficientnet.load_efficientnet_lite(
      config.frozen.vision)
  return Frozen(
      lm=lm, lm_params=lm_params, tokenizer=tokenizer, vision=vision,
      vision_params=vision_params, image_size=info.image_size,
      feature_shape=(info.features, info.width),
      fingerprints={
          'lm': pretrained_lm.fingerprint(path), 'vision': info.fingerprint})


def build_model(
    config: ml_collections.ConfigDict,
    lm: Mapping[str, Any],
    visual_width: int,
    residual_rms: Sequence[float] | None = None,
    platform: str | None = None,
) -> Flamingo:
  """The network, without parameters and without the vision encoder.

  Args:
    config: sections `model`, `resampler`, `xattn`, `induction` if any.
    lm: arguments of `LM`.
    visual_width: width of the vision features.
    residual_rms: of the frozen LM before each layer, where the config asks to
      scale branches by it.
    platform: it is to run on; by default that of this process.
  """
  section = config.model
  check_keys(
      section, ('every', 'offset', 'dtype', 'scale_branches', 'first_gate',
                'new_tokens_like_words', 'remat', 'layers'),
      'config.model')
  if section.dtype not in DTYPES:
    raise ValueError(
        f'config.model.dtype is {section.dtype!r}, not one of {list(DTYPES)}.')
  dtype = DTYPES[section.dtype]
  whitening = None
  if config.whitening.width:
    whitening = call(
        Whitening, config.whitening, 'config.whitening',
        visual_width=visual_width)
    visual_width = whitening.width
  resampler = call(
      PerceiverResampler, config.resampler, 'config.resampler',
      visual_width=visual_width, dtype=dtype)
  blocks = []
  for i in gated_layers(lm['layers'], section.every, section.offset):
    scale = float(residual_rms[i]) if section.scale_branches else 1.0
    blocks.append(call(
        GatedCrossAttention, config.xattn, 'config.xattn', width=lm['width'],
        visual_width=resampler.width, branch_scale=scale, dtype=dtype))
  if section.first_gate is not None:
    # What it says at first stands for its picture, so it must say something.
    blocks[0] = blocks[0].clone(gate_init=section.first_gate, out_scale=1.0)
  path = None
  if config.get('induction', {}).get('strength'):
    path = _induction_path(config.induction, lm, visual_width)
  model = Flamingo(
      lm=LM(**lm, dtype=dtype), resampler=resampler, xattn=blocks,
      every=section.every, offset=section.offset, whitening=whitening,
      induction=path, remat=section.get('remat', 'none'))
  return model.clone(scan=choose_scan(
      model, section.get('layers', 'unrolled'), platform))


def _induction_path(section, lm, visual_width):
  section = dict(section, heads=tuple(map(tuple, section.heads)))
  induction.check_heads(LM(**lm), section['heads'])
  return call(
      induction.InductionPath, section, 'config.induction',
      visual_width=visual_width, tag=lm['vocab_size'])


def choose_scan(
    model: Flamingo, layers: str, platform: str | None = None
) -> bool:
  """Whether to scan over a model's layers: 'unrolled', 'scanned' or 'auto'.

  'auto' scans on accelerators, where compiling a deep model takes minutes, and
  not on a CPU, which runs unrolled layers faster.
  """
  if layers not in ('unrolled', 'scanned', 'auto'):
    raise ValueError(
        f'config.model.layers is {layers!r}; choose unrolled, scanned or auto.')
  groups = Groups.of(model.lm.layers, model.every, model.offset)
  if layers != 'auto' or groups is None:
    return layers == 'scanned'
  if (platform or jax.default_backend()) == 'cpu':
    return False
  if model.induction is not None:
    print('Layers stay unrolled. An induction path tells heads of some.')
    return False
  try:
    scan.check(model.lm, groups, model.xattn[:groups.count])
  except ValueError as error:
    print(f'Layers stay unrolled. {error}')
    return False
  return True


def measure_residual_rms(frozen: Frozen) -> np.ndarray:
  """RMS of the frozen LM's residual stream before each layer, on plain text."""
  lm = LM(**frozen.lm)
  tokens = jnp.asarray([frozen.tokenizer.encode(_ORDINARY_TEXT)])
  # The first token is an outlier in most LMs: all others look at it.
  rms = lm.apply({'params': frozen.lm_params}, tokens, method='residual_rms')
  return np.asarray(rms[:, 0, 1:]).mean(axis=1)


def init_trainable(
    model: Flamingo, feature_shape: tuple[int, int], seed: int,
    mesh: Mesh | None = None,
) -> Params:
  """First values of what is trained; the frozen parts are not made.

  On a mesh each device makes its shares, of the same values.
  """

  def init():
    images = jnp.zeros((1, 1, 1) + tuple(feature_shape))
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = model.init(jax.random.key(seed), images, tokens, tokens)['params']
    return params_lib.split(params)[0]

  where = None
  if mesh is not None:
    where = sharding.shardings(jax.eval_shape(init), mesh)
  return jax.jit(init, out_shardings=where)()


def rows_like_words(frozen: Frozen) -> np.ndarray:
  """First rows of `<image>` and `<EOC>`: an average word, and a new line.

  A frozen LM has learnt how to copy what stood behind a word that comes again,
  in lists with a line for each. A tag that is an average word, to which the
  first gated block adds its picture, is such a word.
  """
  embedding = np.asarray(frozen.lm_params['embed']['embedding'])
  words = frozen.tokenizer.single_token_words(4, 9)
  ids = [frozen.tokenizer.encode(' ' + word)[0] for word in words]
  return np.stack([
      embedding[ids].mean(axis=0),
      embedding[frozen.tokenizer.encode('\n')[0]]])


def frozen_params(
    frozen: Frozen, dtype: str, mesh: Mesh | None = None,
    groups: Groups | None = None,
) -> Params:
  """The LM's parameters as the network holds them.

  On a mesh they go from the host to their shares, never whole to one device.
  With `Flamingo.groups` of a model that scans over its layers they are stacked.
  """
  params = {'lm': jax.tree.map(
      lambda leaf: np.asarray(leaf, DTYPES[dtype]), frozen.lm_params)}
  params = stack(params, groups)
  if mesh is None:
    return jax.tree.map(jnp.asarray, params)
  return sharding.place(params, sharding.shardings(params, mesh))


def build_mesh(config: ml_collections.ConfigDict) -> Mesh:
  """The mesh of section `mesh`: without it, each device has its own rows."""
  return call(sharding.make_mesh, config.get('mesh', {}), 'config.mesh')


def build_optimizer(config: ml_collections.ConfigDict):
  """The optimizer of section `optimizer`."""
  return call(
      make_optimizer, config.optimizer, 'config.optimizer', steps=config.steps)


def keeps_average(config: ml_collections.ConfigDict) -> bool:
  """Whether a run with this config keeps a moving average of trainables."""
  return bool(config.get('step', {}).get('ema', 0.0))
