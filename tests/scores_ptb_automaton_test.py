"""Our rules and the Java program's accept the same texts: all of them.

Both are finite automata, so they can be walked through together, character by
character, until no new pair of states turns up. That is a proof, where captions
are only examples. How tokens are then spelled is what scores_ptb_test.py tests.
"""

import collections
import importlib.util
import json
import pathlib
import shutil
import subprocess

import pytest

from flamingo.eval.scores import ptb
from flamingo.eval.scores import ptb_rules

# Prints the tables of the scanner that JFlex made, which are private.
TABLES = '''
import java.lang.reflect.Field;
import java.util.Arrays;

public class Tables {
  public static void main(String[] names) throws Exception {
    Class<?> lexer = Class.forName("edu.stanford.nlp.process.PTBLexer");
    for (String name : names) {
      Field field = lexer.getDeclaredField(name);
      field.setAccessible(true);
      Object table = field.get(null);
      System.out.println(table instanceof int[]
          ? Arrays.toString((int[]) table)
          : Arrays.toString(new String((char[]) table).chars().toArray()));
    }
  }
}
'''


def _jar() -> pathlib.Path | None:
  spec = importlib.util.find_spec('pycocoevalcap')
  for folder in spec.submodule_search_locations if spec else ():
    jar = pathlib.Path(folder) / 'tokenizer' / 'stanford-corenlp-3.4.1.jar'
    if jar.exists():
      return jar
  return None


pytestmark = [pytest.mark.original, pytest.mark.skipif(
    shutil.which('javac') is None or _jar() is None,
    reason='the original automaton needs a Java compiler and pycocoevalcap')]


@pytest.fixture(scope='module')
def java(tmp_path_factory):
  """(class of a character, row of a state, next, accepting, action, start)."""
  source = tmp_path_factory.mktemp('java') / 'Tables.java'
  source.write_text(TABLES)
  names = ['ZZ_CMAP', 'ZZ_ROWMAP', 'ZZ_TRANS', 'ZZ_ATTRIBUTE', 'ZZ_ACTION',
           'ZZ_LEXSTATE', 'YyTraditionalTreebank3']
  run = subprocess.run(
      ['java', '-cp', _jar(), source, *names[:-1]], capture_output=True,
      check=True, text=True)
  *tables, starts = map(json.loads, run.stdout.splitlines())
  return *tables, starts[4]  # the third of its modes, each with two starts


def _behaviour(number):
  """All that a rule does with what it matches."""
  rule = ptb_rules.RULES[number]
  return rule.spell, rule.back, rule.keeps, bool(rule.before)


def test_the_two_automata_accept_the_same_texts_by_the_same_rules(java):
  classes, rows, after, accepting, actions, start = java
  ours = ptb.ptb_scanner().automaton
  # One character for all that both take for the same.
  symbols = {(classes[c], ours.kind(chr(c))): chr(c) for c in range(0x10000)}
  pairs = {(start, ours.start): ''}  # states of both; a text that leads there
  todo = collections.deque(pairs)
  behaviours = {}
  while todo:
    theirs, mine = pair = todo.popleft()
    text = pairs[pair]
    action = actions[theirs] if theirs >= 0 and accepting[theirs] & 1 else None
    rule = ours.rule(mine) if mine >= 0 else None
    # What no rule of ours takes is dropped, as by their last rule.
    if rule is None and action == 1:
      action = None
    assert (action is None) == (rule is None), ascii(text)
    if action is not None:
      assert behaviours.setdefault(action, _behaviour(rule)) == (
          _behaviour(rule)), ascii(text)
    for (theirs_of, kind), c in symbols.items():
      new = (after[rows[theirs] + theirs_of] if theirs >= 0 else -1,
             ours.step(mine, kind) if mine >= 0 else -1)
      if new != (-1, -1) and new not in pairs:
        pairs[new] = text + c
        todo.append(new)
  assert len(pairs) > 5_000 and len(behaviours) > 40
