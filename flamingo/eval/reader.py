"""A model that reads trees of tokens in batches, on one device or several."""

from collections.abc import Iterator, Sequence
import functools

import jax
from jax.sharding import Mesh
import numpy as np

from flamingo import sharding
from flamingo.eval import compiled
from flamingo.eval.batches import arrays, batches
from flamingo.eval.trie import Trie
from flamingo.model.flamingo import Flamingo
from flamingo.types import Params


class Reader:
  """Compiled functions of a model, and the batches that they take.

  Args:
    model: the network.
    params: all parameters, frozen ones included.
    pad_id: fills up batches.
    tokens_at_once: bounds a device's batch: rows times length.
    mesh: of devices that share batches and parameters; None for one device.

  Attributes:
    see: features to latents; this and what follows is in `compiled`.
    states: of whole trees.
    stem: caches of prompts.
    branch: states of what is behind them.
    score: what is read off states.
    prefill: reads prompts.
    step: reads one more token.
    reorder: follows a search.
  """

  def __init__(
      self, model: Flamingo, params: Params, *, pad_id: int,
      tokens_at_once: int, mesh: Mesh | None,
  ):
    if any(block.sees != 'last' for block in model.xattn):
      raise ValueError(
          "Predictor reads models whose tokens see one image (sees='last'): "
          'prompts that share a tree share no order of images, which '
          "sees='all' needs.")
    self.model, self.params = model, place(params, mesh)
    self.pad_id, self.tokens_at_once, self.mesh = pad_id, tokens_at_once, mesh
    bind = lambda function, *static: jax.jit(
        functools.partial(function, model), static_argnames=static)
    self.see = bind(compiled.see)
    self.states = bind(compiled.states)
    self.stem = bind(compiled.stem, 'room')
    self.branch = bind(compiled.branch)
    self.score = bind(compiled.score)
    self.prefill = bind(compiled.prefill, 'room')
    self.step = bind(compiled.step)
    self.reorder = jax.jit(compiled.reorder)

  @property
  def shards(self) -> int:
    """Into how many parts a batch is split."""
    return 1 if self.mesh is None else sharding.row_shards(self.mesh)

  def latents(self, rows: Sequence[int]) -> np.ndarray:
    """Latents [n R C] of images by their row in the feature store."""
    raise NotImplementedError

  def batches(
      self, tries: Sequence[Trie], behind: int = 0
  ) -> Iterator[tuple[list[int], int, int]]:
    """Yields (numbers of tries, rows, length), see `batches.batches`."""
    return batches(
        list(map(len, tries)), self.tokens_at_once, behind=behind,
        shards=self.shards)

  def arrays(
      self, tries: Sequence[Trie], rows: int, length: int, stem: int = 0
  ) -> Sequence[jax.Array]:
    """A batch on its devices, see `batches.arrays`."""
    return self.put(*arrays(
        tries, rows, length, self.latents, pad_id=self.pad_id, stem=stem))

  def put(self, *batch: np.ndarray) -> Sequence[jax.Array]:
    """Arrays whose rows are split over the devices."""
    if self.mesh is None:
      return batch
    return sharding.put_whole_batch(batch, self.mesh)

  def check(self, tries: Sequence[Trie], more: int = 0) -> None:
    """Raises a ValueError if a prompt is empty or too long for the model."""
    if not all(len(trie) for trie in tries):
      raise ValueError(
          'A prompt is empty, so nothing says what comes next. Begin it with '
          'a token: BOS, an image, or a text.')
    lm = self.model.lm
    longest = max((max(trie.positions) + 1 for trie in tries), default=0)
    if lm.position == 'learned' and longest + more > lm.max_positions:
      raise ValueError(
          f'A prompt is {longest} tokens long and {more} more are to be read, '
          f'but the language model knows {lm.max_positions} positions. Shorten '
          'the prompt: take fewer shots.')


def place(params: Params, mesh: Mesh | None) -> Params:
  """Parameters on the devices of a mesh; as they are if there is none."""
  if mesh is None:
    return params
  return sharding.place(params, sharding.shardings(params, mesh))
