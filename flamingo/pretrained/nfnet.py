"""NFNet by its names in timm, which has DeepMind's weights of F0 to F6."""

from collections.abc import Mapping
import functools
import hashlib
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flamingo.model.products import Dtype
from flamingo.model.vision.nfnet import NFNet, STRIDE, TIMM, VARIANTS
from flamingo.pretrained import formats, layouts
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.rules import Rule
from flamingo.pretrained.vision import VisionInfo
from flamingo.types import Params

# timm's convolutions in a block, and ours.
_CONVS = {
    'conv1': 'narrow', 'conv2': 'spread', 'conv2b': 'spread_again',
    'conv3': 'widen'}
# Axes: o outputs, i inputs, h height, w width.
_KERNEL, _DENSE, _SAME = 'o i h w -> h w i o', 'o i -> i o', 'o -> o'


def load_nfnet(
    path: str | os.PathLike,
    *,
    conventions: Mapping[str, Any] = TIMM,
    final_conv: bool = True,
    image_size: int | None = None,
    classifier: bool = False,
    dtype: Dtype = np.float32,
    place: layouts.Place = layouts.as_they_are,
) -> tuple[NFNet, Params, VisionInfo]:
  """Loads an NFNet from a file of timm's dm_nfnet_f0 to dm_nfnet_f6.

  Args:
    path: a file, or a directory with one.
    conventions: `nfnet.TIMM` computes what timm computes; `nfnet.DEEPMIND` what
      the weights were trained with, which differs a little.
    final_conv: see `NFNet`.
    image_size: height and width of the images, in pixels; None for the size it
      was trained on.
    classifier: whether the parameters include those of `classify`, which the
      features do not need.
    dtype: type of the parameters and of the operands.
    place: puts a leaf where it belongs, as soon as it is read and cast.

  Returns:
    The module; its parameters, the tree of `module.init(...)['params']`; and
    what there is to know about it.

  Raises:
    FileNotFoundError: there are no weights.
    ValueError: the file is damaged, or of something else; or the size is not
      given and not one of F0 to F6.
  """
  path = pathlib.Path(path)
  tensors = formats.open_weights(path)
  module = NFNet(
      **nfnet_config(tensors), **conventions, final_conv=final_conv,
      dtype=dtype)
  if image_size is None:
    image_size = _trained_at(module.depths)
  digest = hashlib.sha256(
      repr((final_conv, image_size, sorted(conventions.items()))).encode())

  def put(leaf_path, leaf):
    if leaf_path[0] != 'classifier':  # features do not depend on it
      digest.update(np.ascontiguousarray(leaf).tobytes())
    return place(leaf_path, leaf.astype(dtype))

  images = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.uint8)
  init = functools.partial(
      module.init, method='classify' if classifier else None)
  ignored = {}
  if not classifier:
    ignored[r'head\.fc\..*'] = 'the classifier'
  if not classifier and not final_conv:
    ignored[r'final_conv\..*'] = 'features are taken before it'
  params, _ = layouts.read_params(
      tensors,
      nfnet_rules(
          module, ours='', final_conv=final_conv or classifier,
          classifier=classifier),
      jax.eval_shape(init, jax.random.key(0), images)['params'],
      what='NFNet', place=put, ignored=ignored)
  return module, params, VisionInfo(
      name=path.name, image_size=image_size,
      features=(-(-image_size // STRIDE)) ** 2, width=module.width,
      fingerprint=digest.hexdigest(), fit='squash')


def nfnet_config(tensors: Mapping[str, Stored]) -> dict[str, Any]:
  """The sizes of an NFNet from its tensors in timm's layout: arguments of it.

  Raises:
    ValueError: they are of something else.
  """
  if 'stages.3.0.skipinit_gain' not in tensors:
    raise ValueError(
        "Expected timm's names of a dm_nfnet, such as "
        f'stages.3.0.skipinit_gain; came {layouts.some(tensors)}.')
  first = [
      re.fullmatch(r'stages\.(\d)\.\d+\.conv1\.weight', name)
      for name in tensors]
  stages = [match[1] for match in first if match]
  outputs = lambda name: tensors[f'{name}.weight'].shape[0]
  classes = (
      dict(classes=outputs('head.fc')) if 'head.fc.weight' in tensors else {})
  return dict(
      **classes,
      depths=tuple(stages.count(str(i)) for i in range(4)),
      widths=tuple(outputs(f'stages.{i}.0.conv3') for i in range(4)),
      stem=tuple(outputs(f'stem.conv{i}') for i in range(1, 5)),
      # A grouped kernel has the inputs of one group.
      group_size=tensors['stages.0.0.conv2.weight'].shape[1])


def nfnet_rules(
    nfnet: NFNet,
    *,
    prefix: str = '',
    ours: str = 'vision/',
    final_conv: bool = True,
    classifier: bool = False,
) -> list[Rule]:
  """How tensors in timm's layout become the parameters of an NFNet.

  Args:
    nfnet: tells which blocks there are.
    prefix: what precedes their names.
    ours: what precedes our paths.
    final_conv: whether the last convolution is read.
    classifier: whether the classifier is read.
  """
  rules = []
  for i in range(4):
    rules += _conv_rules(f'{prefix}stem.conv{i + 1}', f'{ours}stem_conv_{i}')
  number = 0
  for stage, depth in enumerate(nfnet.depths):
    for i in range(depth):
      theirs = f'{prefix}stages.{stage}.{i}'
      rules += _block_rules(theirs, f'{ours}block_{number}', shortcut=i == 0)
      number += 1
  if final_conv:
    rules += _conv_rules(f'{prefix}final_conv', f'{ours}final')
  if classifier:
    rules += _linear_rules(
        f'{prefix}head.fc', f'{ours}classifier', _DENSE)
  return rules


def _block_rules(theirs: str, ours: str, shortcut: bool) -> list[Rule]:
  convs = dict(_CONVS)
  if shortcut:
    convs['downsample.conv'] = 'shortcut'
  rules = [Rule.of(f'{theirs}.skipinit_gain', f'{ours}/skip_gain', ' -> ')]
  for name, conv in convs.items():
    rules += _conv_rules(f'{theirs}.{name}', f'{ours}/{conv}')
  for name, linear in dict(fc1='down', fc2='up').items():
    rules += _linear_rules(
        f'{theirs}.attn_last.{name}', f'{ours}/excite/{linear}',
        'o i 1 1 -> i o')
  return rules


def _conv_rules(theirs: str, ours: str) -> list[Rule]:
  return [
      Rule.of(f'{theirs}.weight', f'{ours}/kernel', _KERNEL),
      Rule.of(f'{theirs}.gain', f'{ours}/gain', 'o 1 1 1 -> o'),
      Rule.of(f'{theirs}.bias', f'{ours}/bias', _SAME),
  ]


def _linear_rules(theirs: str, ours: str, layout: str) -> list[Rule]:
  return [
      Rule.of(f'{theirs}.weight', f'{ours}/kernel', layout),
      Rule.of(f'{theirs}.bias', f'{ours}/bias', _SAME),
  ]


def _trained_at(depths: tuple[int, ...]) -> int:
  for variant in VARIANTS.values():
    if variant.depths == depths:
      return variant.train_size
  raise ValueError(
      f'Stages of {depths} blocks are none of F0 to F6, so nothing tells the '
      'size of its images. Give `image_size`.')
