"""A published Flamingo: its model, and the files that its parameters come from.

Each layout has a file: `openflamingo`, `otter`, `idefics`, `flamingo_mini` and
`native`. It finds out the architecture from what is published, and says by
which rules the tensors become ours; reading them is the same for all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import hashlib
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flamingo import params as params_lib
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.flamingo import Flamingo
from flamingo.pretrained import layouts
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.layouts import Place, Report, Rule
from flamingo.pretrained.vision import VisionInfo
from flamingo.types import Params

Progress = Callable[[Iterable, str], Iterable]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """Tensors of one file or directory, and how they become parameters.

  Attributes:
    what: a noun for messages: 'OpenFlamingo checkpoint'.
    tensors: by their published names.
    rules: how they become ours.
    ignored: patterns of their names, and why those have no use.
  """

  what: str
  tensors: Mapping[str, Stored]
  rules: Sequence[Rule]
  ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
  """A published Flamingo that was found and understood, and not yet read.

  Attributes:
    model: of the architecture that the files say.
    parts: where its parameters come from.
    tokenizer: of its language model, with the new tokens it was trained with.
    vision: what there is to know of its vision encoder; what its fingerprint
      is, only the weights tell.
    shapes: of all its parameters.
    absent: patterns of our paths, and why no file has them. They become zero.
  """

  model: Flamingo
  parts: tuple[Part, ...]
  tokenizer: Tokenizer
  vision: VisionInfo
  shapes: Params
  absent: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def read(
      self,
      place: Place = layouts.as_they_are,
      progress: Progress = lambda rules, what: rules,
  ) -> tuple[Params, VisionInfo, Report]:
    """Reads the parameters, one tensor after another.

    Args:
      place: casts a leaf and puts it where it belongs, as soon as it is read.
      progress: wraps the iteration over the rules of a part, by its noun.

    Raises:
      ValueError: a tensor is missing, left over without a reason, or of another
        shape than the model's. Nothing has been read then.
    """
    shapes = dict(params_lib.flatten(self.shapes))
    covered = {
        path for part in self.parts for rule in part.rules
        for path in rule.paths}
    lacking = {p: x for p, x in shapes.items() if p not in covered}
    _, report = layouts.read_params(
        {}, [], params_lib.unflatten(lacking.items()), absent=self.absent,
        what=' with the '.join(part.what for part in self.parts))
    digest = hashlib.sha256(repr(self.model.vision).encode())

    def put(path, leaf):
      if path[0] == 'vision':
        digest.update(np.ascontiguousarray(leaf).tobytes())
      return place(path, leaf)

    for part in self.parts:
      # Without a rule to follow it is only checked.
      _read_part(part, shapes, put, progress=lambda rules: [])
    params = params_lib.unflatten(
        (path, put(path, np.zeros(x.shape, np.float32)))
        for path, x in lacking.items())
    for part in self.parts:
      came, said = _read_part(
          part, shapes, put,
          progress=lambda rules, what=part.what: progress(rules, what))
      params, report = params_lib.merge(params, came), report + said
    info = self.vision
    if not info.fingerprint:
      info = dataclasses.replace(info, fingerprint=digest.hexdigest())
    return params, info, report


def _read_part(part, shapes, place, progress):
  paths = [path for rule in part.rules for path in rule.paths]
  expected = params_lib.unflatten(
      (path, shapes[path]) for path in paths if path in shapes)
  return layouts.read_params(
      part.tensors, part.rules, expected, what=part.what, place=place,
      ignored=part.ignored, progress=progress)


def parameter_shapes(
    model: Flamingo, info: VisionInfo, *, embed: bool = False
) -> Params:
  """Shapes of all parameters of a model.

  Args:
    model: with its vision encoder, or for features.
    info: tells the size of pictures, or of features.
    embed: whether those are among them that only `vision.embed` needs.
  """
  images = jax.ShapeDtypeStruct(
      (1, 1, 1, info.image_size, info.image_size, 3), jnp.uint8)
  if model.vision is None:
    images = jax.ShapeDtypeStruct(
        (1, 1, 1, info.features, info.width), jnp.float32)

  def run(model, images, tokens, index):
    if embed:
      model.vision.embed(images[0, 0])
    return model(images, tokens, index)

  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  return jax.eval_shape(
      lambda *inputs: model.init(*inputs, method=run), jax.random.key(0),
      images, tokens, tokens)['params']


def arguments(module: nn.Module) -> dict[str, Any]:
  """What a module was built with."""
  return {
      field.name: getattr(module, field.name)
      for field in dataclasses.fields(module)
      if field.name not in ('parent', 'name')}


def rename(name: str, names: Mapping[str, str]) -> str:
  """A name as another file has it.

  Args:
    name: that one knows.
    names: patterns and what they become, one after another, as in `re.sub`.
  """
  for pattern, new in names.items():
    name = re.sub(pattern, new, name)
  return name


def renamed(rules: Iterable[Rule], names: Mapping[str, str]) -> list[Rule]:
  """The same rules for a file that names tensors otherwise, see `rename`."""
  return [
      dataclasses.replace(rule, theirs=rename(rule.theirs, names))
      for rule in rules]
