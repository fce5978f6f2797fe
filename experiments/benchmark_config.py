"""From a benchmark config to what is asked."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from experiments import build
from flamingo import sharding
from flamingo.eval import benchmarks
from flamingo.eval import harness
from flamingo.eval.benchmarks import Benchmark
from flamingo.eval.sample import Sampling
from flamingo.model.flamingo import Flamingo

_KNOWN = (
    'tasks', 'own', 'rows', 'splits', 'development', 'queries', 'shots',
    'texts_at_zero', 'seeds', 'choices', 'similarity', 'balanced', 'controls',
    'controlled', 'baselines', 'template', 'beams', 'length_penalty',
    'temperature', 'top_k', 'top_p', 'likelihood', 'permutations', 'calibrated',
    'max_length', 'frames', 'dtype', 'tokens_at_once', 'chunk', 'cache', 'mesh')


def check(config: Mapping[str, Any]) -> None:
  """Raises a ValueError if a config asks for something that there is not."""
  build.check_keys(config, _KNOWN, 'config')
  for field, value, known in (
      ('template', config['template'], benchmarks.TEMPLATES),
      ('likelihood', config['likelihood'], harness.LIKELIHOODS),
      ('similarity', config['similarity'], harness.SIMILARITIES),
      ('dtype', config['dtype'], build.DTYPES)):
    if value not in known:
      raise ValueError(
          f'config.{field} is {value!r}; there are {sorted(known)}.')
  for field, least in (
      ('beams', 1), ('permutations', 1), ('frames', 1), ('chunk', 1),
      ('max_length', 1), ('tokens_at_once', 1), ('queries', 0)):
    if config[field] < least:
      raise ValueError(
          f'config.{field} is {config[field]}; expected at least {least}.')
  open_answers(config)
  sweep_of(config)
  own = own_rows(config)
  for row in own.values():
    _check_template(row, config)
  known = {**benchmarks.BENCHMARKS, **own}
  for field in ('rows', 'splits'):
    build.check_keys(config[field] or {}, sorted(known), f'config.{field}')
  for name in config['tasks']:
    if name not in known:
      benchmarks.benchmark(name)  # which says what there is


def sweep_of(config: Mapping[str, Any]) -> harness.Sweep:
  """What a config varies."""
  texts = config['texts_at_zero']
  return harness.Sweep(
      shots=tuple(config['shots']) or None,
      texts_at_zero=None if texts < 0 else texts,
      **{name: tuple(config[name])
         for name in ('seeds', 'choices', 'controls', 'baselines')},
      controlled=tuple(config['controlled']) or None,
      balanced=config['balanced'])


def open_answers(config: Mapping[str, Any]) -> dict[str, Any]:
  """How open answers are found: by a search, or drawn.

  Raises:
    ValueError: both are asked for, or what cannot be drawn.
  """
  names = ('temperature', 'top_k', 'top_p')
  how = {name: config[name] for name in names}
  if config['temperature'] == 0:
    if (config['top_k'], config['top_p']) != (0, 1.0):
      raise ValueError(
          f'config.top_k={config["top_k"]} and config.top_p={config["top_p"]} '
          'are of drawn answers, and at a temperature of 0 none is drawn. Set '
          'config.temperature, or leave them at 0 and 1.0.')
    return {name: config[name] for name in ('beams', 'length_penalty')}
  Sampling(**how)
  if config['beams'] != 1:
    raise ValueError(
        f'config.temperature={config["temperature"]} draws answers, and '
        f'config.beams={config["beams"]} searches for them. Set '
        'config.beams=1, or config.temperature=0.')
  return how


def mesh_of(config: Mapping[str, Any]) -> Mesh:
  """The devices of this process, as the config arranges them."""
  sizes = config.get('mesh', {})
  build.check_keys(sizes, ('data', 'fsdp', 'tensor'), 'config.mesh')
  return sharding.make_mesh(**sizes, devices=jax.local_devices())


def own_rows(config: Mapping[str, Any]) -> dict[str, Benchmark]:
  """Rows of the config's own tasks, by name."""
  rows = {}
  for number, entry in enumerate(config['own']):
    known = ('name', 'query', 'support') + tuple(
        f.name for f in dataclasses.fields(Benchmark) if f.name not in (
            'name', 'query', 'support', 'splits', 'public'))
    build.check_keys(entry, known, f'config.own[{number}]')
    lacking = [
        key for key in ('name', 'query', 'template', 'metric')
        if key not in entry]
    if lacking:
      raise ValueError(
          f'config.own[{number}]: expected a name, a query, a template and a '
          f'metric; {lacking} are not among {sorted(entry)}.')
    row = benchmarks.own(**dict(entry))
    if row.name in rows or row.name in benchmarks.BENCHMARKS:
      raise ValueError(
          f'config.own[{number}]: there is a benchmark {row.name!r} already. '
          'Choose another name.')
    rows[row.name] = row
  return rows


