"""Makes the benchmarks that need no download: emoji and easy-VQA.

  python -m experiments.benchmark_data --root=data

Writes `emoji/` and `easy_vqa/` below the root, pictures as PNG, from packages
of the quickstart: about a minute, 150 MB. What is there already is left as it
is, and the same is made anywhere. `experiments.benchmark --list` then has them
as present.
"""

from collections.abc import Mapping, Sequence
import io
import json
import pathlib
import shutil
import zlib

from absl import app
from absl import flags
import numpy as np
from PIL import Image
import tqdm

from experiments import data as data_lib
from experiments import start
from flamingo.data import easy_vqa
from flamingo.data import openmoji
from flamingo.data.episodes import Gallery, Picture, STYLES
from flamingo.data.openmoji import Emoji
from flamingo.eval.benchmarks.made_rows import ROUNDS, WAYS
from flamingo.eval.tasks import EpisodeTask
from flamingo.pretrained import lm as pretrained_lm

FLAGS = flags.FLAGS

SPLITS = ('validation', 'test')
EPISODES = 400
SIDE = 224
# Of each emoji in each style. Those of one class in an episode all differ.
VIEWS = ROUNDS + 1
# Names to choose among: the right one and those of its subgroup.
NAMES = 5
_SEED = 0


def define_flags() -> None:
  """Called when this is run, not when it is imported."""
  flags.DEFINE_string('root', 'data', 'Folder with the benchmarks.')
  flags.DEFINE_string(
      'openmoji', 'data', 'Where the drawings are kept, or are made first.')


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  start.prepare()
  root = pathlib.Path(FLAGS.root)
  write_easy_vqa(root)
  emoji = openmoji.load_openmoji(FLAGS.openmoji)
  _, _, tokenizer = pretrained_lm.load_lm(pretrained_lm.find_smollm2())
  for split in SPLITS:
    write_emoji(
        root, split, emoji[split],
        data_lib.name_pools(tokenizer, split)['single'])
  print(f'{root.absolute()} has emoji and easy_vqa.')


def write_easy_vqa(root: pathlib.Path) -> None:
  """Copies the package's own files, those with the questions last."""
  source, target = easy_vqa.package_folder(), root / 'easy_vqa'
  for split in ('train', 'test'):
    if not (target / split / 'questions.json').exists():
      shutil.copytree(
          source / split / 'images', target / split / 'images',
          dirs_exist_ok=True)
      shutil.copy(source / split / 'questions.json', target / split)
  shutil.copy(source / 'answers.txt', target)


def write_emoji(
    root: pathlib.Path, split: str, emoji: Sequence[Emoji],
    names: Sequence[str], *, episodes: int = EPISODES,
) -> None:
  """Writes a split's episodes and named emoji, after all of their pictures.

  Args:
    root: data root.
    split: 'validation' or 'test'.
    emoji: of that split.
    names: to bind to emoji, none of them said in training.
    episodes: of each kind.
  """
  folder = root / 'emoji'
  shape = (len(emoji), len(STYLES), VIEWS)
  gallery = Gallery(emoji, np.arange(np.prod(shape)).reshape(shape))
  written = {}
  for kind in ('binding', 'category'):
    for ways in WAYS:
      task = EpisodeTask(
          name=f'emoji_{kind}_{ways}way', gallery=gallery,
          names={'single': names}, category=kind == 'category')
      written[f'{kind}_{ways}way_{split}.jsonl'] = [
          _episode(trial) for trial in task.trials(
              seed=_SEED, n=episodes, ways=ways, shots=ROUNDS,
              style='colour_to_line' if kind == 'binding' else 'same')]
  written[f'names_{split}.jsonl'] = _named(gallery, views=(0,))
  written[f'names_{split}_support.jsonl'] = _named(gallery, views=(1, 2))
  missing = {
      name: lines for name, lines in written.items()
      if not (folder / name).exists()}
  _draw(folder / 'images', gallery, {
      row for lines in missing.values() for line in lines
      for row in _rows(line)})
  for name, lines in missing.items():
    _write(folder / name, ''.join(
        json.dumps(_with_paths(line, gallery)) + '\n'
        for line in lines).encode())


def _episode(trial) -> dict:
  return {
      'image': trial.query.image, 'answer': trial.query.answer,
      'candidates': list(trial.candidates),
      'demonstrations': [
          {'image': shot.image, 'answer': shot.answer}
          for shot in trial.support]}


def _row(gallery: Gallery, emoji: int, view: int) -> int:
  row, = gallery.find([Picture(emoji, STYLES.index('colour'), view)])
  return int(row)


def _named(gallery: Gallery, views: Sequence[int]) -> list[dict]:
  """Emoji among names of their subgroups, where these have enough of them."""
  lines = []
  for members in gallery.subgroups(least=NAMES):
    for e in members:
      one = gallery.emoji[e]
      rng = np.random.default_rng((_SEED, zlib.crc32(one.hexcode.encode())))
      others = rng.choice(
          [gallery.emoji[i].name for i in members if i != e], NAMES - 1,
          replace=False)
      candidates = rng.permutation([one.name, *others]).tolist()
      lines += [
          {'id': f'{one.hexcode} {view}', 'image': _row(gallery, e, view),
           'answer': one.name, 'candidates': candidates} for view in views]
  return lines


def _rows(line: Mapping) -> list[int]:
  return [line['image']] + [
      one['image'] for one in line.get('demonstrations', ())]


def _with_paths(line: dict, gallery: Gallery) -> dict:
  changed = line | {'image': _name(gallery, line['image'])}
  if 'demonstrations' in line:
    changed['demonstrations'] = [
        _with_paths(one, gallery) for one in line['demonstrations']]
  return changed


def _place(gallery: Gallery, row: int) -> tuple[Emoji, str, int]:
  e, style, view = np.unravel_index(row, gallery.rows.shape)
  return gallery.emoji[e], STYLES[style], int(view)


def _name(gallery: Gallery, row: int) -> str:
  one, style, view = _place(gallery, row)
  return f'{one.hexcode}-{style}-{view}.png'


def _draw(folder: pathlib.Path, gallery: Gallery, rows: set[int]) -> None:
  """Draws what is not there; those that the quickstart shows are the same."""
  for row in tqdm.tqdm(sorted(rows), desc='emoji', unit='picture'):
    path = folder / _name(gallery, row)
    if path.exists():
      continue
    one, style, view = _place(gallery, row)
    pixels = data_lib.draw_view(
        getattr(one, style), one.name,
        data_lib.view_of(one.hexcode, style, view), SIDE)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, 'png')
    _write(path, data.getvalue())


def _write(path: pathlib.Path, data: bytes) -> None:
  """A killed run leaves whole files alone."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  partial.write_bytes(data)
  partial.replace(path)


if __name__ == '__main__':
  define_flags()
  app.run(main)
