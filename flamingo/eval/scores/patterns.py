"""Patterns of text in the language of lex, read into trees.

`[a-z]`, `[^a-z]` (`[^]` is any character), `|`, `*`, `+`, `?`, `{2,4}`, `( )`,
`{NAME}` for another pattern or a set of characters, and backslashes. A letter
outside brackets stands for both cases, a letter inside for itself.
"""

from collections.abc import Mapping
import re

# ('set', characters, negated), ('then', parts), ('either', parts) or
# ('repeat', part, least, most or None).
Tree = tuple

# Other characters whose capital or small letter is one of ASCII's.
_MORE_CASES = {'i': '\u0130\u0131', 'k': '\u212A', 's': '\u017F'}
_ESCAPES = {'t': '\t', 'n': '\n', 'r': '\r', 'f': '\f', 'v': '\v', '0': '\0'}


class _Parser:
  """Reads one pattern into a tree."""

  def __init__(self, pattern: str, names: Mapping[str, str | frozenset]):
    self.pattern, self.names, self.at = pattern, names, 0

  def fail(self, why: str) -> ValueError:
    return ValueError(f'{why} at character {self.at} of {self.pattern!r}.')

  def peek(self) -> str:
    return self.pattern[self.at : self.at + 1]

  def take(self) -> str:
    self.at += 1
    return self.pattern[self.at - 1]

  def character(self) -> str:
    """The next character, which may be an escape."""
    c = self.take()
    if c != '\\':
      return c
    c = self.take()
    if c == 'u':
      self.at += 4
      return chr(int(self.pattern[self.at - 4 : self.at], 16))
    return _ESCAPES.get(c, c)

  def either(self) -> Tree:
    parts = [self.then()]
    while self.peek() == '|':
      self.take()
      parts.append(self.then())
    return parts[0] if len(parts) == 1 else ('either', parts)

  def then(self) -> Tree:
    parts = []
    while self.peek() and self.peek() not in '|)':
      parts.append(self.repeat(self.atom()))
    return parts[0] if len(parts) == 1 else ('then', parts)

  def repeat(self, part: Tree) -> Tree:
    while True:
      counts = re.compile(r'\{(\d+)(?:,(\d*))?\}').match(self.pattern, self.at)
      if self.peek() in ('*', '+', '?'):
        least, most = {'*': (0, None), '+': (1, None), '?': (0, 1)}[self.take()]
      elif counts:
        self.at = counts.end()
        least, most = int(counts[1]), int(counts[2] or counts[1])
      else:
        return part
      part = ('repeat', part, least, most)

  def atom(self) -> Tree:
    c = self.peek()
    if c == '(':
      self.take()
      tree = self.either()
      if self.peek() != ')':
        raise self.fail('Expected ")"')
      self.take()
      return tree
    if c == '[':
      return self.brackets()
    if c == '{':
      end = self.pattern.index('}', self.at)
      name, self.at = self.pattern[self.at + 1 : end], end + 1
      meaning = self.names[name]
      if isinstance(meaning, frozenset):
        return ('set', meaning, False)
      return parse(meaning, self.names)
    if c in '*+?]}.':
      raise self.fail(f'{c!r} must have a backslash here,')
    c = self.character()
    return ('set', frozenset(
        (c.lower(), c.upper(), *_MORE_CASES.get(c.lower(), ''))), False)

  def brackets(self) -> Tree:
    self.take()
    negated = self.peek() == '^'
    if negated:
      self.take()
    found = set()
    while self.peek() != ']':
      first = last = self.character()
      if self.peek() == '-' and self.pattern[self.at + 1] != ']':
        self.take()
        last = self.character()
      found.update(map(chr, range(ord(first), ord(last) + 1)))
    self.take()
    return ('set', frozenset(found), negated)


def parse(pattern: str, names: Mapping[str, str | frozenset]) -> Tree:
  """Tree of a pattern.

  Args:
    pattern: as the docstring of this file says.
    names: what `{NAME}` stands for.

  Raises:
    ValueError: if the pattern is none.
  """
  parser = _Parser(pattern, names)
  tree = parser.either()
  if parser.peek():
    raise parser.fail('Expected the end')
  return tree


def width(tree: Tree) -> int | None:
  """How many characters a pattern matches, None if that varies."""
  kind, parts = tree[0], tree[1]
  if kind == 'set':
    return 1
  if kind == 'repeat':
    one = width(parts)
    return None if tree[2] != tree[3] or one is None else one * tree[2]
  widths = [width(part) for part in parts]
  if None in widths:
    return None
  if kind == 'then':
    return sum(widths)
  return widths[0] if len(set(widths)) == 1 else None
