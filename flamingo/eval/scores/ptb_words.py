"""Characters and kinds of words that the Penn Treebank's tokenizer tells apart.

Facts about Stanford's PTBTokenizer of CoreNLP 3.4.1 (2014), the one that COCO's
caption evaluation has always used. Where it is odd, it is odd here: its lists
are what scores in papers were computed with.
"""

import functools
import unicodedata

# Letters that Unicode has gained since version 6.2, which the tokenizer's
# tables were made from; with the unassigned places around them, so that later
# additions fall here too.
_YOUNGER_LETTERS = """
    037F-0383 0528-0530 0560 0588 05EB-05EF 0859-089F 08A1 08AD-08FF 0978 0980
    09F2-0A00 0AF0-0B04 0C34 0C5A-0C5F 0C70-0C84 0CBE-0CDD 0CF3-0D04 0D4F-0D5F
    0E85-0E86 0E89 0E8B-0E8C 0E8E-0E93 0E98 0EA0 0EA8-0EA9 0EAC 13F5-1400
    16EB-16FF 170D 1712-171F 1878-187F 191D-1945 19AC-19C0 19C8-19CF 1B4C-1B4F
    1C7E-1CE8 1CF2-1CF4 1CF7-1CFF 2C2F 2C5F 312E-3130 31BB-31EF 4DB6-4DFF
    9FCD-9FFF A698-A69F A78F A794-A79F A7AB-A7F7 A8FC-A8FF A9DA-A9FF AA7B-AA7F
    AB2F-ABBF"""
_YOUNGER_DIGITS = '0DE6-0DEF A9F0-A9F9'
# Letters then, marks now; and letters without case then, capitals now.
_FORMER_LETTERS = '1885-1886'
_NO_CAPITALS_YET = '13A0-13F4'
# Capitals that are no letters: Roman numerals and letters in circles.
_OTHER_CAPITALS = '2160-216F 24B6-24CF'

# What may stand in a word besides letters: marks, and the soft hyphen.
_MARKS = """
    00AD 0237-024F 02C2-02C5 02D2-02DF 02E5-02FF 0300-036F 0370-037D 0384-0385
    03CF 03F6 03FC-03FF 0483-0487 04CF 04F6-04FF 0510-0525 055A-055F 0591-05BD
    05BF 05C1-05C2 05C4-05C5 05C7 0615-061A 063B-063F 064B-065E 0670 06D6-06EF
    06FA-06FF 070F 0711 0730-074F 0750-077F 07A6-07B1 07CA-07F5 07FA 0900-0903
    093C 093E-094E 0951-0955 0962-0963 0981-0983 09BC-09C4 09C7-09C8 09CB-09CD
    09D7 09E2-09E3 0A01-0A03 0A3C 0A3E-0A4F 0A81-0A83 0ABC-0ACF 0B82 0BBE-0BC2
    0BC6-0BC8 0BCA-0BCD 0C01-0C03 0C3E-0C56 0D3E-0D44 0D46-0D48 0E30-0E3A
    0E47-0E4E 0EB1-0EBC 0EC8-0ECD"""

_SYMBOLS = r"""
    0025-0026 002B 005C 005E 007C 007E 00A6-00A9 00AC 00AE-00B4 00B5-00BA 00D7
    00F7 0387 05BE 05C0 05C3 05C6 05F3-05F4 0600-0603 0606-060A 060C 0614 061B
    061E 066A 066D 0703-070D 07F6-07F8 0964-0965 0E4F 1FBD 2016-2017 2020-2023
    2030-2038 203B 203E-2042 2044 207A-207F 208A-208E 2100-214F 2190-2BFF 3012
    30FB FF01-FF0F FF1A-FF20 FF3B-FF40 FF5B-FF65"""


def _ranges(text: str) -> frozenset[str]:
  """Characters of ranges of code points in hexadecimal, '0041-005A 00AA'."""
  found = set()
  for part in text.split():
    first, _, last = part.partition('-')
    found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
  return frozenset(found)


@functools.cache
def character_sets() -> dict[str, frozenset[str]]:
  """Sets of characters by name, among Unicode's first 65,536."""
  by_category = {}
  for c in map(chr, range(0x10000)):
    by_category.setdefault(unicodedata.category(c), set()).add(c)
  letters = set().union(
      *(by_category[k] for k in ('Lu', 'Ll', 'Lt', 'Lm', 'Lo')))
  letters = letters - _ranges(_YOUNGER_LETTERS) | _ranges(_FORMER_LETTERS)
  return {
      'letter': frozenset(letters),
      'digit': frozenset(by_category['Nd'] - _ranges(_YOUNGER_DIGITS)),
      'capital': (
          frozenset(by_category['Lu'] & letters)
          - _ranges(_NO_CAPITALS_YET) | _ranges(_OTHER_CAPITALS)),
      'mark': _ranges(_MARKS),
      'symbol': _ranges(_SYMBOLS),
  }


