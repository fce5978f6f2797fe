"""Programs of TorchScript, of which the tensors are read and nothing else.

`torch.jit.save` pickles a tree of modules and puts their code beside it. The
code stays where it is: a tensor's name is the path of attributes to it.
"""

from typing import Any

from flamingo.pretrained.formats.torch_names import (
    Malformed, ScriptModule, Tensor)

# A module may stand in several places, so that a small file can have no end of
# names; and a module within itself would have infinitely many.
_MOST_BYTES = 20_000_000


def tensors_of_modules(root: ScriptModule) -> dict[str, Tensor]:
  """Tensors by name, 'visual.conv1.weight' for one.

  They are those of `torch.jit.load(FILE).state_dict()`, in its order, and also
  tensors that are attributes but neither parameters nor buffers: only the code
  tells these apart. Lists and dicts of tensors have no place in a state dict.

  Raises:
    Malformed: if the modules have no tensors, or are none that torch can have
      saved.
  """
  tensors, size = {}, 0
  left = [('', root)]
  while left:
    prefix, module = left.pop()
    inner = []
    for name, value in _attributes(module).items():
      size += 64 + len(prefix) + len(name)
      if size > _MOST_BYTES:
        raise Malformed('its modules contain one another without end.')
      if isinstance(value, Tensor):
        tensors[f'{prefix}{name}'] = value
      elif isinstance(value, ScriptModule):
        inner.append((f'{prefix}{name}.', value))
    left += reversed(inner)
  if not tensors:
    raise Malformed('its modules have no tensors.')
  return tensors


def _attributes(module: ScriptModule) -> dict[str, Any]:
  state = module.state
  if not isinstance(state, dict) or not all(
      isinstance(name, str) and '.' not in name for name in state):
    raise Malformed(
        f'its module of {".".join(module.kind)} is not saved attribute by '
        'attribute. Save `torch.jit.load(FILE).state_dict()` with torch.')
  return state
