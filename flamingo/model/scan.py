"""How groups of layers are read: one by one, once more, or by a scan.

A scan compiles one group, however many there are, and a group that is read once
more in the backward pass need not be remembered.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from flamingo.model.cache import Place
from flamingo.model.decoder import Beside, Layer
from flamingo.model.lm import LM
from flamingo.model.stack import Groups, slices
from flamingo.model.xattn import GatedCrossAttention
from flamingo.sharding import Activations, ONE_DEVICE

REMAT = ('none', 'dots', 'full')

# What a gated block may be told anew for each group: numbers that change no
# shape and no branch of the program.
_NUMBERS = ('branch_scale', 'gate_init', 'ff_gate_init', 'out_scale')

_LAYOUT = (
    'reshape', 'broadcast_in_dim', 'transpose', 'squeeze', 'expand_dims')


def read_span(
    block: GatedCrossAttention | None,
    layers: Sequence[Layer],
    x: Float[Array, 'b l d'],
    caches: Sequence[tuple | None],
    latents: Float[Array, 'b n r c'],
    image_index: Int[Array, 'b l'],
    place: Place,
    *,
    beside: Sequence[Beside | None] | None = None,
    remat: str = 'none',
    activations: Activations = ONE_DEVICE,
) -> tuple[Float[Array, 'b l d'], list[tuple[jax.Array, jax.Array]]]:
  """A gated block, where there is one, and the LM layers behind it.

  Args:
    block: the gated block, with its parameters.
    layers: the LM layers, with theirs.
    x: residual stream before them.
    caches: what each layer has read before.
    latents: R of each image.
    image_index: the image each token sees.
    place: where the tokens stand.
    beside: what queries and keys of each layer have besides, if anything.
    remat: see `rematerialised`.
    activations: says where the residual stream is on a mesh.

  Returns:
    The residual stream behind them, and the keys and values of each layer.
  """
  if remat != 'none':
    # A bound module can't be called within a JAX transformation.
    modules = list(layers) if block is None else [block, *layers]
    modules, variables = zip(*(module.unbind() for module in modules))

    def read(variables, x):
      bound = [m.bind(own) for m, own in zip(modules, variables)]
      first = None if block is None else bound.pop(0)
      return read_span(
          first, bound, x, caches, latents, image_index, place,
          beside=beside, activations=activations)

    return rematerialised(read, remat, scanned=False)(variables, x)
  if block is not None:
    x = activations.rows(block(x, latents, image_index))
  key_values = []
  for layer, cache, more in zip(
      layers, caches, beside or [None] * len(layers)):
    x, key_value = layer(x, place, cache, more)
    x = activations.rows(x)
    key_values.append(key_value)
  return x, key_values


def read_groups(
    groups: Groups,
    block: GatedCrossAttention,
    layers: Sequence[Layer],
    stacked: tuple[Mapping, Mapping],
    numbers: Mapping[str, np.ndarray],
    x: Float[Array, 'b l d'],
    caches: Sequence[tuple | None],
    latents: Float[Array, 'b n r c'],
    image_index: Int[Array, 'b l'],
    place: Place,
    *,
    remat: str = 'none',
    activations: Activations = ONE_DEVICE,
) -> tuple[Float[Array, 'b l d'], list[tuple[jax.Array, jax.Array]]]:
  """All full groups, by one program for one of them.

  Args:
    groups: the full groups.
    block: a bound gated block that has all but `numbers` in common with those
      of the other groups.
    layers: the bound LM layers of a group.
    stacked: parameters of blocks and LM layers, see `stack`.
    numbers: in which blocks differ, [G] by attribute.
    x: residual stream before the first group.
    caches: what each layer of the whole model has read before.
    latents: R of each image.
    image_index: the image each token sees.
    place: where the tokens stand.
    remat: see `rematerialised`.
    activations: says where the residual stream is on a mesh.

  Returns:
    As `read_span`. Without a cache there are no keys and values: no one asks
    for them, and a scan would have to hold them all.
  """
  block, layers = block.unbind()[0], [x.unbind()[0] for x in layers]

  def read(x, group):
    (own, lm), numbers, caches = group
    x, key_values = read_span(
        block.clone(**numbers).bind({'params': own}),
        [layer.bind({'params': lm[f'layer_{j}']})
         for j, layer in enumerate(layers)],
        x, caches, latents, image_index, place, activations=activations)
    return x, None if caches[0] is None else key_values

  caches = jax.tree.map(
      lambda *leaves: jnp.stack(leaves),
      *(tuple(caches[i:i + groups.every]) for i in groups.at(0)))
  x, key_values = jax.lax.scan(
      rematerialised(read, remat, scanned=True), x,
      (stacked, numbers, caches))
  return x, [layer for group in slices(key_values) for layer in group]


def rematerialised(
    function: Callable, remat: str, *, scanned: bool
) -> Callable:
  """`function`, of which the backward pass computes again what it may forget.

  Args:
    function: from arrays to arrays.
    remat: 'none' remembers everything; 'dots' the results of matrix products
      with parameters, so that norms, activations and the scores of attention
      are computed twice; 'full' nothing but the arguments.
    scanned: whether it is the body of a scan.
  """
  if remat == 'none' and not scanned:
    return function
  policy = {
      'none': _all_but_layout,
      'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
      'full': jax.checkpoint_policies.nothing_saveable,
  }[remat]
  # Without a scan, XLA would find that it computes the same thing twice, and
  # remember it after all.
  return jax.checkpoint(function, policy=policy, prevent_cse=not scanned)


def _all_but_layout(primitive, *_, **__) -> bool:
  """Whether a scan remembers the result of an operation.

  It has to write down what it remembers of each group. A frozen kernel that was
  only reshaped would be a second copy of the language model in memory, and the
  scale of a norm, broadcast, as large as what it scales.
  """
  return primitive.name not in _LAYOUT


def differences(
    blocks: Sequence[GatedCrossAttention],
) -> dict[str, np.ndarray]:
  """Numbers in which gated blocks differ: float32 [G] by attribute.

  Raises:
    ValueError: they differ in something that one program can't do.
  """
  numbers = {}
  for field in dataclasses.fields(blocks[0]):
    values = [getattr(block, field.name) for block in blocks]
    if field.name in ('parent', 'name') or all(x == values[0] for x in values):
      continue
    if field.name not in _NUMBERS or None in values:
      raise ValueError(
          f'Gated blocks that are scanned over may differ in {_NUMBERS} alone, '
          f'but these have {field.name} = {values}. Make them alike, or build '
          'the model with scan=False (config.model.layers=unrolled).')
    numbers[field.name] = np.asarray(values, np.float32)
  return numbers


def check(
    lm: LM, groups: Groups, blocks: Sequence[GatedCrossAttention]
) -> None:
  """Raises ValueError if no scan can read these groups: they are not alike.

  Args:
    lm: the language model.
    groups: its full groups.
    blocks: the gated block of each.
  """
  differences(blocks)
  for j in range(groups.every):
    if len({lm.is_local(i) for i in groups.at(j)}) > 1:
      raise ValueError(
          f'Layers are scanned over in groups of every={groups.every}, so at '
          'one place of all groups they must be alike. But of layers '
          f'{tuple(groups.at(j))} global_every={lm.global_every} gives some a '
          'window and others none. Choose `every` as a multiple of it, or '
          'build the model with scan=False (config.model.layers=unrolled).')


def first_values(
    key: jax.Array, module: nn.Module, count: int, *inputs,
    numbers: Mapping[str, np.ndarray] | None = None,
) -> dict:
  """Stacked parameters of `count` modules, each drawn by itself.

  Args:
    key: for all of them.
    module: one of them, bound.
    count: their number G.
    *inputs: what they are called with.
    numbers: attributes in which they differ, [G].
  """
  module = module.unbind()[0]

  def one(key, numbers):
    return module.clone(**numbers).init(key, *inputs)['params']

  return jax.vmap(one)(jax.random.split(key, count), numbers or {})


def declared(
    module: nn.Module, name: str, init: Callable[[jax.Array], dict]
) -> Mapping:
  """A whole tree as one of a module's parameters.

  Args:
    module: bound; the tree is called `name` among its parameters.
    name: of the tree.
    init: makes first values from a key.

  Raises:
    ValueError: the module was given parameters without it.
  """
  if module.is_initializing() and not module.has_variable('params', name):
    module.put_variable('params', name, init(module.make_rng('params')))
  if not module.has_variable('params', name):
    raise ValueError(
        f'The model scans over its layers, and among its parameters is no '
        f'{name!r}. If they are unrolled, `stack(params, model.groups)` of '
        'flamingo.model.stack makes such of them.')
  return module.get_variable('params', name)
