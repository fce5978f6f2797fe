"""Whether a checkpoint has its gated blocks where a model has them."""

from collections.abc import Mapping

from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.pretrained.formats import Stored


def check_blocks(
    model: Flamingo,
    tensors: Mapping[str, Stored],
    blocks: str,
    places: tuple[int, ...],
    *,
    what: str,
    lm: str = 'the language model',
    gate: str = 'attn_gate',
) -> None:
  """Checks that a checkpoint's gated blocks are those of a model.

  Args:
    model: what is to be read.
    tensors: of the checkpoint.
    blocks: name of a block, with '{}' for the number of its layer.
    places: those numbers.
    what: the checkpoint, for messages.
    lm: where its language model is from.
    gate: name of a tensor that every block has, of one number.

  Raises:
    ValueError: they stand before other layers, or are of another width. It
      names the first tensor that differs, both shapes, and the likely fix.
  """
  expected = gated_layers(model.lm.layers, model.every, model.offset)
  if not places:
    raise ValueError(
        f'{what} has no gated blocks, tensors named {blocks}.{gate}. Give the '
        'file of a Flamingo, with the language model it was trained with.')
  if places != expected:
    first = min(set(places) ^ set(expected))
    shapes = ('nothing', '(1,)') if first in places else ('(1,)', 'nothing')
    raise ValueError(
        f'{what} has gated blocks at {_list(places)}: {_interval(places)}; the '
        f'model was built with every={model.every}, offset={model.offset}, '
        f'which puts them at {_list(expected)}. First difference: '
        f'{blocks.format(first)}.{gate}: expected {shapes[0]}, came '
        f'{shapes[1]}. {_fix(model, places, expected, lm)}')
  name = f'{blocks.format(places[0])}.attn.to_q.weight'
  came = tensors[name].shape if name in tensors else None
  if came is not None and came[1] != model.lm.width:
    raise ValueError(
        f'{name} in {what}: expected {(came[0], model.lm.width)}, came {came}. '
        f'{lm} is {model.lm.width} wide, and the checkpoint was trained with a '
        f'language model of {came[1]}: pass that one.')


def _interval(places: tuple[int, ...]) -> str:
  """What `every` and `offset` would put blocks at these layers."""
  offset = places[0]
  every = places[1] - offset if len(places) > 1 else offset + 1
  if places != tuple(range(offset, places[-1] + 1, every)):
    return 'at uneven distances'
  return f'every={every}, offset={offset}'


def _fix(
    model: Flamingo, places: tuple[int, ...], expected: tuple[int, ...], lm: str
) -> str:
  shorter = min(len(places), len(expected))
  if places[:shorter] == expected[:shorter]:
    return (
        f'{lm} has {model.lm.layers} layers: pass the one that the checkpoint '
        f'was trained with, of {places[-1] + 1} layers or a few more.')
  interval = _interval(places)
  if '=' not in interval:
    return 'Take a checkpoint that is whole.'
  return f'Build the model with {interval}.'


def _list(places: tuple[int, ...]) -> str:
  return ', '.join(map(str, places))
