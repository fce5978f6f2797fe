"""Captions as people write them, made up by chance, with all that can go wrong.

Not a test itself: tokenizers and the scores that depend on them are compared on
these.
"""

import random

_NOUNS = (
    'man woman dog cat street bus train pizza plate table giraffe zebra grass '
    'surfboard wave board clock tower laptop couch umbrella vase flowers girl '
    'teddy bear traffic light kitchen').split()
_WORDS = (
    'a an the is are on in at of with and near sitting standing riding holding '
    'two three several red small large while behind next to his her').split()
_ODD = '''
    cannot gonna gotta lemme gimme it's isn't don't won't can't they're I'd
    we've she'll dogs' dog's t-shirt t-shirt's 'em 'til 'cause y'all o'clock 'n'
    rock'n'roll c'mon l'oeuvre O'Brien 'tis 'twas goin' ol' cap'n nor'easter
    U.S. u.s. U.K. a.m. P.M. a.m p.m etc. e.g. i.e. vs. mr. Mr. mrs. Dr. St.
    ave. no. No. nos. fig. ca. Jr. inc. Co. ltd. Jan. feb. Mon. sept. miss.
    Miss. Mass. pa. La. Ft. sq. ext. al. Ph.D. D.C. D.C N.Y. a.k.a. cf. Wm.
    U.S.-based pro- 1 2 10 100 1,000 10,000.50 3.5 .5 1/2 3/4 2'x4' 5'10" $5.00
    US$10 20% #1 #hashtag @user & AT&T B&W R&B 12:30 12:30pm 10am 1990s '90s
    90's 5th 1st 20-year-old 555-1234 (555) 555.555.1234 12/25/2010 1-1-99 7-11
    4x4 3-D CO2 www.foo.com http://foo.com/bar, foo.com a.b@c.com image.jpg
    x.jpg. and/or w/ w/o b/c he/she/it TV's TVs LCD A I I. A. b. x-ray co-ed
    ice-cream c++ f# caf\u00e9 na\u00efve \u00fcber \u4e2d\u6587 \u00bd \u00bc
    \u2153 \u00b0 \u00a3 \u20ac \u00a2 \u00ae \u2022 \U0001F600 \u263a :) :( :-)
    ;) :D :P =) <3 xD ^_^ -_- <b> </b> <br/> &amp; &nbsp; &lt; &quot; &mdash;
    caf&eacute; -LRB- S&Ls woah!! wow!!! what?? ?! ... .... .. . . . , ; : - --
    --- ----- _ * ** # @@ / // \\ | ~ `` ` '' " ( ) [ ] { } < > = + \u201c
    \u201d \u2018 \u2019 \u2013 \u2014 \u2026 \u00ab \u00bb it\u2019s don\u2019t
    dog\u2019s \u00a0 co\u00adla \u200b \u0092 x\u00b2 1\u20442 couldn'tve
    y'know d'art one,two one.two one.Two one!two one-two one--two one_two
    one(two) 'one' "one" \u201cone\u201d dog''s The He It In A And'''.split()
_MARKS = [
    *'.,;:!?\'"-()/&#@$%*+=<>[]|_', '...', '--', "''", '\u2019', ' ']


def _word(rng: random.Random, odd: float) -> str:
  """One word, with a slip of the keyboard now and then."""
  if rng.random() < odd:
    word = rng.choice(_ODD)
  else:
    word = rng.choice(_NOUNS if rng.random() < 0.5 else _WORDS)
  slip = rng.random()
  if slip < 0.03:
    return word.upper()
  if slip < 0.06:
    return word.capitalize()
  if slip < 0.08:
    return word + rng.choice(_MARKS)
  if slip < 0.10:
    return rng.choice(_MARKS) + word
  if slip < 0.12:
    mark = rng.choice(_MARKS)
    return mark + word + mark
  if slip < 0.14:
    at = rng.randrange(len(word))
    return word[:at] + rng.choice(_MARKS + _NOUNS) + word[at:]
  if slip < 0.16:
    return word + rng.choice(_MARKS) + _word(rng, odd)
  if slip < 0.18:
    return word + rng.choice(["'s", "n't", "'re", "'ll", "s'", "'", '-', '.'])
  return word


def captions(n: int, seed: int, odd: float = 0.25) -> list[str]:
  """Captions without line breaks.

  Args:
    n: how many.
    seed: of the choices.
    odd: share of words that a tokenizer may stumble over.
  """
  rng = random.Random(seed)
  made = []
  for _ in range(n):
    gap = '  ' if rng.random() < 0.05 else ' '
    caption = gap.join(_word(rng, odd) for _ in range(rng.randint(1, 14)))
    if rng.random() < 0.4:
      caption = caption[0].upper() + caption[1:]
    made.append(caption + rng.choice(['', '', '.', '.', ' .', '. ', '!', '..']))
  return made
