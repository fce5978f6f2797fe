"""Tokens equal those of the Java program that COCO's evaluation runs."""

import importlib.util
import pathlib
import shutil
import subprocess

import pytest

from caption_grammar import captions
from flamingo.eval.scores import ptb


def _jar() -> pathlib.Path | None:
  """Of Stanford's tokenizer, in the installed pycocoevalcap."""
  spec = importlib.util.find_spec('pycocoevalcap')
  for folder in spec.submodule_search_locations if spec else ():
    jar = pathlib.Path(folder) / 'tokenizer' / 'stanford-corenlp-3.4.1.jar'
    if jar.exists():
      return jar
  return None


JAR = _jar()
pytestmark = pytest.mark.original
needs_the_jar = pytest.mark.skipif(
    shutil.which('java') is None or JAR is None,
    reason='the original tokenizer needs Java and pycocoevalcap')


def _java(texts, tmp_path):
  path = tmp_path / 'captions.txt'
  path.write_text('\n'.join(texts), encoding='utf-8')
  run = subprocess.run(
      ['java', '-cp', JAR, 'edu.stanford.nlp.process.PTBTokenizer',
       '-preserveLines', '-lowerCase', path], capture_output=True, check=True)
  return run.stdout.decode().split('\n')


def _differences(texts, tmp_path):
  theirs, ours = _java(texts, tmp_path), ptb.ptb_lines(texts)
  assert len(theirs) == len(ours) == len(texts)
  return [trio for trio in zip(texts, theirs, ours) if trio[1] != trio[2]]


@needs_the_jar
@pytest.mark.parametrize('odd', [0.02, 0.3, 0.9])
def test_tokens_of_captions_equal_the_java_program_s(odd, tmp_path):
  assert not _differences(captions(4_000, seed=7, odd=odd), tmp_path)


@needs_the_jar
def test_every_character_alone_and_in_words_equals_the_java_program_s(tmp_path):
  # Those at which Java begins a line would move the rest by one.
  characters = [
      chr(c) for c in range(1, 0x10000)
      if not 0xD800 <= c < 0xE000 and chr(c) not in '\n\v\f\r\u2028\u2029']
  assert not _differences([f'a {c} b{c}d {c}e' for c in characters], tmp_path)


@pytest.mark.parametrize('caption, tokens', [
    ("A man's dog isn't on the couch.",
     "a man 's dog is n't on the couch ."),
    ("They can't, cannot and won't.", "they ca n't , can not and wo n't ."),
    ("the dogs' bowls, rock 'n' roll at 6 o'clock",
     "the dogs ' bowls , rock 'n' roll at 6 o'clock"),
    ('a "stop" sign (red)', "a `` stop '' sign -lrb- red -rrb-"),
    ('\u201cgo\u201d \u2014 it\u2019s on\u2026', "`` go '' -- it 's on ..."),
    ('at 5 p.m. near St. Paul, etc.', 'at 5 p.m. near st. paul , etc. .'),
    ('I live in the U.S. The end', 'i live in the u.s. . the end'),
    ('$5.00 for 1 1/2 pies at 2:30pm', '$ 5.00 for 1\u00A01/2 pies at 2:30 pm'),
    ('20-year-old B&W and/or 1,000', '20-year-old b&w and/or 1,000'),
    ('caf\u00e9 \U0001F600 :) 50%', 'caf\u00e9 :-rrb- 50 %'),
    ('<b>bold</b> &amp; www.foo.com', '<b> bold </b> & www.foo.com'),
    ('', ''),
    ('   ', ''),
])
def test_tokens_as_they_are_known(caption, tokens):
  assert ptb.ptb_lines([caption]) == [tokens]


def test_punctuation_is_left_out_but_not_brackets():
  # COCO's list of punctuation names '-LRB-', and the tokens are lower case.
  assert ptb.tokenize(['A man (left), "hi" -- a dog!']) == [
      'a man -lrb- left -rrb- hi a dog']


def test_the_next_caption_decides_whether_an_abbreviation_ends_its_sentence():
  assert ptb.ptb_lines(['cups, etc.', 'a dog'])[0] == 'cups , etc.'
  assert ptb.ptb_lines(['cups, etc.', 'A dog'])[0] == 'cups , etc. .'


def test_a_line_break_inside_a_caption_is_a_space():
  for mark in '\n', '\r', '\r\n', '\v', '\f', '\u2028', '\u2029':
    assert ptb.ptb_lines([f'a{mark}dog', 'b']) == ['a dog', 'b'], ascii(mark)


def test_no_captions_have_no_tokens():
  assert ptb.tokenize([]) == []
