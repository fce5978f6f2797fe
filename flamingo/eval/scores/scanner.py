"""Scanners by longest match, as lex makes them, for tokenizers made of rules.

At each place the rule that matches the most text wins, and of several the one
that stands first. Python's `re` takes the first alternative that matches
instead, so rules written for lex cannot be given to it.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

from flamingo.eval.scores import patterns


class Automaton:
  """Finds the longest match of several patterns; deterministic, built as used.

  Args:
    trees: of the patterns, the preferred ones first.

  Attributes:
    start: the state before any character; states are numbers.
  """

  def __init__(self, trees: Sequence[patterns.Tree]):
    # Nondeterministic states by number: free moves, then moves by a set.
    self._free: list[list[int]] = []
    self._moves: list[tuple[int, int] | None] = []
    self._sets: dict[tuple, int] = {}  # (characters, negated) -> number
    self._accepts: dict[int, int] = {}  # state -> rule
    start = self._state()
    for rule, tree in enumerate(trees):
      end = self._add(tree, self._free_from(start))
      self._accepts[end] = rule
    # What a character is in (a bit a set) is all that a move can ask of it.
    self._kinds: dict[str, int] = {}
    # Deterministic states: those above at once, and the moves found so far.
    self._known: dict[frozenset, int] = {}
    self._members: list[frozenset] = []
    self._table: list[dict[int, int]] = []
    self._rules: list[int | None] = []
    self.start = self._number(self._closure([start]))

  def _state(self) -> int:
    self._free.append([])
    self._moves.append(None)
    return len(self._free) - 1

  def _free_from(self, state: int) -> int:
    new = self._state()
    self._free[state].append(new)
    return new

  def _add(self, tree: patterns.Tree, start: int) -> int:
    """Adds the states of a tree after `start`, and returns the last one."""
    kind, *rest = tree
    if kind == 'set':
      number = self._sets.setdefault(tuple(rest), len(self._sets))
      end = self._state()
      self._moves[start] = (number, end)
      return self._free_from(end)
    if kind == 'then':
      for part in rest[0]:
        start = self._add(part, start)
      return start
    if kind == 'either':
      ends = [self._add(part, self._free_from(start)) for part in rest[0]]
      end = self._state()
      for each in ends:
        self._free[each].append(end)
      return end
    part, least, most = rest
    for _ in range(least):
      start = self._add(part, start)
    if most is None:
      loop = self._free_from(start)
      again = self._add(part, self._free_from(loop))
      self._free[again].append(loop)
      return self._free_from(loop)
    skips = []
    for _ in range(most - least):
      skips.append(start)
      start = self._add(part, self._free_from(start))
    end = self._free_from(start)
    for each in skips:
      self._free[each].append(end)
    return end

  def _closure(self, states: Sequence[int]) -> frozenset[int]:
    """All that free moves reach, less those that nothing is to be known of."""
    found, todo = set(states), list(states)
    while todo:
      for state in self._free[todo.pop()]:
        if state not in found:
          found.add(state)
          todo.append(state)
    return frozenset(
        s for s in found if self._moves[s] is not None or s in self._accepts)

  def _number(self, members: frozenset[int]) -> int:
    """Number of a deterministic state; 0.. in order of their discovery."""
    if members not in self._known:
      self._known[members] = len(self._members)
      self._members.append(members)
      self._table.append({})
      rules = [self._accepts[s] for s in members if s in self._accepts]
      self._rules.append(min(rules, default=None))
    return self._known[members]

  def kind(self, character: str) -> int:
    """What a character is to the patterns: those of one kind are alike."""
    if character not in self._kinds:
      kind = 0
      for (characters, negated), number in self._sets.items():
        kind |= ((character in characters) != negated) << number
      self._kinds[character] = kind
    return self._kinds[character]

  def rule(self, state: int) -> int | None:
    """The first rule that matches what leads to a state, if any does."""
    return self._rules[state]

  def step(self, state: int, kind: int) -> int:
    """The state after a character of a kind, -1 if nothing can match."""
    if kind in self._table[state]:
      return self._table[state][kind]
    reached = [
        self._moves[s][1] for s in self._members[state]
        if self._moves[s] is not None and kind >> self._moves[s][0] & 1]
    after = self._number(self._closure(reached)) if reached else -1
    self._table[state][kind] = after
    return after

  def matches(
      self, text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """(end, rule) of the matches in text[start:stop] from its beginning on.

    Shortest first; of the rules that end at one place the first one only.
    """
    state = self.start
    for at in range(start, stop):
      kind = self._kinds.get(text[at])
      if kind is None:
        kind = self.kind(text[at])
      after = self._table[state].get(kind)
      if after is None:
        after = self.step(state, kind)
      if after < 0:
        return
      state = after
      if self._rules[state] is not None:
        yield at + 1, self._rules[state]


@dataclasses.dataclass(frozen=True)
class Rule:
  """A pattern, and what must follow, which counts for the length of a match.

  Attributes:
    text: pattern of the token, which has at least one character.
    before: pattern of what must come after it; '' for no demand.
  """

  text: str
  before: str = ''


class Scanner:
  """Cuts text by rules, longest match first.

  Args:
    rules: the preferred ones first.
    names: what `{NAME}` in their patterns stands for.

  Attributes:
    automaton: of the rules, each with what must follow.
  """

  def __init__(
      self, rules: Sequence[Rule], names: Mapping[str, str | frozenset]):
    self._heads = [patterns.parse(rule.text, names) for rule in rules]
    self._tails = [patterns.parse(rule.before, names) if rule.before else None
                   for rule in rules]
    self.automaton = Automaton([
        head if tail is None else ('then', [head, tail])
        for head, tail in zip(self._heads, self._tails)])
    self._parts: dict[int, tuple[Automaton, Automaton]] = {}

  def match(self, text: str, start: int) -> tuple[int, int] | None:
    """(end of the token, rule) at a place, None where no rule matches."""
    best = None
    for match in self.automaton.matches(text, start, len(text)):
      best = match
    if best is None or self._tails[best[1]] is None:
      return best
    end, rule = best
    return self._head_end(text, start, end, rule), rule

  def _head_end(self, text: str, start: int, end: int, rule: int) -> int:
    """Where the token ends in a match of it and of what comes after."""
    if (n := patterns.width(self._tails[rule])) is not None:
      return end - n
    if rule not in self._parts:
      self._parts[rule] = (
          Automaton([self._heads[rule]]), Automaton([self._tails[rule]]))
    head, tail = self._parts[rule]
    return max(
        at for at, _ in head.matches(text, start, end)
        if any(e == end for e, _ in tail.matches(text, at, end)))
