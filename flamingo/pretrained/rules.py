"""What one published tensor is among our parameters, and back."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re

import einops
import numpy as np

from flamingo import params as params_lib


@dataclasses.dataclass(frozen=True)
class Rule:
  """What one published tensor is among our parameters.

  Attributes:
    theirs: name of the tensor.
    ours: path of our leaf, such as 'lm/layer_0/attn/query/kernel'; or several
      that are fused in the tensor. They are the slices of axis `n` where the
      layout has one in front, '(n h d) m -> n m h d', else runs of its rows,
      as the frozen rows of an embedding and the new ones behind them.
    layout: einops pattern from their axes to ours. Runs of rows that come to
      us in different ways have one each: 'v m -> m v, r m -> r m'.
    axes: sizes that the shapes of our leaves do not tell.
  """

  theirs: str
  ours: tuple[str, ...]
  layout: str
  axes: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, theirs: str, ours: str | Sequence[str], layout: str, **axes):
    """A rule with one of ours or several."""
    ours = (ours,) if isinstance(ours, str) else tuple(ours)
    return cls(theirs, ours, layout, axes)

  @property
  def paths(self) -> tuple[params_lib.Path, ...]:
    """Where our leaves are in the tree."""
    return tuple(tuple(path.split('/')) for path in self.ours)

  @property
  def stacks(self) -> bool:
    """Whether our leaves are slices of a leading axis `n`."""
    return self.layout.split('->')[1].split()[:1] == ['n']

  @property
  def runs(self) -> list['Rule']:
    """A rule for each of ours, of its rows alone; none if they are slices."""
    if self.stacks or len(self.ours) == 1:
      return []
    layouts = self.layout.split(', ')
    if len(layouts) == 1:
      layouts *= len(self.ours)
    return [
        Rule(self.theirs, (path,), layout, self.axes)
        for path, layout in zip(self.ours, layouts, strict=True)]

  def sizes(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """Size of each axis of the pattern, from the shapes of our leaves.

    Raises:
      ValueError: the shapes are none that the layout can have made.
    """
    first = tuple(shapes[0])
    self._check_alike(shapes)
    shape = (len(shapes),) + first if self.stacks else first
    groups = _axes(self.layout.split('->')[1])
    sizes = dict(self.axes)
    fits = len(groups) == len(shape)
    for group, size in zip(groups, shape):
      known = math.prod(sizes.get(name, 1) for name in group)
      unknown = [name for name in group if name not in sizes]
      fits &= size == known if not unknown else (
          len(unknown) == 1 and size % known == 0)
      for name in unknown[:1]:
        sizes[name] = size // known
    if not fits:
      raise ValueError(
          f'{self.ours[0]} has the shape {tuple(shapes[0])}, which the layout '
          f'{self.layout!r} of {self.theirs} does not fit. Mend the rule.')
    return sizes

  def their_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of the tensor, from the shapes of our leaves."""
    if self.runs:
      parts = self._runs_of(shapes)
      return (sum(part[0] for part in parts),) + parts[0][1:]
    sizes = self.sizes(shapes)
    return tuple(
        math.prod(sizes[name] for name in group)
        for group in _axes(self.layout.split('->')[0]))

  def _runs_of(self, shapes: Sequence[tuple[int, ...]]):
    """Shapes of the runs of their rows."""
    parts = [run.their_shape([s]) for run, s in zip(self.runs, shapes)]
    self._check_alike([part[1:] for part in parts], shapes)
    return parts

  def _check_alike(self, alike, shapes=None):
    if len({tuple(shape) for shape in alike}) > 1:
      shapes = map(tuple, shapes or alike)
      raise ValueError(
          f'{self.theirs} holds {len(self.ours)} of ours in one tensor, whose '
          f'shapes must agree; came {dict(zip(self.ours, shapes))}. Mend the '
          'rule.')

  def read(
      self, tensor: np.ndarray, shapes: Sequence[tuple[int, ...]]
  ) -> list[np.ndarray]:
    """Our leaves of a tensor."""
    if self.runs:
      ends = np.cumsum([part[0] for part in self._runs_of(shapes)], dtype=int)
      return [
          run.read(rows, [shape])[0] for run, rows, shape in zip(
              self.runs, np.split(tensor, ends[:-1]), shapes)]
    whole = einops.rearrange(tensor, self.layout, **self.sizes(shapes))
    return list(whole) if self.stacks else [whole]

  def write(self, leaves: Sequence[np.ndarray]) -> np.ndarray:
    """The tensor of our leaves: the inverse of `read`."""
    if self.runs:
      return np.concatenate([
          run.write([leaf]) for run, leaf in zip(self.runs, leaves)])
    sizes = self.sizes([leaf.shape for leaf in leaves])
    whole = np.stack(leaves) if self.stacks else leaves[0]
    left, right = self.layout.split('->')
    return einops.rearrange(whole, f'{right} -> {left}', **sizes)


def _axes(side: str) -> list[list[str]]:
  """Axes of one side of a pattern, composite ones together; 1 has no name."""
  return [
      [name for name in group.strip('()').split() if name != '1']
      for group in re.findall(r'\([^)]*\)|\S+', side)]
