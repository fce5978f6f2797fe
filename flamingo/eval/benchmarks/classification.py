"""Classes of images and clips: ImageNet and Kinetics700-2020."""

from collections.abc import Iterator, Mapping
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.item import Item
from flamingo.eval.benchmarks.media import Clips

_KINDS = ('.jpeg', '.jpg', '.png')

# WordNet calls these by the same name; the names set them apart.
SAME_IN_WORDNET = {
    'n02012849': 'crane bird', 'n03126707': 'construction crane',
    'n03710637': 'maillot', 'n03710721': 'tank suit'}


def class_names(path: pathlib.Path) -> dict[str, str]:
  """Reads names of classes by folder: `n01440764 tench, Tinca tinca`.

  The format of `LOC_synset_mapping.txt`. A name is what stands before the
  first comma; 'car' beside 'car wheel' is as good as any.

  Raises:
    ValueError: a line without a name, or two classes of one name, which no
      model could tell apart.
  """
  names = {}
  for number, line in enumerate(path.read_text('utf-8').splitlines(), 1):
    folder, _, synonyms = line.strip().partition(' ')
    name = SAME_IN_WORDNET.get(folder, synonyms.split(',')[0].strip())
    if folder and not name:
      raise ValueError(
          f'{path}, line {number}: expected a folder, a space and a name; came '
          f'{line!r}. Write the name of the class behind its folder.')
    if folder:
      names[folder] = name
  _check_distinct(names, path)
  return names


def read_imagenet(
    root: pathlib.Path, *, images: str, names: str
) -> Iterator[Item]:
  """Reads a folder of images for each class, as torchvision's `ImageFolder`.

  Args:
    root: data root.
    images: folder with a folder of each class, named by its WordNet id.
    names: path of the classes' names, see `class_names`.

  Raises:
    ValueError: a folder without a name.
  """
  classes = class_names(root / names)
  candidates = tuple(classes.values())
  for folder in sorted(p for p in (root / images).iterdir() if p.is_dir()):
    if folder.name not in classes:
      raise ValueError(
          f'{folder}: expected one of the {len(classes)} classes of {names}. '
          'Name it there, or move the folder away.')
    name = classes[folder.name]
    for path in sorted(folder.iterdir()):
      if path.suffix.lower() in _KINDS:
        yield Item(
            id=f'{folder.name}/{path.name}',
            image=(f'{images}/{folder.name}/{path.name}',),
            answer=name,
            references=(name,),
            candidates=candidates)


def read_kinetics(
    root: pathlib.Path, *, annotations: str, classes: str, frames: str
) -> Iterator[Item]:
  """Reads `train.csv` or `val.csv` of Kinetics.

  Columns from the readme of Kinetics: label, youtube_id, time_start, time_end.

  Args:
    root: data root.
    annotations: path of the table.
    classes: path of the table whose labels are all classes: `train.csv`.
    frames: pattern of the clips' folders, of their names in the official
      archives ('-0IErS_cisg_000017_000027').

  Raises:
    ValueError: a label that is not among the classes.
  """
  columns = ('label', 'youtube_id', 'time_start', 'time_end')
  candidates = tuple(sorted({
      row['label'] for row in files.read_csv(root / classes, ('label',))}))
  known = set(candidates)
  clips = Clips(root)
  for row in files.read_csv(root / annotations, columns):
    start, end = (int(row.number(f'time_{at}')) for at in ('start', 'end'))
    clip = f'{row["youtube_id"]}_{start:06d}_{end:06d}'
    if row['label'] not in known:
      raise ValueError(
          f'{row.where}: expected one of the {len(known)} classes of '
          f'{classes}; came {row["label"]!r}. Take files of one version.')
    yield Item(
        id=f'{row["label"]}/{clip}',
        image=clips.frames(frames.format(clip)),
        answer=row['label'],
        references=(row['label'],),
        candidates=candidates)


def _check_distinct(names: Mapping[str, str], path: pathlib.Path) -> None:
  first = {}
  for folder, name in names.items():
    other = first.setdefault(name, folder)
    if other != folder:
      raise ValueError(
          f'{path}: expected another name for each class; {other} and {folder} '
          f'are both {name!r}. Write names behind them that tell them apart.')
