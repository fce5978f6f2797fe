"""Tokens of captions, exactly those of Stanford's PTBTokenizer, without Java.

CIDEr, BLEU and ROUGE depend on tokens, and COCO's caption evaluation takes them
from a Java program: PTBTokenizer of CoreNLP 3.4.1 with `-preserveLines
-lowerCase`, less punctuation. This gives the same tokens, which tests compare;
the one difference known is which small sigma a capital one at the end of a
token becomes, where that token has digits or punctuation too.
"""

from collections.abc import Iterator, Sequence
import functools
import re

from flamingo.eval.scores import ptb_rules
from flamingo.eval.scores import ptb_words
from flamingo.eval.scores import scanner

# What COCO's caption evaluation takes out of the tokens. It names the brackets
# too, but in capitals, and the tokens are lower case: '-lrb-' stays.
PUNCTUATION = frozenset([
    "''", "'", '``', '`', '.', '?', '!', ',', ':', '-', '--', '...', ';'])


@functools.cache
def ptb_scanner() -> scanner.Scanner:
  """The scanner of `ptb_rules.RULES`, which fills its tables as it is used."""
  return scanner.Scanner(
      [scanner.Rule(rule.text, rule.before) for rule in ptb_rules.RULES],
      {**ptb_words.PATTERNS, **ptb_words.character_sets()})


def _halves(text: str) -> str:
  """UTF-16 as Java has it: a character beyond U+FFFF is two, of no kind."""
  return ''.join(
      c if c <= '\uFFFF' else ''.join(map(chr, (
          0xD7C0 + (ord(c) >> 10), 0xDC00 + (ord(c) & 0x3FF)))) for c in text)


def _whole(text: str) -> str:
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def _tokens(text: str) -> Iterator[str]:
  """Tokens of a text, `ptb_rules.NEWLINE` for each line that ends."""
  if max(text, default='') > '\uFFFF':
    yield from map(_whole, _tokens(_halves(text)))
    return
  match, at = ptb_scanner().match, 0
  while at < len(text):
    found = match(text, at)
    if found is None:  # the tokenizer drops what it doesn't know
      at += 1
      continue
    end, number = found
    rule = ptb_rules.RULES[number]
    token = text[at : end if rule.keeps else end - rule.back]
    if token := rule.spell(token):
      yield token
    at = end - rule.back


def ptb_lines(captions: Sequence[str]) -> list[str]:
  """Lower-case tokens of captions with spaces between, as the Java program's.

  As there, all captions are one text with a caption a line, so whether the full
  stop of a caption that ends with an abbreviation is a token of its own can
  depend on the first letter of the next caption.

  Args:
    captions: of any length. Line breaks inside are spaces; so are rarer ones
      (U+000B, U+000C, U+000D, U+2028, U+2029), at which the program begins a
      line, so that all later captions get another's tokens.
  """
  text = '\n'.join(
      re.sub('[\n\v\f\r\u2028\u2029]', ' ', each) for each in captions)
  lines, line = [], []
  for token in _tokens(text):
    if token == ptb_rules.NEWLINE:
      lines.append(' '.join(line))
      line = []
    else:
      line.append(token.lower())
  lines.append(' '.join(line))
  # A tag of HTML that goes over several captions is one token, and the program
  # prints it with the line breaks inside.
  return '\n'.join(lines).split('\n') if captions else []


def tokenize(captions: Sequence[str]) -> list[str]:
  """Tokens of captions for CIDEr, BLEU and ROUGE, without punctuation.

  Tokens have spaces between. Equal to those of pycocoevalcap's PTBTokenizer (MS
  COCO caption evaluation, Chen et al. 2015, https://arxiv.org/abs/1504.00325)
  for the same captions in the same order; see `ptb_lines`.
  """
  return [
      ' '.join(t for t in line.rstrip().split(' ') if t not in PUNCTUATION)
      for line in ptb_lines(captions)]