def rows_of(
    config: Mapping[str, Any], root: str | pathlib.Path
) -> list[Benchmark]:
  """Rows of the benchmarks that a config asks for.

  Raises:
    ValueError: an unknown benchmark or attribute, or none is there.
  """
  own = own_rows(config)
  rows = {**benchmarks.BENCHMARKS, **own}
  names = tuple(config['tasks'])
  if not names:
    names = tuple(
        name for name, presence in benchmarks.present(root, rows).items()
        if not presence.missing)
    if not names:
      raise ValueError(
          f'No benchmark is complete below {pathlib.Path(root).absolute()}. '
          '--list says what is missing, and how to get it.')
    print(f'Evaluating all that is there: {", ".join(names)}.')
  found = []
  for name in names:
    row = own.get(name) or benchmarks.benchmark(name)
    changes = dict((config['rows'] or {}).get(name, {}))
    fields = [f.name for f in dataclasses.fields(Benchmark)]
    build.check_keys(changes, fields, f'config.rows.{name}')
    found.append(dataclasses.replace(row, **changes))
    _check_template(found[-1], config)
  return found


def _check_template(row, config):
  known = benchmarks.TEMPLATES[config['template']]
  if row.template not in known:
    raise ValueError(
        f'{row.name} has the template {row.template!r}; of config.template='
        f'{config["template"]!r} there are {sorted(known)}. Choose one of '
        'them.')


def shows(row: Benchmark, sweep: harness.Sweep) -> bool:
  """Whether a task's demonstrations, or their answers, are needed."""
  shots = row.shots if sweep.shots is None else sweep.shots
  texts = row.texts_at_zero if (
      sweep.texts_at_zero is None) else sweep.texts_at_zero
  return any(shots) or bool(texts) or 'majority' in sweep.baselines


def task_of(
    config: Mapping[str, Any], row: Benchmark, root: str | pathlib.Path
) -> harness.Task:
  """A benchmark's queries and support below the data root."""
  return harness.load_task(
      row, root, split=(config['splits'] or {}).get(row.name),
      development=config['development'], n=config['queries'] or None,
      frames=config['frames'], support=shows(row, sweep_of(config)))


def cells_of(
    config: Mapping[str, Any], task: harness.Task, *, similarity: str,
    max_length: int,
) -> list[harness.Cell]:
  """What is asked of a task; for the two last arguments see `harness.Cell`."""
  return harness.plan(
      task, sweep_of(config), template=config['template'],
      open_answers=open_answers(config),
      ranking={
          name: config[name]
          for name in ('likelihood', 'permutations', 'calibrated')},
      similarity=similarity, max_length=max_length, frames=config['frames'])


def longest(config: Mapping[str, Any], model: Flamingo) -> int:
  """Most tokens of a prompt with its answer: no more than the model counts."""
  if model.lm.position == 'learned':
    return min(config['max_length'], model.lm.max_positions)
  return config['max_length']


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
  """A config as JSON reads it back."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  return json.loads(json.dumps(config, default=dict))
