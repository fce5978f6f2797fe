"""Made-up names for concepts: words that say nothing about what they name.

Each episode binds names to pictures anew, so a name can only be learnt from the
prompt. Names are split like pictures are: those of the test split are never
seen in training.
"""

from collections.abc import Sequence
import hashlib
import itertools

from flamingo.data.tokenizer import Tokenizer

_ONSETS = (
    'b d f g k l m n p r s t v w z bl br dr fl gl gr kl pl pr sl tr'.split())
_VOWELS = 'a e i o u'.split()
_CODAS = 'b d g k l m n p r s t x'.split()


def split_of(name: str) -> str:
  """'train', 'validation' or 'test': a function of the name alone."""
  part = hashlib.blake2b(name.encode(), digest_size=4).digest()[0] % 8
  return {0: 'test', 1: 'validation'}.get(part, 'train')


def words(tokenizer: Tokenizer, split: str) -> tuple[str, ...]:
  """Real lower-case words of 4 to 9 letters that are one token each."""
  return _of_split(tokenizer.single_token_words(4, 9), split)


def nonsense(tokenizer: Tokenizer, split: str) -> tuple[str, ...]:
  """Invented words of two syllables ('blodap') that are two or three tokens."""
  syllables = [o + v for o in _ONSETS for v in _VOWELS]
  made = (
      a + b + c for a, b, c in itertools.product(syllables, syllables, _CODAS))
  # Every 37th of 202,800 is plenty, and keeps first syllables apart.
  made = itertools.islice(made, 0, None, 37)
  return _of_split(
      [n for n in made if 2 <= len(tokenizer.encode(' ' + n)) <= 3], split)


def _of_split(names: Sequence[str], split: str) -> tuple[str, ...]:
  return tuple(name for name in names if split_of(name) == split)
