"""What docs/benchmarks.md says of benchmarks, papers and commands is so."""

import pathlib
import re
import shlex

from absl import flags
import benchmark_models as models
from experiments import benchmark_config
from experiments.configs import benchmarks as config_lib
import flamingo
from ml_collections import config_flags
from flamingo.eval import benchmarks
from flamingo.eval import harness
from flamingo.eval.benchmarks.published import FIGURES, markdown
from flamingo.eval.harness import results
import pytest

DOC = pathlib.Path(__file__).parent.parent / 'docs/benchmarks.md'
TEXT = DOC.read_text()


def _line(row):
  """A benchmark's row in the table of what is asked."""
  splits = [s for s in (row.query, row.public, row.support) if s is not None]
  files = dict.fromkeys(
      path for split in splits for path in row.splits[split].paths())
  asked = row.query
  if not row.splits[row.query].answered:
    asked += f', answers on a server: {row.public}'
  if row.support is not None:
    asked += f' ({row.support})'
  if row.development:
    asked += ', DEV'
  metric = row.metric + ('' if row.open_ended else ', ranked')
  shots = ', '.join(map(str, row.shots)) + ' of each class' * row.rounds
  return (
      f'| {row.name} | {", ".join(f"`{path}`" for path in files)} | {asked} | '
      f'{metric} | {shots} |')


@pytest.mark.parametrize('name', benchmarks.BENCHMARKS)
def test_a_benchmark_is_told_as_its_row_has_it(name):
  assert _line(benchmarks.benchmark(name)) in TEXT.splitlines()


@pytest.mark.parametrize('family, choice', [
    ('Flamingo', 'random'), ('OpenFlamingo', 'random'),
    ('OpenFlamingo', 'rices_image'), ('IDEFICS', 'random')])
def test_figures_of_papers_are_those_of_the_code(family, choice):
  names = dict.fromkeys(
      f.model for f in FIGURES if f.model.split('-')[0] == family
      and f.choice == choice and not f.note and f.shots is not None)
  assert markdown(names, choice=choice) in TEXT


def _commands():
  block = TEXT.split('RUN="')[1].split('```')[0].replace('\\\n', '')
  return [
      shlex.split(line) for line in block.splitlines()
      if line.startswith('$RUN')]


def test_every_benchmark_has_its_command():
  tasks = [
      word.split('=', 1)[1] for command in _commands() for word in command
      if word.startswith('--config.tasks=')]
  assert tasks == [f"('{name}',)" for name in benchmarks.BENCHMARKS]


def test_every_flag_of_a_config_is_one_of_its_keys():
  config = config_lib.get_config()
  keys = set(re.findall(r'--config\.(\w+)', TEXT))
  keys |= set(re.findall(r'`config\.(\w+)', TEXT))
  assert len(keys) > 8
  assert keys <= set(config)


def test_controls_and_baselines_are_all_told():
  for name in (*harness.CONTROLS, *harness.BASELINES):
    assert f'`{name}`' in TEXT


def test_a_task_of_ones_own_takes_five_lines(
    tmp_path, monkeypatch, tiny, random_params, quick_jit):
  block = TEXT.split('```python\n')[1].split('```')[0]
  imports, body = block.split('\n\n')
  statements = re.findall(r'^\S', body, re.MULTILINE)
  assert len(statements) == 5
  models.birds(tmp_path / 'data', ranked=False)
  loaded = models.seeing(tiny, random_params)
  models.compile_once(monkeypatch, quick_jit)
  monkeypatch.setattr(flamingo, 'load', {'MODEL': loaded}.get)
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(imports, names)
  # Fewer of each, so that it takes seconds.
  usual = config_lib.get_config()
  usual.update(seeds=(0,), queries=2, beams=1, max_length=400)
  monkeypatch.setattr(names['benchmarks'], 'get_config', lambda: usual)
  exec(body, names)
  found = results.read(tmp_path / 'runs/birds/results.json')
  assert {row['task'] for row in found['rows']} == {'birds'}
  assert {row['shots'] for row in found['rows']} == {0, 4, 8}
  assert (tmp_path / 'runs/birds/report.html').exists()


def test_the_flags_that_are_documented_are_read_as_they_are_written():
  """Tuples of dicts, splits and attributes of rows, from the command line."""
  block = next(b for b in TEXT.split('```') if '--config.own=' in b)
  words = shlex.split(block.replace('\\\n', ''))
  given = [word for word in words if word.startswith('--config.')]
  assert len(given) == 4
  values, argv = flags.FlagValues(), ['benchmark', *given]
  parsed = config_flags.DEFINE_config_file(
      'config', str(DOC.parent.parent / 'experiments/configs/benchmarks.py'),
      lock_config=True, flag_values=values, sys_argv=argv)
  values(argv)
  config = parsed.value
  benchmark_config.check(config)
  rows = {
      row.name: row for row in benchmark_config.rows_of(config, 'nowhere')}
  assert list(rows) == ['birds', 'vqav2']
  assert rows['birds'].metric == 'top1'
  assert rows['vqav2'].max_tokens == 10
  assert config.splits['vqav2'] == 'test-dev'


@pytest.mark.parametrize('changes, message', [
    (dict(tasks=('cocoa',)), "'cocoa'. Did you mean 'coco'"),
    (dict(own=({'name': 'b', 'query': 'q'},)),
     r"own\[0\].*\['template', 'metric'\] are not among")])
def test_what_no_model_is_needed_for_is_said_before_one_is_loaded(
    changes, message):
  config = config_lib.get_config()
  config.update(changes)
  with pytest.raises(ValueError, match=message):
    benchmark_config.check(config)
