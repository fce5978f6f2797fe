"""What the Penn Treebank's tokenizer takes for a token, and how it writes it.

Facts about Stanford's PTBTokenizer of CoreNLP 3.4.1, as in ptb_words.py.
"""

from collections.abc import Callable
import functools
import re
from typing import NamedTuple

NEWLINE = '*NL*'  # which a caption can't contain as one token

_BRACKETS = {'(': '-LRB-', ')': '-RRB-', '[': '-LSB-', ']': '-RSB-',
             '{': '-LCB-', '}': '-RCB-'}
_FRACTIONS = {'\u00BC': '1/4', '\u00BD': '1/2', '\u00BE': '3/4',
              '\u2153': '1/3', '\u2154': '2/3'}
_CURRENCIES = {'\u00A2': 'cents', '\u00A3': '#', '\u0080': '$', '\u00A4': '$',
               '\u20A0': '$', '\u20AC': '$'}


# How tokens are spelled.


def _as_it_is(text: str) -> str:
  return text


def _nothing(text: str) -> str:
  del text
  return ''


def _always(spelling: str) -> Callable[[str], str]:
  return lambda text: spelling


def _no_soft_hyphens(text: str) -> str:
  return text.replace('\u00AD', '') or '-'


def _one_token(text: str) -> str:
  """With no space inside, nor round brackets."""
  return text.replace(' ', '\u00A0').replace('(', '-LRB-').replace(')', '-RRB-')


def _hard_spaces(text: str) -> str:
  return text.replace(' ', '\u00A0')


def _ampersand(text: str) -> str:
  return re.sub('&amp;', '&', text, flags=re.IGNORECASE)


def _hyphens(text: str) -> str:
  return '--' if len(text) in (3, 4) else text


def _one_letter_loses_its_stop(text: str) -> str:
  return text[:-1] if len(text) == 2 else text


def _quote(text: str, *, opening: bool) -> str:
  """Quotation marks as LaTeX writes them."""
  mark = '`' if opening else "'"
  text = re.sub("&apos;|'", mark, text)
  text = re.sub('&quot;|"', 2 * mark, text)
  text = re.sub('[\u0091\u2018\u201B\u2039]', '`', text)
  text = re.sub('[\u0092\u2019\u203A]', "'", text)
  text = re.sub('[\u0093\u201C\u00AB]', '``', text)
  return re.sub('[\u0094\u201D\u00BB]', "''", text)


_opening = functools.partial(_quote, opening=True)
_closing = functools.partial(_quote, opening=False)


class Rule(NamedTuple):
  """One kind of token.

  Attributes:
    text: pattern of it, in the language of scanner.py.
    before: pattern of what must follow.
    spell: how the token is written; '' for no token.
    back: how many of its last characters are read again, for the next token.
    keeps: whether those are part of this token nevertheless, as the full stop
      of "etc." that also ends its sentence.
  """

  text: str
  before: str = ''
  spell: Callable[[str], str] = _as_it_is
  back: int = 0
  keeps: bool = False


