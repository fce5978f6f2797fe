"""What a trained model says to a prompt: likelihoods of answers, or new text.

An image is seen once: its latents are kept by its row in the feature store and
serve every prompt, shot count, control and candidate.
"""

from collections.abc import Callable, Iterator, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from flamingo.data.encode import Example
from flamingo.eval.beam import Beam, Generation
from flamingo.eval.trie import Question, Trie
from flamingo.model.cache import Cache
from flamingo.model.flamingo import Flamingo
from flamingo.types import Params

_SEEN_AT_ONCE = 64


class Predictor:
  """Reads prompts in batches whose shapes are few, so that few are compiled.

  Results depend neither on the batch size nor on what else is in the batch.

  Args:
    model: the network.
    params: all parameters, frozen ones included.
    features: rows of the feature store to features [n S D].
    pad_id: fills up batches.
    never: tokens that are never generated, such as image tags.
    tokens_at_once: bounds a batch: rows times length.
  """

  def __init__(
      self,
      model: Flamingo,
      params: Params,
      features: Callable[[np.ndarray], np.ndarray],
      *,
      pad_id: int,
      never: Sequence[int] = (),
      tokens_at_once: int = 2048,
  ):
    if any(block.sees != 'last' for block in model.xattn):
      raise ValueError(
          "Predictor reads models whose tokens see one image (sees='last'): "
          'prompts that share a tree share no order of images, which '
          "sees='all' needs.")
    self.model, self.params, self.features = model, params, features
    self.pad_id, self.never = pad_id, list(never)
    self.tokens_at_once = tokens_at_once
    self._latents: dict[int, np.ndarray] = {}
    self._see = jax.jit(functools.partial(_see, model))
    # The states are most of what is compiled, so their shapes are kept few:
    # what is read off them is a function of its own.
    self._states = jax.jit(functools.partial(_states, model))
    self._score = jax.jit(functools.partial(_score, model))
    self._prefill = jax.jit(
        functools.partial(_prefill, model), static_argnames='room')
    self._step = jax.jit(functools.partial(_step, model))
    self._reorder = jax.jit(_reorder)

  def latents(self, rows: Sequence[int]) -> np.ndarray:
    """Latents [n R C] of rows of the feature store, computed once."""
    missing = sorted(set(map(int, rows)) - self._latents.keys())
    for start in range(0, len(missing), _SEEN_AT_ONCE):
      some = missing[start : start + _SEEN_AT_ONCE]
      padded = np.asarray(some + some[:1] * (_SEEN_AT_ONCE - len(some)))
      seen = np.asarray(self._see(self.params, self.features(padded)))
      self._latents.update(zip(some, seen))
    return np.stack([self._latents[int(row)] for row in rows])

  def introduce(self, features: np.ndarray) -> list[int]:
    """Makes rows for features [n S D] that are not in the store.

    Returns:
      their numbers, which are negative.
    """
    rows = []
    for start in range(0, len(features), _SEEN_AT_ONCE):
      some = features[start : start + _SEEN_AT_ONCE]
      # One picture of a chat is not worth 64; shapes are few all the same.
      short = (1 << (len(some) - 1).bit_length()) - len(some)
      padded = np.concatenate([some, np.repeat(some[:1], short, axis=0)])
      for latents in np.asarray(self._see(self.params, padded))[: len(some)]:
        rows.append(-1 - sum(row < 0 for row in self._latents))
        self._latents[rows[-1]] = latents
    return rows

  def rank(
      self,
      groups: Sequence[
          Sequence[tuple[Example, Sequence[Sequence[int]]]]],
  ) -> list[list[np.ndarray]]:
    """Log-likelihood of each candidate continuation of each prompt.

    Args:
      groups: of (prompt, token ids of its candidates). Where prompts of a
        group begin alike, and where candidates do, that is read once.

    Returns:
      for each prompt of each group, the summed log-probability of each of its
      candidates.

    Raises:
      ValueError: a prompt is empty, or has no candidates, or is too long for
        the model.
    """
    tries, questions = [], []
    for group in groups:
      trie, asked = Trie(), []
      for prompt, candidates in group:
        if not candidates or not all(len(ids) for ids in candidates):
          raise ValueError(
              'Every prompt needs candidates of at least one token each; '
              f'{[list(ids) for ids in candidates]} came.')
        asked.append(trie.ask(trie.add(prompt), candidates))
      tries.append(trie)
      questions.append(asked)
    self._check(tries)

    scores: list[list[np.ndarray]] = [[] for _ in groups]
    for where, rows, length in self._batches(tries):
      nodes, slots, targets = _flatten([questions[i] for i in where], rows)
      states = self._states(
          self.params, *self._arrays([tries[i] for i in where], rows, length))
      log_p = np.asarray(
          self._score(self.params, states, nodes, slots, targets), np.float64)
      for row, i in enumerate(where):
        at = 0
        for asked in questions[i]:
          sums = []
          for question in asked:
            sums.append(log_p[row, at : at + len(question.targets)].sum())
            at += len(question.targets)
          scores[i].append(np.asarray(sums))
    return scores

  def generate(
      self,
      prompts: Sequence[Example],
      *,
      max_tokens: int,
      stop: int,
      beams: int = 1,
      length_penalty: float = 0.0,
  ) -> list[Generation]:
    """Continues each prompt, greedily or by beam search.

    Args:
      prompts: encoded documents, left open at their end.
      max_tokens: most tokens of a continuation, the end included.
      stop: the token that ends one, `<EOC>`.
      beams: hypotheses kept; 1 is greedy. The paper has 3.
      length_penalty: see `Beam`.

    Raises:
      ValueError: a prompt is empty, or too long for the model.
    """
    tries = []
    for prompt in prompts:
      tries.append(Trie())
      tries[-1].add(prompt)
    self._check(tries, more=max_tokens - 1)  # the last one is never read
    results: list[Generation | None] = [None] * len(prompts)
    for where, rows, length in self._batches(tries):
      last = np.zeros((rows, 1), np.int32)
      last[: len(where), 0] = [len(tries[i]) - 1 for i in where]
      log_p, cache, image = self._prefill(
          self.params, *self._arrays([tries[i] for i in where], rows, length),
          last, room=max_tokens)
      searches = [
          Beam(beams, stop=stop, length_penalty=length_penalty) for _ in where]
      self._search(searches, log_p, cache, image, max_tokens)
      for search, i in zip(searches, where):
        results[i] = search.best()
    return results

  def _search(self, searches, log_p, cache, image, max_tokens) -> None:
    rows = log_p.shape[0]
    beams = searches[0].size
    log_p = np.array(log_p)[:, None]
    for step in range(max_tokens):
      log_p[:, :, self.never] = -np.inf
      width = log_p.shape[1]
      gather = np.repeat(np.arange(rows) * width, beams).reshape(rows, beams)
      tokens = np.full((rows, beams), self.pad_id, np.int32)
      for row, search in enumerate(searches):
        if search.open:
          parents = search.advance(log_p[row, : len(search.open)])
          gather[row, : len(parents)] = row * width + np.asarray(parents, int)
          tokens[row, : len(parents)] = [h.tokens[-1] for h in search.open]
      if step == max_tokens - 1 or not any(s.open for s in searches):
        return
      if beams > 1:
        cache, image = self._reorder(cache, image, gather.reshape(-1))
      log_p, cache = self._step(
          self.params, image, tokens.reshape(-1, 1), cache)
      log_p = np.array(log_p).reshape(rows, beams, -1)

  def _check(self, tries: Sequence[Trie], more: int = 0) -> None:
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

  def _batches(
      self, tries: Sequence[Trie]
  ) -> Iterator[tuple[list[int], int, int]]:
    """Yields (numbers of tries, rows, length), in batches of few shapes.

    To compile a shape costs as much as to read several batches, so batches are
    filled up with padding, and what fills no batch waits for longer prompts.
    """
    groups = {}
    for i, trie in enumerate(tries):
      groups.setdefault(_bucket(len(trie)), []).append(i)
    waiting = []
    for length, members in sorted(groups.items()):
      waiting += members
      most = max(1, self.tokens_at_once // length)
      while len(waiting) >= most:
        yield waiting[:most], most, length
        waiting = waiting[most:]
    if waiting:
      full = len(tries) > len(waiting)  # there was a full batch before
      rows = most if full else min(most, 2 ** (len(waiting) - 1).bit_length())
      yield waiting, rows, length

  def _arrays(self, tries: Sequence[Trie], rows: int, length: int):
    """Latents and tokens of a batch, padded to `rows` and `length`."""
    tokens = np.full((rows, length), self.pad_id, np.int32)
    image_index, positions = np.zeros((2, rows, length), np.int32)
    mask = np.zeros((rows, length, length), bool)
    # A picture takes three tokens or more, mostly: one shape for each length.
    most = max(length // 3 + 1, max(len(trie.images) for trie in tries))
    # Rows of a batch that see nothing get the latents of some image, unseen.
    flat = sorted({i for trie in tries for i in trie.images}) or [0]
    seen = dict(zip(flat, self.latents(flat)))
    latents = np.zeros((rows, most) + seen[flat[0]].shape, np.float32)
    for row, trie in enumerate(tries):
      n = len(trie)
      tokens[row, :n] = trie.tokens
      image_index[row, :n] = trie.image_index
      positions[row, :n] = trie.positions
      mask[row] = trie.mask(length)
      for k, image in enumerate(trie.images):
        latents[row, k] = seen[image]
    return latents, tokens, image_index, positions, mask


def _flatten(questions: Sequence[Sequence[Sequence[Question]]], rows: int):
  """Tokens to read logits at [rows a], and (which of them, target) [rows q]."""
  nodes, slots, targets = [], [], []
  for group in questions:
    flat = [q for asked in group for q in asked]
    unique = sorted({node for q in flat for node in q.nodes})
    place = {node: k for k, node in enumerate(unique)}
    nodes.append(unique)
    slots.append([place[node] for q in flat for node in q.nodes])
    targets.append([t for q in flat for t in q.targets])
  return _pad(nodes, rows), _pad(slots, rows), _pad(targets, rows)


def _pad(lists: Sequence[Sequence[int]], rows: int) -> np.ndarray:
  most = max(map(len, lists))
  out = np.zeros((rows, most + (most % 2 if most > 1 else 0)), np.int32)
  for row, values in enumerate(lists):
    out[row, : len(values)] = values
  return out


def _bucket(n: int) -> int:
  """n or a little more, out of few: 4, 8, ... 64, 72, ... 128, 144, ..."""
  step = 4
  while step * 16 < n:
    step *= 2
  return -(-n // step) * step


def _see(model, params, features):
  latents = model.apply(
      {'params': params}, features[:, None, None], method='see')
  return latents[:, 0]


def _states(model, params, latents, tokens, image_index, positions, mask,
            cache=None):
  """Final states [rows L D]; a row of the mask that is empty is padding."""
  valid = jnp.any(mask, axis=2)
  if cache is not None:
    room = cache.valid.shape[1] - tokens.shape[1]
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, room)))
  x, cache = model.apply(
      {'params': params}, latents, tokens, image_index, positions=positions,
      mask=mask, valid=valid, cache=cache, method='read')
  return x if cache is None else (x, cache)


