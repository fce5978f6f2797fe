"""A trained model without some of its parts, to see what they are good for.

What a model reads may be what it has learnt, or what was built in before the
first step. Each part is taken away in the values of parameters alone, so the
network, the prompts and how they are scored stay as they are:

  training   everything trained is as it was before the first step
  gates      tanh gates are 0: nothing comes in through cross-attention
  path       the induction path finds no two pictures alike

Without gates and path the model is the frozen language model with two rows for
new tokens.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from flamingo.types import Params

PARTS = ('training', 'gates', 'path')


def in_order(parts: Sequence[str]) -> tuple[str, ...]:
  """The parts in the order of `PARTS`; ValueError if something is none."""
  for part in parts:
    if part not in PARTS:
      raise ValueError(
          f'--without has {part!r}; what can be left out are {list(PARTS)}, '
          'several of them with commas between.')
  return tuple(part for part in PARTS if part in parts)


def leave_out(trained: Params, first: Params, parts: Sequence[str]) -> Params:
  """What is trained, less some parts.

  Args:
    trained: of a checkpoint.
    first: as they were before the first step.
    parts: some of `PARTS`.

  Raises:
    ValueError: the model has no such part.
  """
  params = first if 'training' in parts else trained
  if 'gates' in parts:
    params = _shut(params)
  if 'path' in parts:
    if 'induction' not in params:
      raise ValueError(
          '--without has path, but this model was trained without an induction '
          'path. Leave it out.')
    params = params | {
        'induction': jax.tree.map(jnp.zeros_like, params['induction'])}
  return params


def _shut(params: Mapping) -> Params:
  """Gates at zero, which of a block without them is an error."""
  shut = dict(params)
  for name, block in params.items():
    if not name.startswith('xattn_'):
      continue
    gates = [key for key in block if key.endswith('_gate')]
    if not gates:
      raise ValueError(
          f'--without has gates, but {name} has none (xattn.gate=none).')
    shut[name] = dict(block) | {
        gate: jnp.zeros_like(block[gate]) for gate in gates}
  return shut
