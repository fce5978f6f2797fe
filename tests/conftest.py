"""Strict JAX, and the tiny Flamingo that most tests look at.

Nothing of `flamingo` is imported before a fixture runs: pytest's option
`--jaxtyping-packages` checks only what is imported after this file.
"""

from collections.abc import Callable
import dataclasses
import functools
import gc
import importlib.util
import os
import pathlib
from typing import Any

import agreement
import jax
import numpy as np
import pytest

# Set before the first array is made. A broadcast between ranks and a key used
# twice are errors, and there are two devices to place things on.
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)
jax.config.update('jax_num_cpu_devices', 2)
# Most of the tests' time is compiling, here and in the programs they start.
# XLA's older way to emit loops takes a third of the new one's time, and a third
# of that is splitting a program to compile it in threads. jaxlib 0.11 has the
# older way no more, and ends a program that names a flag it doesn't know. Where
# in the source an operation comes from nobody asks, and it is long to say.
jax.config.update('jax_disable_most_optimizations', True)
jax.config.update('jax_traceback_in_locations_limit', 0)
os.environ.update(
    JAX_DISABLE_MOST_OPTIMIZATIONS='1', JAX_TRACEBACK_IN_LOCATIONS_LIMIT='0')
if jax.version.__version_info__ < (0, 11):
  os.environ['XLA_FLAGS'] = ' '.join((
      os.environ.get('XLA_FLAGS', ''), '--xla_cpu_use_fusion_emitters=false',
      '--xla_cpu_parallel_codegen_split_count=1'))


# Files that compare with the original classes, and what those need.
HERE = pathlib.Path(__file__).parent
PARITY = sorted(path.name for path in HERE.glob('*_parity_test.py'))
ORACLES = ('torch', 'transformers', 'open_flamingo', 'einops_exts', 'timm')
ABSENT = [name for name in ORACLES if importlib.util.find_spec(name) is None]
collect_ignore = PARITY if ABSENT else []
# Begun first, the longest in front: of the others none is long enough to leave
# a process idle at the end.
LONGEST = (
    'processes_test.py', 'colab_test.py', 'sharding_devices_test.py',
    'scan_test.py', 'bench_subjects_test.py', 'kill_test.py',
    'harness_test.py', 'harness_benchmarks_test.py', 'update_test.py',
    'harness_share_test.py', 'decode_test.py', 'plan_test.py', 'lm_test.py',
    'flamingo_families_test.py', 'nfnet_test.py', 'flamingo_test.py',
    'loop_test.py')


def pytest_addoption(parser):
  parser.addoption(
      '--parity', action='store_true',
      help='fail if any comparison with an original is left out')


def pytest_collection_modifyitems(config, items):
  place = {name: i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
  if config.getoption('--parity') and ABSENT:
    raise pytest.UsageError(
        f'--parity compares with the originals, and {ABSENT} are not '
        'installed. Run `make parity`, which installs them.')


def pytest_collection_finish():
  # Tracing makes millions of objects, of which few are garbage in cycles: look
  # through them more seldom, and never through what is imported.
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 50, 100)


def pytest_terminal_summary(terminalreporter, config):
  measured = [
      (report.nodeid.partition('/')[2], value)
      for report in terminalreporter.stats.get('passed', [])
      for name, value in report.user_properties if name == agreement.NAME]
  for test, most in sorted(measured):
    terminalreporter.write_line(f'{most:8.1e}  {test}')
  if ABSENT and not config.getoption('--parity'):
    terminalreporter.write_line(
        f'Left out for want of {", ".join(ABSENT)}: {", ".join(PARITY)}. '
        'Run them with `make parity`, which installs these.')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
  report = yield
  # On the report it reaches the summary from other processes, too.
  if report.when == 'call' and item.nodeid in agreement.MEASURED:
    report.user_properties.append(
        (agreement.NAME, agreement.MEASURED[item.nodeid]))
  return report


def pytest_sessionfinish(session):
  reporter = session.config.pluginmanager.getplugin('terminalreporter')
  if reporter is None:  # one of several processes
    return
  # A comparison that is skipped proves nothing.
  if session.config.getoption('--parity') and reporter.stats.get('skipped'):
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


