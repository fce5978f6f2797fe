"""Follows the pickles of torch without running anything.

A pickle is a program: it may import and call whatever it names. Here its
instructions are followed on a stack of plain values. Nothing is imported and
nothing is called; a name that no state dict needs ends it.
"""

import pickletools
from typing import Any, BinaryIO

from flamingo.pretrained.formats import torch_names
from flamingo.pretrained.formats.torch_names import Malformed, Name, Refused


def load(file: BinaryIO) -> tuple[Any, dict[str, torch_names.Storage]]:
  """Reads one pickle, up to its last instruction.

  Returns:
    What it makes, of plain values and `torch_names.Tensor`; and the storages
    that it mentions, by key.

  Raises:
    Refused: if it wants to import what is not on the list.
    Malformed: if the file is cut short, damaged, or no pickle of torch.
  """
  machine = _Machine()
  try:
    for instruction, argument, _ in pickletools.genops(file):
      if instruction.name == 'STOP':
        return machine.stack.pop(), machine.storages
      machine.follow(instruction.name, argument)
  except (Refused, Malformed):
    raise
  # A damaged pickle can raise nearly anything.
  except Exception as error:
    if not file.read(1):
      raise Malformed(
          'the file is cut short inside a pickle. Fetch it again.') from error
    raise Malformed(
        f'not a torch archive, or a damaged one ({error!r:.300}).') from error
  raise AssertionError('a pickle without STOP ends in an error')


# Instructions that push their argument.
_LITERALS = {
    'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT',
    'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE',
    'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES',
    'SHORT_BINBYTES', 'BINBYTES8'}
# Those that push what they say. Sets hold no tensors, so they are passed over.
_FRESH = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_TUPLE': tuple,
    'EMPTY_LIST': list,
    'EMPTY_DICT': dict,
    'EMPTY_SET': lambda: torch_names.INERT}


class _Machine:
  """The stack and the memory of a pickle.

  Attributes:
    stack: values above the last mark.
    below: the stacks under each mark.
    memory: values to be fetched again, by number. pickle's own unpickler in C
      allots it for whatever number a file names.
    storages: that were referred to, by key.
  """

  def __init__(self):
    self.stack = []
    self.below = []
    self.memory = {}
    self.storages = {}

  def follow(self, name: str, argument: Any) -> None:
    """Follows one instruction, by its name in `pickletools`."""
    if name in ('PROTO', 'FRAME'):
      return
    if name in _LITERALS:
      self.stack.append(argument)
    elif name in _FRESH:
      self.stack.append(_FRESH[name]())
    elif name in ('MARK', 'POP', 'POP_MARK', 'DUP'):
      self._shift(name)
    elif 'PUT' in name or 'GET' in name or name == 'MEMOIZE':
      self._remember(name, argument)
    elif name.startswith(('TUPLE', 'LIST', 'DICT', 'FROZENSET')):
      self._gather(name)
    elif name.startswith(('APPEND', 'SETITEM', 'ADDITEM')):
      self._fill(name)
    elif name == 'BINPERSID':
      self.stack.append(self._refer(self.stack.pop()))
    else:
      self._call(name, argument)

  def _shift(self, name: str) -> None:
    if name == 'MARK':
      self.below.append(self.stack)
      self.stack = []
    elif name == 'POP_MARK' or not self.stack:
      self._above_mark()
    elif name == 'POP':
      self.stack.pop()
    else:
      self.stack.append(self.stack[-1])

  def _above_mark(self) -> list:
    values, self.stack = self.stack, self.below.pop()
    return values

  def _remember(self, name: str, argument: Any) -> None:
    if name == 'MEMOIZE':
      self.memory[len(self.memory)] = self.stack[-1]
    elif 'PUT' in name:
      self.memory[int(argument)] = self.stack[-1]
    else:
      self.stack.append(self.memory[int(argument)])

  def _gather(self, name: str) -> None:
    """Makes a collection of what lies on the stack."""
    if name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
      count = int(name[-1])
      values = self.stack[-count:]
      del self.stack[-count:]
    else:
      values = self._above_mark()
    if name.startswith('TUPLE'):
      self.stack.append(tuple(values))
    elif name == 'LIST':
      self.stack.append(values)
    elif name == 'DICT':
      self.stack.append({})
      self._set(values)
    else:
      self.stack.append(torch_names.INERT)

  def _fill(self, name: str) -> None:
    """Adds what lies on the stack to the collection under it."""
    if name.endswith('S'):
      values = self._above_mark()
    else:
      count = 2 if name == 'SETITEM' else 1
      values = self.stack[-count:]
      del self.stack[-count:]
    if name.startswith('SETITEM'):
      self._set(values)
    elif name.startswith('APPEND') and isinstance(self.stack[-1], list):
      self.stack[-1].extend(values)
    elif self.stack[-1] is not torch_names.INERT:
      raise Malformed(f'{name} does not add to a list or a set.')

  def _set(self, values: list) -> None:
    if not isinstance(self.stack[-1], dict):
      raise Malformed('it sets the items of what is no dict.')
    for key, value in zip(values[::2], values[1::2], strict=True):
      self.stack[-1][torch_names.key(key)] = value

  def _refer(self, pid: Any) -> torch_names.Storage:
    storage = torch_names.storage_of(pid)
    if self.storages.setdefault(storage.key, storage) != storage:
      raise Malformed(
          f'tensors differ on the type or size of storage {storage.key!r}.')
    return storage

  def _call(self, name: str, argument: Any) -> None:
    """Follows what would import or call, as far as a stand-in goes."""
    if name == 'GLOBAL':
      self.stack.append(torch_names.allow(*argument.split(' ', 1)))
    elif name == 'STACK_GLOBAL':
      module, member = self.stack[-2:]
      del self.stack[-2:]
      self.stack.append(torch_names.allow(module, member))
    elif name in ('REDUCE', 'NEWOBJ'):
      function, arguments = self.stack[-2:]
      del self.stack[-2:]
      if not (isinstance(function, Name) and isinstance(arguments, tuple)):
        raise Malformed('it calls what is not a function.')
      self.stack.append(torch_names.stand_in(function, arguments))
    elif name == 'BUILD':
      # Of a state dict these are the versions of its modules, which are not
      # needed.
      state = self.stack.pop()
      if isinstance(self.stack[-1], torch_names.ScriptModule):
        self.stack[-1].state = state
    else:
      if name == 'INST':
        torch_names.allow(*argument.split(' ', 1))
      raise Malformed(
          f'not a torch archive: {name} is no instruction of a state dict.')
