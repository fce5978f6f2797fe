"""Longest match, then the first rule, as in lex."""

import itertools
import re

import pytest

from flamingo.eval.scores import patterns
from flamingo.eval.scores import scanner

NAMES = {'digit': frozenset('0123456789'), 'word': r'[a-z]+', 'b': 'b'}


def _cut(text, *rules):
  """(token, number of its rule) through a text; None for what none matches."""
  made = scanner.Scanner(
      [scanner.Rule(*each) if isinstance(each, tuple) else scanner.Rule(each)
       for each in rules], NAMES)
  at, found = 0, []
  while at < len(text):
    match = made.match(text, at)
    end, rule = match or (at + 1, None)
    found.append((text[at:end], rule))
    at = end
  return found


def test_the_longest_match_wins_whatever_the_order():
  assert _cut('abc', 'a|ab', 'abc', 'ab') == [('abc', 1)]
  assert _cut('abab', '(a|ab)(b|bab)') == [('abab', 0)]  # `re` would take 'ab'


def test_of_two_longest_matches_the_first_rule_wins():
  assert _cut('if', 'if', '{word}') == [('if', 0)]
  assert _cut('iff', 'if', '{word}') == [('iff', 1)]


def test_what_must_follow_counts_for_the_length_but_is_not_taken():
  assert _cut("it's", ('{word}', "'s"), '{word}', "'s") == [
      ('it', 0), ("'s", 2)]
  assert _cut('its', ('{word}', "'s"), '{word}') == [('its', 1)]


def test_what_must_follow_may_vary_in_length_and_the_token_is_the_longest():
  assert _cut('aab!', ('a+', 'a?b'), '[^]') == [
      ('aa', 0), ('b', 1), ('!', 1)]


def test_what_no_rule_matches_is_told():
  assert _cut('a?b', 'a', 'b') == [('a', 0), ('?', None), ('b', 1)]


def test_a_letter_outside_brackets_stands_for_both_cases():
  assert _cut('CaT', 'cat') == [('CaT', 0)]
  assert _cut('Cat', '[c]at', '[^]') == [('C', 1), ('a', 1), ('t', 1)]


@pytest.mark.parametrize('pattern', [
    'a{2}b', 'a{1,3}', '(ab|a)*b', 'a+b?', '[^b]a', '[ab]{2}', 'a|b|ab',
    '(a|b)(a|b)?', '(a*b){1,2}', r'\u0061\b', '{b}a{b}?'])
def test_matches_are_those_of_re_on_all_short_texts(pattern):
  tree = patterns.parse(pattern, NAMES)
  automaton = scanner.Automaton([tree])
  theirs = re.compile(
      pattern.replace('{b}', 'b').replace(r'\b', 'b'), re.IGNORECASE)
  for text in map(''.join, itertools.chain.from_iterable(
      itertools.product('ab', repeat=n) for n in range(1, 7))):
    ours = {end for end, _ in automaton.matches(text, 0, len(text))}
    assert ours == {
        end for end in range(1, len(text) + 1)
        if theirs.fullmatch(text, 0, end)}, text


@pytest.mark.parametrize('pattern, width', [
    ('abc', 3), ('[ab]{2}c', 3), ('ab|cd', 2), ('a|cd', None), ('a*', None),
    ('(ab){3}', 6), ('a?', None)])
def test_widths_are_known_where_they_do_not_vary(pattern, width):
  assert patterns.width(patterns.parse(pattern, {})) == width


@pytest.mark.parametrize('pattern', ['(a', 'a)', '*a', 'a.b', 'a]'])
def test_what_is_no_pattern_is_refused(pattern):
  with pytest.raises(ValueError, match='character'):
    patterns.parse(pattern, {})