@functools.cache  # many tests look at one block, which takes long to trace
def _shapes(model, method, inputs):
  return jax.eval_shape(
      functools.partial(model.init, method=method), jax.random.key(0), *inputs)


def _random_params(model, *inputs, method=None, seed=0):
  """Parameters of `model` with no leaf at a special value, gates open.

  Zeros and ones, which norms, biases and gates start from, would hide that a
  parameter is not used. And numpy makes them in no time, where compiling
  `model.init` takes longer than the tests.
  """
  from flamingo import params as params_lib

  shapes = _shapes(model, method, jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs))
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    value = rng.normal(scale=0.3, size=leaf.shape)
    if path[-1] == 'scale':
      value = value + 1
    if path[-1].endswith('_gate'):
      value = value + 0.5 + np.sign(value)
    return jax.device_put(value.astype(leaf.dtype))  # which compiles nothing

  return params_lib.unflatten(
      (path, draw(path, leaf))
      for path, leaf in params_lib.flatten(shapes['params']))


@dataclasses.dataclass(frozen=True)
class Tiny:
  """A Flamingo small enough to compile in seconds; most sizes are prime.

  Attributes:
    model: an LM of 5 layers with gated blocks before layers 1 and 3.
    params: random in every leaf, gates open.
    closed: the same with gates at zero.
    images: features [2 3 2 7 23].
    tokens: int32 [2 13], new tokens among them.
    image_index: int32 [2 13]; the first row has text before its first image.
    forward: jitted (params, images, tokens, image_index) to logits [2 13 261].
  """

  model: Any
  params: dict
  closed: dict
  images: jax.Array
  tokens: jax.Array
  image_index: jax.Array
  forward: Callable


@pytest.fixture(scope='session')
def random_params():
  """(model, *inputs, method=None, seed=0) to params random in every leaf."""
  return _random_params


@pytest.fixture(scope='session')
def quick_jit():
  """`jax.jit` that compiles fast: tiny models do nearly nothing else."""
  return functools.partial(jax.jit, compiler_options={
      'xla_backend_optimization_level': 0,
      'xla_llvm_disable_expensive_passes': True})


@pytest.fixture(scope='session')
def run(quick_jit):
  """(module, params, *inputs) to the output in numpy."""
  apply = quick_jit(
      lambda module, params, *x: module.apply({'params': params}, *x),
      static_argnums=0)
  return lambda *args: jax.device_get(apply(*args))


@pytest.fixture(scope='session')
def tiny():
  """The tiny Flamingo, see `Tiny`."""
  from flamingo import params as params_lib
  from flamingo.model.flamingo import Flamingo
  from flamingo.model.lm import LM
  from flamingo.model.resampler import PerceiverResampler
  from flamingo.model.xattn import GatedCrossAttention

  model = Flamingo(
      lm=LM(
          vocab_size=259, width=11, layers=5, heads=6, kv_heads=3, head_dim=4,
          hidden=17),
      resampler=PerceiverResampler(
          visual_width=23, width=19, layers=2, latents=5, heads=3, head_dim=7,
          ff_hidden=29, frames=3, project_input=True),
      xattn=tuple(
          GatedCrossAttention(
              width=11, visual_width=19, heads=2, head_dim=13, ff_hidden=31)
          for _ in range(2)),
      every=2, offset=1)
  rng = np.random.default_rng(1)
  images = rng.normal(size=(2, 3, 2, 7, 23)).astype(np.float32)
  tokens = rng.integers(0, 259, (2, 13)).astype(np.int32)
  index = np.asarray([
      [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3],
      [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]], np.int32)
  begins = np.diff(index, prepend=0) > 0
  tokens = np.where(begins, 259, tokens)  # the image tag
  tokens = np.where(np.roll(begins, -1, 1), 260, tokens)  # the end of a chunk
  inputs = tuple(map(jax.numpy.asarray, (images, tokens, index)))
  params = _random_params(model, *inputs)
  closed = params_lib.unflatten(
      (path, 0 * leaf if path[-1].endswith('_gate') else leaf)
      for path, leaf in params_lib.flatten(params))
  forward = jax.jit(lambda params, *x: model.apply({'params': params}, *x))
  return Tiny(model, params, closed, *inputs, forward)
