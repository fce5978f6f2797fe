"""Few-shot evaluation of a loaded Flamingo on benchmarks.

  python -m experiments.benchmark --config=experiments/configs/benchmarks.py \
      --model=MODEL --root=DATA --output=OUTPUT

MODEL is anything that `flamingo.load` takes, or a workdir of
`experiments.train`. Writes predictions.jsonl, one line an example, then
results.json and report.html into OUTPUT. Run again, it goes on where it
stopped. `--rescore` makes the two anew from the log, without a model; `--list`
says which benchmarks are below DATA and how to get the others.

All local devices share each batch. Several processes share a run that each is
given as `--processes=N --process=I`, with one OUTPUT and no coordinator; the
last to finish writes the results, and one that was killed is started again.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from absl import app
from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags

from experiments import build
from experiments import benchmark_config as config_lib
from experiments import benchmark_story
from experiments import listing
from experiments import start
from experiments import workdir
from flamingo.data.images import Preprocess
from flamingo.eval import benchmarks
from flamingo.eval import harness
from flamingo.eval.evaluate import read_log
from flamingo.eval.harness import results
from flamingo.eval.harness import share as share_lib
from flamingo.eval.harness.share import ALONE, Share
from flamingo.eval.reader import place
from flamingo.pretrained.load import load, Loaded

FLAGS = flags.FLAGS

make_predictor = harness.PicturePredictor
LOG, RUN, RESULTS, EXAMPLES, REPORT = (
    'predictions.jsonl', 'run.json', 'results.json', 'examples.jsonl',
    'report.html')


def define_flags() -> None:
  """Called when this is run, not when it is imported: programs share names."""
  config_flags.DEFINE_config_file(
      'config', 'experiments/configs/benchmarks.py', lock_config=True)
  flags.DEFINE_string(
      'model', None, 'A file or directory of a Flamingo, or a workdir.')
  flags.DEFINE_string(
      'lm', None, 'Directory of its language model, if it is not in there.')
  flags.DEFINE_string(
      'vision', None, 'Its CLIP, if it is not in there.')
  flags.DEFINE_string('root', 'data', 'Folder with the benchmarks.')
  flags.DEFINE_string('output', None, 'Folder of the results.')
  flags.DEFINE_integer(
      'processes', 1, 'How many processes share this run.', lower_bound=1)
  flags.DEFINE_integer(
      'process', 0, 'The number of this process, from 0.', lower_bound=0)
  flags.DEFINE_bool(
      'rescore', False, 'Compute the results from the log; ask no model.')
  flags.DEFINE_bool(
      'list', False, 'Say which benchmarks are there, and stop.')


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  with start.plain_errors():
    _main()


def _main():
  if FLAGS.list:
    rows = {**benchmarks.BENCHMARKS, **config_lib.own_rows(FLAGS.config)}
    print('\n'.join(listing.lines(FLAGS.root, rows)))
    return
  if FLAGS.output is None:
    raise app.UsageError('Say where results are to be written: --output=DIR.')
  output = pathlib.Path(FLAGS.output)
  if FLAGS.rescore:
    rescore(FLAGS.root, output)
    return
  if FLAGS.model is None:
    raise app.UsageError(
        'Say what to evaluate: --model=DIR; or --rescore, or --list.')
  start.prepare()
  config = FLAGS.config
  # Before a model is loaded.
  config_lib.check(config)
  start.check_writable(output, '--output')
  start.check_writable(config['cache'], 'config.cache')
  share = Share(FLAGS.process, FLAGS.processes)
  evaluate(
      config, load_model(config), FLAGS.root, output, share=share,
      mesh=config_lib.mesh_of(config))


def load_model(config: Mapping[str, Any]) -> Loaded:
  """The model that the flags name, a checkpoint of our own or a file."""
  if workdir.is_workdir(FLAGS.model):
    for name in ('lm', 'vision'):
      if FLAGS[name].value is not None:
        raise app.UsageError(
            f'{FLAGS.model} is a workdir of experiments.train, whose config '
            f'says which frozen parts it has. Leave --{name} out.')
    return workdir.load(FLAGS.model, dtype=config['dtype'])
  return load(
      FLAGS.model, lm=FLAGS.lm, vision=FLAGS.vision,
      dtype=build.DTYPES[config['dtype']])


def evaluate(
    config: Mapping[str, Any],
    loaded: Loaded,
    root: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    share: Share = ALONE,
    mesh: Mesh | None = None,
) -> list[dict[str, Any]]:
  """Evaluates a model, as far as the log lacks it, and writes the results.

  Args:
    config: see `configs/benchmarks.py`.
    loaded: the model.
    root: data root.
    output: folder of the log and the results.
    share: which of several processes this is.
    mesh: of devices that share each batch; None for one device.

  Returns:
    rows of the results; none if other processes have still to finish.
  """
  config_lib.check(config)
  output = pathlib.Path(output)
  with share_lib.holding(share_lib.part_of(output / LOG, share), wait=False):
    return _evaluate(config, loaded, root, output, share, mesh)


def _evaluate(config, loaded, root, output, share, mesh):
  identity = _identity(config, loaded)
  rows = {row.name: row for row in config_lib.rows_of(config, root)}
  tasks = {
      name: config_lib.task_of(config, row, root) for name, row in rows.items()}
  similarity = harness.similarity_of(
      loaded.model, loaded.params, config['similarity'])
  cells = {
      name: config_lib.cells_of(
          config, task, similarity=similarity,
          max_length=config_lib.longest(config, loaded.model))
      for name, task in tasks.items()}
  loaded = dataclasses.replace(loaded, params=place(loaded.params, mesh))
  pictures = harness.Pictures(
      loaded.model, loaded.params,
      Preprocess(loaded.vision.image_size, loaded.vision.fit), root,
      {path: held for task in tasks.values()
       for path, held in task.hashes.items()}, config['cache'], mesh,
      similarity)
  askers = _askers(config, loaded, tasks, pictures, mesh)
  head = {
      'identity': identity | {
          f'data {name}': task.digest for name, task in tasks.items()},
      'config': config_lib.plain(config) | {'tasks': list(rows)},
      'versions': results.versions(),
      'templates': {
          name: asker.example(_typical(cells[name]))
          for name, asker in askers.items()}}
  with share_lib.holding(output / LOG, wait=True):
    results.write(output / RUN, head | {
        'cells': [cell.key for several in cells.values() for cell in several]})
  work = [
      piece for name, asker in askers.items() for piece in harness.pieces(
          asker, cells[name], chunk=config['chunk'])]
  log = share_lib.run(work, output / LOG, identity, share)
  if log is None:
    return []
  with share_lib.holding(output / LOG, wait=True):
    return _write(root, output, head, rows, log.of, [
        harness.score(rows[name], cell, tasks[name].queries, log.of(cell.key))
        for name, several in cells.items() for cell in several])


def rescore(
    root: str | pathlib.Path, output: str | pathlib.Path
) -> list[dict[str, Any]]:
  """Computes the results from the log and the annotations alone.

  Raises:
    FileNotFoundError: the output has no log.
    ValueError: it was written by another version, or with other data.
  """
  output = pathlib.Path(output)
  head = results.read(output / RUN)
  identity, records = read_log(output / LOG)
  if not identity.items() <= head['identity'].items():
    raise ValueError(
        f'{output / LOG} holds predictions of {identity}, and {RUN} tells of '
        f'{head["identity"]}. Evaluate into a folder of its own.')
  rows = {row.name: row for row in config_lib.rows_of(head['config'], root)}
  scored, read, by_cell = [], {}, {}
  for key in head.pop('cells'):
    if key not in records:
      continue  # the evaluation was stopped before
    cell = harness.Cell.parse(key)
    # Under the name of today: a log may be older than a field of cells.
    by_cell[cell.key] = records[key]
    where = cell.task, cell.split
    if where not in read:
      read[where] = rows[cell.task].items(root, cell.split)
    scored.append(
        harness.score(rows[cell.task], cell, read[where], records[key]))
  return _write(root, output, head, rows, by_cell.get, scored)


def _write(root, output, head, tasks, records, scored):
  rows = results.rows_of(scored)
  results.write(output / RESULTS, head, rows)
  results.write_examples(output / EXAMPLES, scored)
  benchmark_story.tell(
      output / REPORT, root=root, output=output, head=head, rows=rows,
      benchmarks=tasks, scored=scored, records=records)
  print(f'{output / RESULTS} holds {len(rows)} numbers; look at '
        f'{output / REPORT}.')
  return rows


def _identity(config, loaded) -> dict[str, str]:
  return {
      'model': harness.fingerprint(
          loaded.params, loaded.model, loaded.tokenizer.tags,
          loaded.vision.image_size, loaded.vision.fit),
      'dtype': config['dtype'], 'version': str(results.VERSION)}


def _typical(cells) -> harness.Cell:
  """The cell whose prompt is shown as an example."""
  return max(cells, key=lambda cell: (
      cell.baseline is None, cell.control is None, cell.shots))


def _askers(config, loaded, tasks, pictures, mesh):
  predictor = make_predictor(
      loaded.model, loaded.params, pictures, loaded.tokenizer,
      tokens_at_once=config['tokens_at_once'], mesh=mesh)
  words = loaded.params['lm']['embed']['embedding']
  embed = {
      'image': pictures.embed,
      'text': harness.text_embedding(words, loaded.tokenizer)}
  return {
      name: harness.Asker(
          task, predictor,
          harness.Writer(
              benchmarks.TEMPLATES[config['template']][task.row.template],
              loaded.tokenizer, pictures,
              max_length=config_lib.longest(config, loaded.model)),
          pictures, harness.Demonstrator(task, embed))
      for name, task in tasks.items()}


if __name__ == '__main__':
  define_flags()
  app.run(main)
