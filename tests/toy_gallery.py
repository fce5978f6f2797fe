"""A gallery of emoji that say which they are."""

from flamingo.data.episodes import Gallery
from flamingo.data.openmoji import Emoji
import numpy as np

POOL = ('dax', 'wug', 'blick', 'toma', 'fep', 'zup', 'kiki')
VIEWS = 4


def make_gallery(views=VIEWS, neighbours=None) -> Gallery:
  """Six subgroups of seven emoji; the last is of symbols, all of one line art.

  Rows of the store are numbered in an order that says nothing.
  """
  emoji = []
  for g in range(6):
    for i in range(7):
      name = f'{"abcdef"[g]}{i}'
      emoji.append(Emoji(
          hexcode=name, name=f'emoji {name}', subgroup=f'subgroup {g}',
          group='Symbols' if g == 5 else 'Objects', colour=name.encode(),
          line=b'heart' if g == 5 else name.encode()))
  size = len(emoji) * 2 * views
  rows = np.random.default_rng(5).permutation(size)
  return Gallery(emoji, rows.reshape(-1, 2, views), neighbours)


def places_of(gallery: Gallery) -> dict[int, tuple[int, int, int]]:
  """Of each row of the store its emoji, style and view."""
  return {int(row): place for place, row in np.ndenumerate(gallery.rows)}