def _score(model, params, states, nodes, slots, targets):
  """Log-probabilities [rows q] of `targets` at the tokens nodes[slots]."""
  x = jnp.take_along_axis(states, nodes[:, :, None], axis=1)
  log_p = jax.nn.log_softmax(
      model.apply({'params': params}, x, method='logits'))
  return log_p[jnp.arange(len(nodes))[:, None], slots, targets]


def _prefill(model, params, latents, tokens, image_index, positions, mask,
             last, room):
  rows, length = tokens.shape
  x, cache = _states(
      model, params, latents, tokens, image_index, positions, mask,
      model.lm.empty_cache(rows, length + room))
  x = jnp.take_along_axis(x, last[:, :, None], axis=1)[:, 0]
  log_p = jax.nn.log_softmax(
      model.apply({'params': params}, x, method='logits'))
  # New text sees what the last token saw, so one image a row is all it needs.
  index = jnp.take_along_axis(image_index, last, axis=1)
  seen = jnp.take_along_axis(
      latents, jnp.maximum(index - 1, 0)[:, :, None, None], axis=1)
  return log_p, cache, (seen, jnp.minimum(index, 1))


def _step(model, params, image, tokens, cache: Cache):
  latents, image_index = image
  x, cache = model.apply(
      {'params': params}, latents, tokens, image_index, cache=cache,
      method='read')
  logits = model.apply({'params': params}, x[:, 0], method='logits')
  return jax.nn.log_softmax(logits), cache


def _reorder(cache: Cache, image, rows):
  take = lambda leaf: leaf[rows] if leaf.ndim else leaf
  return jax.tree.map(take, (cache, image))