# The longest match wins, then the rule that stands first.
RULES = (
    Rule(r'c[+][+]'),
    Rule(r'(c|f)#'),
    Rule(r'cannot', back=3),
    Rule(r"'twas", back=3),
    Rule(r"'tis", back=2),
    Rule(r'gonna|gotta|lemme|gimme|wanna', back=2),
    Rule(r'{html}', spell=_hard_spaces),
    Rule(r'&(MD|mdash|ndash);|[\u0096\u0097\u2013\u2014\u2015]',
         spell=_always('--')),
    Rule(r'{amp}', spell=_ampersand),
    Rule(r'&(HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);'),
    Rule(r'{word}', before=r'{clitic}', spell=_no_soft_hyphens),
    Rule(r'{before_not}', before=r'{not}', spell=_no_soft_hyphens),
    Rule(r'{word}', spell=_no_soft_hyphens),
    Rule(r'{with_apostrophe}'),
    Rule(r'y{apostrophe}', before=r'{letter}'),
    Rule(r'{url}'),
    Rule(r'{bare_url}'),
    Rule(r'{email}'),
    Rule(r'{at_or_hash}'),
    Rule(r'{clitic}', before=r'[^A-Za-z]', spell=_closing),
    Rule(r'{not}', before=r'[^A-Za-z]', spell=_closing),
    Rule(r'{date}'),
    Rule(r'{number}', spell=_no_soft_hyphens),
    Rule(r'{raised_number}'),
    Rule(r'{fraction}', spell=_hard_spaces),
    Rule(r'[\u00BC\u00BD\u00BE\u2153-\u215E]',
         spell=lambda c: _FRACTIONS.get(c, c)),
    Rule(r'{treebank_special}', spell=_ampersand),
    Rule(r'{one_or_other}'),
    Rule(r'[A-Z]*\$|#'),
    Rule(r'[\u00A2\u00A3\u00A4\u00A5\u0080\u20A0\u20AC\u060B\u0E3F\u20A4\uFFE0'
         r'\uFFE1\uFFE5\uFFE6]', spell=lambda c: _CURRENCIES.get(c, c)),
    # "the U.S. The": the stop belongs to the name and ends the sentence.
    Rule(r'{acronym}\.', before=r'{blank}+{first_word}{blank}',
         spell=_one_letter_loses_its_stop, back=1, keeps=True),
    Rule(r'{before_a_number}', before=r'{blank}?{digit}'),
    Rule(r'(pt[eyEY]|co)\.', before=r'{space}(ltd|lim)'),
    Rule(r'{may_end_a_sentence}', before=r'{sentence_start}', back=1,
         keeps=True),
    Rule(r'{may_end_a_sentence}', before=r'[^][^]'),
    Rule(r'{may_end_a_sentence}', back=1, keeps=True),
    Rule(r'({never_ends_a_sentence})\.'),
    Rule(r'{never_ends_a_sentence}', before=r'{space}'),
    Rule(r'{acronym}', before=r'{blank}'),
    Rule(r'{apostrophe}[0-9][0-9]', before=r'{blank}'),
    Rule(r'{file_name}', before=r'{blank}|[.?!,]'),
    Rule(r'{word}\.', before=r'{clause_end}', spell=_no_soft_hyphens),
    Rule(r'{phone}', spell=_one_token),
    Rule(r'"|&quot;', before=r'[A-Za-z0-9$]', spell=_opening),
    Rule(r'"|&quot;', spell=_closing),
    Rule(r'\u007F', spell=_nothing),
    Rule(r'<|&lt;', spell=_always('<')),
    Rule(r'>|&gt;', spell=_always('>')),
    Rule(r'{smiley}', before=r'[^A-Za-z0-9]', spell=_one_token),
    Rule(r'{asian_smiley}', spell=_one_token),
    Rule(r'[{}()\[\]]', spell=_BRACKETS.__getitem__),
    Rule(r'\-+', spell=_hyphens),
    Rule(r'\.{3,5}|(\.[ \u00A0]){2,4}\.|[\u0085\u2026]', spell=_always('...')),
    Rule(r'@+|#+|_+'),
    Rule(r'\*+|(\\\*){1,3}'),
    Rule(r'{clause_end}'),
    Rule(r'[?!]+'),
    Rule(r'[.\u00A1\u00BF\u037E\u0589\u061F\u06D4\u0700-\u0702\u07FA\u3002]'),
    Rule(r'='),
    Rule(r'/'),
    Rule(r'{dotted}\.', before=r'{clause_end}', spell=_no_soft_hyphens),
    Rule(r'{dotted}', spell=_no_soft_hyphens),
    Rule(r'{hyphenated}\.', before=r'{clause_end}'),
    Rule(r'{hyphenated}'),
    Rule(r'{capitals}\.', before=r'{clause_end}', spell=_ampersand),
    Rule(r'{capitals}', spell=_ampersand),
    Rule(r"'", before=r'[A-Za-z][^ \t\n\r\u00A0]', spell=_opening),
    Rule(r'{clitic}', spell=_closing),
    Rule(r'{not}', spell=_closing),
    Rule(r"{apostrophe}|''|[`\u2018\u2019\u201A\u201B\u201C\u201D\u0091\u0092"
         r'\u0093\u0094\u201E\u201F\u2039\u203A\u00AB\u00BB]{1,2}',
         spell=_closing),
    Rule(r'<<|>>'),
    Rule(r'{symbol}'),
    Rule(r'\0|{space}+|[\u200B\u200E-\u200F\uFEFF]', spell=_nothing),
    Rule(r'{newline}', spell=_always(NEWLINE)),
    Rule(r'&nbsp;', spell=_nothing),
)