# Patterns by name. The case of letters in brackets matters, that of others not.
PATTERNS = {
    # Space and punctuation.
    'space': r'[ \t\u00A0\u2000-\u200A\u3000]',
    'newline': r'(\r|\r?\n|[\u2028\u2029\u000B\u000C\u0085])',
    'blank': r'({space}|{newline})',
    'apostrophe': r"(['\u0092\u2019]|&apos;)",
    # Also those that stand in a word for an apostrophe, rightly or not.
    'any_apostrophe': r'({apostrophe}|[`\u0091\u2018\u201B])',
    'hyphen': r'[-_\u058A\u2010\u2011]',
    'clause_end': r'[,;:\u3001]',
    'amp': r'&amp;',
    # Tags and comments of HTML, with their attributes.
    'attribute': r"""[A-Za-z][A-Za-z0-9_:.\-]*([ ]*=[ ]*('[^']*'|"[^"]*"))?""",
    'html': (
        r'<([!?][A-Za-z\-][^>\r\n]*'
        r'|[A-Za-z][A-Za-z0-9_:.\-]*([ ]+{attribute})*[ ]*/?'
        r'|/[A-Za-z][A-Za-z0-9_:.\-]*)[ ]*>'),
    'sentence_start': r'{blank}({blank}|{capital}|{html})',
    # Words.
    'entity_letter': r'&[aeiouAEIOU](acute|grave|uml);',
    'letters': r'({letter}|{mark}|{entity_letter})',
    'digits': r'({digit}|[\u07C0-\u07C9])',
    'word_part': r'{letters}({letters}|{digits})*',
    'word': r'{word_part}([.!?]{word_part})*',  # no space after the full stop
    'alphanumeric': r'({letter}|{digit})',
    'french': r'([dDoOlL]{any_apostrophe}{alphanumeric})?{alphanumeric}+',
    'hyphenated': r'{french}({hyphen}{french})*',
    'dotted': (  # 'e.g', 'U.S-based'
        r'[A-Za-z0-9][A-Za-z0-9.,\u00AD]*'
        r'(-([A-Za-z0-9\u00AD]+|{letters_with_dots}\.))+'),
    'one_or_other': (  # 'and/or'
        r'[A-Za-z0-9]+(-[A-Za-z]+){0,2}'
        r'(\\?/[A-Za-z0-9]+(-[A-Za-z]+){0,2}){1,2}'),
    'capitals': r'[A-Z]+(([+&]|{amp})[A-Z]+)+',  # 'AT&T'
    # Contractions. What "n't" is cut from can't end in "n" itself.
    'clitic': r'{apostrophe}([msdMSD]|re|ve|ll)',
    'not': r'n{any_apostrophe}t',
    'before_not': r'[A-Za-z\u00AD]*[A-MO-Za-mo-z]\u00AD*',
    'with_apostrophe': (  # one token, apostrophe and all
        r"{apostrophe}n{apostrophe}?|[lLdDjJ]{apostrophe}|Dunkin{apostrophe}"
        r"|somethin{apostrophe}|ol{apostrophe}|{apostrophe}em"
        r"|[A-HJ-XZn]{any_apostrophe}{letter}{2}{letter}*"
        r"|{apostrophe}[2-9]0s|{apostrophe}till?"
        r"|{letter}{letter}*[aeiouyAEIOUY]{any_apostrophe}[aeiouA-Z]{letter}*"
        r"|{apostrophe}cause|cont'd\.?|'twas|nor'easter|c'mon|e'er|s'mores"
        r"|ev'ry|li'l|nat'l|O{any_apostrophe}o"),
    'treebank_special': (
        r'-(RRB|LRB|RCB|LCB|RSB|LSB)-|C\.D\.s|pro-|anti-|S(&|{amp})P-500'
        r'|S(&|{amp})Ls|Cap{apostrophe}n|c{apostrophe}est'),
    # Numbers.
    'number': (
        r'[\-+]?({digits}+|{digits}*([.:,\u00AD\u066B\u066C]{digits}+)+)'),
    'date': r'{digits}{1,2}[\-/]{digits}{1,2}[\-/]{digits}{2,4}',
    'fraction': (
        r'({digits}{1,4}[- \u00A0])?{digits}{1,4}(\\?/|\u2044){digits}{1,4}'),
    'raised_number': (
        r'[\u207A\u207B\u208A\u208B]?'
        r'([\u2070\u00B9\u00B2\u00B3\u2074-\u2079]+|[\u2080-\u2089]+)'),
    'phone_gap': r'[\- \u00A0]',
    'phone': (
        r'(\([0-9]{2,3}\)[ \u00A0]?'
        r'|(\+\+?)?([0-9]{2,4}{phone_gap})?[0-9]{2,4}{phone_gap})'
        r'[0-9]{3,4}{phone_gap}?[0-9]{3,5}'
        r'|((\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}'),
    # The web.
    'url': r'https?://[^ \t\n\f\r"<>|(){}]+[^ \t\n\f\r"<>|.!?(){},\-]',
    'bare_url': (  # `,-_` is a range: no capital and no digit before the dot
        r'(www\.([^ \t\n\f\r"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}'
        r"""|([^ \t\n\f\r"`'<>|.!?(){},-_$]+\.)+(com|net|org|edu))"""
        r'(/[^ \t\n\f\r"<>|()]+[^ \t\n\f\r"<>|.!?(){},\-])?'),
    'email': (
        r'(&lt;|<)?[a-zA-Z0-9][^ \t\n\f\r"<>|()\u00A0{}]*@'
        r'([^ \t\n\f\r"<>|(){}.\u00A0]+\.)*[^ \t\n\f\r"<>|(){}.\u00A0]+'
        r'(&gt;|>)?'),
    'at_or_hash': r'@[a-zA-Z_][a-zA-Z_0-9]*|#{letters}+',
    'file_name': (
        r'({letters}|{digits})+(\.({letters}|{digits})+)*\.'
        r'(bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java'
        r'|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|x|xml'
        r'|zip)'),
    'smiley': r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]",
    'asian_smiley': (
        r"[\^x=~<>]\.\[\^x=[^<]*<>\]|[\-\^x=~<>']_[\-\^x=~<>']"
        r"|\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)"),
    # Abbreviations. A bracket round a first letter tells "Miss." from "miss.".
    'month_or_day': (
        r'Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec'
        r'|Mon|Tue|Tues|Wed|Thu|Thurs|Fri'),
    'state': (
        r'Ala|Ariz|[A]z|[A]rk|Calif|Colo|Conn|Ct|Dak|[D]el|Fla|Ga|[I]ll|Ind'
        r'|Kans?|Ky|[L]a|[M]ass|Md|Mich|Minn|[M]iss|Mo|Mont|Neb|Nev|Okla|[O]re'
        r'|[P]a|Penn|Tenn|[T]ex|Va|Vt|[W]ash|Wisc?|Wyo'),
    'company': (
        r'Inc|Cos?|Corp|Pp?t[ye]s?|Ltd|Plc|Rt|Bancorp|Bhd|Assn|Univ|Intl|Sys'),
    'may_end_a_sentence': (
        r'({month_or_day}|{state}|{company}|tel|est|ext|sq|Jr|Sr|Bros'
        r'|(Ed|Ph)\.D|Blvd|Rd|Esq|etc|al|seq|Bldg)\.'),
    'allies': (
        r'(Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-(U\.K|U\.S\.S\.R)'),
    'acronym': r'([A-Za-z](\.[A-Za-z])*|{allies})',
    'letters_with_dots': r'([A-Za-z](\.[A-Za-z])+|{allies})',
    'title': (
        r'Mr|Mrs|Ms|[M]iss|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs'
        r'|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt|Capt|Ste?|Ave|Pres|Lieut|Hon|Brig'
        r'|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens|Insp|Mlle'
        r'|Mme|Msgr|Sfc'),
    'never_ends_a_sentence': (
        r'({title}|vs|Alex|Wm|Jos|Cie|a\.k\.a|cf|TREAS|Ph|{acronym}'
        r'|Invt|Elec|Natl|M[ft]g|Dept)'),
    'before_a_number': r'(ca|figs?|prop|nos?|art|bldg|pp|op)\.',
    # A capital that begins a sentence, even after 'U.S.'.
    'first_word': (
        r'([A]bout|[A]ccording|[A]dditionally|[A]fter|[A]n|[A]|[A]s|[A]t|[B]ut'
        r'|[E]arlier|[H]e|[H]er|[H]ere|[H]owever|[I]f|[I]n|[I]t|[L]ast|[M]any'
        r'|[M]ore|[M]r\.|[M]s\.|[N]ow|[O]nce|[O]ne|[O]ther|[O]ur|[S]he|[S]ince'
        r'|[S]o|[S]ome|[S]uch|[T]hat|[T]he|[T]heir|[T]hen|[T]here|[T]hese'
        r'|[T]hey|[T]his|[W]e|[W]hen|[W]hile|[W]hat|[Y]et|[Y]ou|{html})'),
}
