"""A small WordNet in the format of the real one, for tests.

Not a test itself.
"""

import pathlib

# Name -> (part of speech, words, more general sense).
SENSES = {
    'entity': ('n', ['entity'], None),
    'animal': ('n', ['animal', 'beast'], 'entity'),
    'dog': ('n', ['dog', 'domestic_dog'], 'animal'),
    'cat': ('n', ['cat'], 'animal'),
    'puppy': ('n', ['puppy'], 'dog'),
    'thing': ('n', ['thing'], 'entity'),
    'cup': ('n', ['cup'], 'thing'),
    'frank': ('n', ['sausage', 'dog'], 'thing'),  # the other sense of 'dog'
    'play': ('v', ['play'], None),
    'move': ('v', ['move'], None),
    'walk': ('v', ['walk'], 'move'),
    'big': ('a', ['big(p)'], None),
    'fast': ('r', ['fast'], None),
}
FILES = {'n': 'noun', 'v': 'verb', 'a': 'adj', 'r': 'adv'}
DIGITS = {'n': 1, 'v': 2, 'a': 3, 'r': 4}
EXCEPTIONS = {'n': ['puppies puppy', 'geese goose'], 'v': ['ran run']}
USES = {('walk', 'v'): 9, ('play', 'v'): 8, ('dog', 'n'): 5, ('cup', 'n'): 2}


def write_wordnet(directory: pathlib.Path, end: str = '\n') -> pathlib.Path:
  """Writes the database's files, lines ended by `end`, and returns where."""
  for part, file in FILES.items():
    offsets, at = {}, len('  licence\n')
    mine = {k: v for k, v in SENSES.items() if v[0] == part}

    def line(name, offsets, mine=mine, part=part):
      _, words, general = mine[name]
      pointers = f'001 @ {offsets.get(general, 0):08d} {part} 0000' if (
          general) else '000'
      return (f'{offsets.get(name, 0):08d} 03 {part} {len(words):02x} '
              + ' '.join(f'{w} 0' for w in words) + f' {pointers} | gloss  ')

    for name in mine:  # places first: all lines are as long with places as not
      offsets[name] = at
      at += len(line(name, offsets)) + 1
    lines = ['  licence', *(line(name, offsets) for name in mine)]
    (directory / f'data.{file}').write_bytes(
        ''.join(each + end for each in lines).encode())
    index = {}
    for name, (_, words, _) in mine.items():
      for word in words:
        index.setdefault(word.split('(')[0], []).append(offsets[name])
    rows = [
        f'{w} {part} {len(o)} 1 @ {len(o)} 0 '
        + ' '.join(f'{each:08d}' for each in o) + '  '
        for w, o in sorted(index.items())]
    (directory / f'index.{file}').write_bytes(
        ''.join(each + end for each in ['  licence', *rows]).encode())
    (directory / f'{file}.exc').write_bytes(
        ''.join(each + end for each in EXCEPTIONS.get(part, [])).encode())
  (directory / 'cntlist.rev').write_text(''.join(
      f'{word}%{DIGITS[part]}:03:00:: 1 {n}\n'
      for (word, part), n in USES.items()))
  return directory
