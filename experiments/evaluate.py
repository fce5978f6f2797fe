"""Few-shot evaluation of a checkpoint, and its report.

  python -m experiments.evaluate --config=experiments/configs/fewshot.py \
      --checkpoint=runs/quickstart

Writes results.json and report.html into the checkpoint's folder. Run again, it
goes on where it stopped, or only makes them anew. `--without=gates` takes away
parts of the model (see `experiments.without`), and writes into a folder of that
name beside them. `--list --root=DATA` says which benchmarks are below DATA;
`experiments.benchmark` evaluates on them.
"""

from collections.abc import Sequence
import json
import pathlib
import time

from absl import app
from absl import flags
from ml_collections import config_flags

from experiments import build
from experiments import cells as cells_lib
from experiments import data as data_lib
from experiments import listing
from experiments import start
from experiments import story
from experiments import without as without_lib
from experiments import workdir as workdir_lib
from flamingo import params as params_lib
from flamingo.eval.decode import Predictor
from flamingo.eval.evaluate import evaluate, Log

CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
CHECKPOINT = flags.DEFINE_string(
    'checkpoint', None, 'A workdir of experiments.train.')
EMA = flags.DEFINE_bool(
    'ema', False, 'Evaluate the moving average of what was trained.')
WITHOUT = flags.DEFINE_list(
    'without', [], 'Parts of the model to leave out: '
    f'{", ".join(without_lib.PARTS)}.')
LIST = flags.DEFINE_bool(
    'list', False, 'Say which benchmarks are there, and stop.')
ROOT = flags.DEFINE_string('root', 'data', 'Folder with benchmarks to list.')


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  if LIST.value:
    print('\n'.join(listing.lines(ROOT.value)))
    return
  for name, flag in (('config', CONFIG), ('checkpoint', CHECKPOINT)):
    if flag.value is None:
      raise app.UsageError(f'Flag --{name} must have a value.')
  start.prepare()
  with start.plain_errors():
    _evaluate(pathlib.Path(CHECKPOINT.value), CONFIG.value)


def _evaluate(workdir, config):
  began = time.monotonic()
  loaded = load(workdir, ema=EMA.value, without=WITHOUT.value)
  out = workdir
  if loaded.without:
    out = workdir / f'without-{"-".join(loaded.without)}'
  less = {'without': ', '.join(loaded.without)} if loaded.without else {}
  log = Log(out / config.output / 'predictions.jsonl', {
      'step': str(int(loaded.state.step)) + ' (ema)' * EMA.value, **less,
      'pictures': loaded.pictures.fingerprint,
      **loaded.frozen.fingerprints})
  cells = cells_lib.build_cells(
      config, loaded.pictures, loaded.frozen.tokenizer)
  rows = evaluate(
      cells, loaded.predictor, loaded.frozen.tokenizer,
      loaded.pictures.features, log)
  log.close()
  results = out / 'results.json'
  partial = results.with_suffix('.partial')
  partial.write_text(
      '[\n' + ',\n'.join(json.dumps(row) for row in rows) + '\n]\n')
  partial.replace(results)
  story.tell(
      workdir, loaded, config, cells, rows, log, out=out,
      seconds=time.monotonic() - began)
  print(f'{results} holds {len(rows)} numbers; look at {out}/report.html.')


class Loaded:
  """A trained model with all it needs to be asked something.

  Attributes:
    config: it was trained with.
    frozen: its pretrained parts.
    pictures: of its config.
    model: the network.
    state: as restored; its optimizer state is that of the checkpoint.
    without: the parts that were left out of it.
    predictor: reads prompts.
  """

  def __init__(self, config, frozen, pictures, model, state, without):
    self.config, self.frozen, self.pictures = config, frozen, pictures
    self.model, self.state, self.without = model, state, without
    self.predictor = Predictor(
        model, params_lib.merge(state.trainable, state.frozen),
        pictures.features, never=frozen.tokenizer.unsaid_ids,
        pad_id=frozen.tokenizer.pad_id)


def load(
    workdir: str | pathlib.Path, *, ema: bool = False,
    without: Sequence[str] = (),
) -> Loaded:
  """Loads what `experiments.train` has written.

  Args:
    workdir: its folder.
    ema: take the moving average of the trainables in their place.
    without: parts to leave out, see `experiments.without`.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: other frozen parts are here than it was trained beside, no
      average was kept, or the model has no such part.
  """
  without = without_lib.in_order(without)
  config = workdir_lib.read_config(workdir)
  # To read token by token; a checkpoint of scanned layers is unrolled.
  config.model.layers = 'unrolled'
  if ema and not build.keeps_average(config):
    raise ValueError(
        f'{workdir} was trained with step.ema=0, so there is no average to '
        'evaluate. Leave --ema out, or train with --config.step.ema=0.999.')
  frozen = build.load_frozen(config)
  pictures = data_lib.load_pictures(config, frozen)
  with workdir_lib.of_this_version(workdir):
    model, fresh = start.build_state(config, frozen, pictures)
  state = workdir_lib.restore(workdir, fresh, frozen.fingerprints)
  state = state.replace(
      frozen=build.frozen_params(frozen, config.model.dtype))
  if ema:
    state = state.replace(trainable=state.ema)
  state = state.replace(trainable=without_lib.leave_out(
      state.trainable, fresh, without))
  return Loaded(config, frozen, pictures, model, state, without)


if __name__ == '__main__':
  app.run(main)
