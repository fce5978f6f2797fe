"""How one family of language models is published: its config and its names."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from flamingo import params as params_lib
from flamingo.model.lm import LM
from flamingo.pretrained.families.fields import Fields
from flamingo.pretrained.rules import Rule
from flamingo.types import Params

# Their name to our leaf, or leaves fused in it, and the layout. In all tables
# the axes are m width, h heads, k key heads, d head dim, f hidden, v
# vocabulary, p positions, n what is fused.
Table = Mapping[str, tuple[str | tuple[str, ...], str]]

QKV = tuple(f'attn/{name}/kernel' for name in ('query', 'key', 'value'))
QKV_BIAS = tuple(f'attn/{name}/bias' for name in ('query', 'key', 'value'))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A family of language models in the layout of Hugging Face.

  A published name is trunk + name of `top`, or trunk + layer + '.' + name of
  `block`; the output projection stands outside of the trunk. The tables name
  what any member of the family may have. Which of it a model has, a bias say,
  the parameters of its `LM` tell.

  Attributes:
    config: reads the arguments of `LM` from the fields of config.json.
    trunks: what the names begin with. The first is that of a whole model; files
      of the model without its output projection leave it out.
    top: tensors of the trunk outside of layers, the embedding first.
    layer: name of a layer, with '{}' for its number.
    block: tensors of a layer.
    head: the output projection.
    ignored: patterns of names, and why those tensors have no use.
  """

  config: Callable[[Fields], dict[str, Any]]
  trunks: tuple[str, ...]
  top: Table
  layer: str
  block: Table
  head: Table
  ignored: Mapping[str, str]

  def find_trunk(self, names: Iterable[str], prefix: str = '') -> str:
    """Which of `trunks` a file has, by the name of its embedding."""
    names, embedding = set(names), next(iter(self.top))
    for trunk in self.trunks:
      if f'{prefix}{trunk}{embedding}' in names:
        return trunk
    return self.trunks[0]

  def rules(
      self,
      config: Mapping[str, Any],
      *,
      prefix: str = '',
      trunk: str | None = None,
      layer: str = '{}',
      ours: str = '',
  ) -> list[Rule]:
    """How the published tensors of one model become the parameters of `LM`.

    Args:
      config: arguments of `LM`.
      prefix: what stands before all names, 'lang_encoder.' for one.
      trunk: one of `trunks`, or what stands for them; None takes the first.
      layer: how a layer is wrapped: '{}.decoder_layer', where '{}' is its own
        name, 'layers.3'.
      ours: path of the language model in the tree of parameters, 'lm/'.
    """
    trunk = prefix + (self.trunks[0] if trunk is None else trunk)
    has, layer_has = _leaves(config)
    rules = _rules(self.top, has, trunk, ours)
    for i in range(config['layers']):
      name = layer.format(self.layer.format(i))
      rules += _rules(
          self.block, layer_has, f'{trunk}{name}.', f'{ours}layer_{i}/')
    return rules + _rules(self.head, has, prefix, ours)

  def unused(
      self, config: Mapping[str, Any], *, prefix: str = ''
  ) -> dict[str, str]:
    """Patterns of names that have no use in one model, and why."""
    ignored = {
        re.escape(prefix) + pattern: why
        for pattern, why in self.ignored.items()}
    if config['tied']:
      ignored |= {
          re.escape(prefix + name): 'the output projection is the embedding'
          for name in self.head}
    return ignored


def _rules(
    table: Table, has: set[str], theirs: str, ours: str
) -> list[Rule]:
  """Rules of a table, for the leaves that there are."""
  rules = []
  for name, (leaves, layout) in table.items():
    leaves = (leaves,) if isinstance(leaves, str) else leaves
    if has.issuperset(leaves):
      rules.append(
          Rule.of(theirs + name, [ours + leaf for leaf in leaves], layout))
  return rules


def shapes(config: Mapping[str, Any]) -> Params:
  """Shapes of the parameters of an `LM` with these arguments."""
  return jax.eval_shape(
      LM(**config).init, jax.random.key(0),
      jax.ShapeDtypeStruct((1, 1), jnp.int32))['params']


def _leaves(config: Mapping[str, Any]) -> tuple[set[str], set[str]]:
  """Paths of the parameters of an LM outside of layers, and in each layer."""
  tree = shapes(dict(config, layers=1))
  paths = {'/'.join(path) for path, _ in params_lib.flatten(tree)}
  inside = {path for path in paths if path.startswith('layer_0/')}
  return paths - inside, {path.removeprefix('layer_0/') for path in inside}
