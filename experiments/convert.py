"""Opens a published Flamingo, says what is in it, and writes it in a layout.

  python -m experiments.convert SRC            # only read, and report
  python -m experiments.convert SRC DST        # a directory of our own layout
  python -m experiments.convert SRC DST --layout=openflamingo

SRC is what `flamingo.load` takes: an OpenFlamingo checkpoint, with --lm and
--vision, or a directory of IDEFICS, Otter, flamingo-mini or our own layout.
Anything in the files that is not explained is an error.
"""

import collections
from collections.abc import Mapping
import pathlib
import pickle
import resource
import sys

from absl import app, flags
import jax.numpy as jnp

from flamingo import params as params_lib
from flamingo.pretrained import idefics
from flamingo.pretrained import load as load_lib
from flamingo.pretrained import native
from flamingo.pretrained import openflamingo
from flamingo.pretrained.families import FAMILIES, Family
from flamingo.pretrained.layouts import some

DTYPES = {'keep': None, 'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
LAYOUTS = ('native', 'openflamingo', 'idefics')

_LM = flags.DEFINE_string(
    'lm', None, 'Directory of the language model, if SRC does not have it.')
_VISION = flags.DEFINE_string(
    'vision', None, 'Directory or file of the CLIP, if SRC does not have it.')
_LAYOUT = flags.DEFINE_enum(
    'layout', 'native', LAYOUTS, 'How DST is written.')
_FAMILY = flags.DEFINE_enum(
    'family', None, sorted(FAMILIES),
    'Whose names the language model has in the layout openflamingo.')
_DTYPE = flags.DEFINE_enum(
    'dtype', 'keep', list(DTYPES), 'Type of the parameters in DST.')


def main(argv: list[str]) -> None:
  if len(argv) not in (2, 3):
    raise app.UsageError('Expected SRC and perhaps DST: a file or a directory.')
  source, target = argv[1], argv[2] if len(argv) == 3 else None
  if target is not None:
    check_target(pathlib.Path(target))
  try:
    loaded = load_lib.load(
        source, lm=_LM.value, vision=_VISION.value, dtype=DTYPES[_DTYPE.value])
  except (ValueError, OSError, ImportError, pickle.UnpicklingError) as error:
    sys.exit(f'{source} was not converted. {error}')
  print(describe(loaded))
  if target is not None:
    try:
      write(
          loaded, target, _LAYOUT.value,
          None if _FAMILY.value is None else FAMILIES[_FAMILY.value])
    except (ValueError, OSError) as error:
      sys.exit(f'{source} was read and not written to {target}. {error}')
    print(f'Wrote {target} in the layout {_LAYOUT.value}.')
  print(f'Peak memory {peak_gigabytes():.2f} GB.')


def check_target(target: pathlib.Path) -> None:
  """Exits if something is there, before anything is read."""
  if target.is_file() or (target.is_dir() and any(target.iterdir())):
    sys.exit(f'{target} is there already. Remove it, or name another place.')


def write(
    loaded: load_lib.Loaded, target: str, layout: str, family: Family | None
) -> None:
  """Writes a Flamingo in one of `LAYOUTS`.

  Args:
    loaded: the Flamingo.
    target: a directory that is not there; for OpenFlamingo a file whose name
      ends in '.safetensors'.
    layout: its name.
    family: of the language model, whose names OpenFlamingo's layout has.

  Raises:
    ValueError: the layout cannot express the model; it says why.
  """
  if layout == 'native':
    native.save(
        target, loaded.model, loaded.params, loaded.tokenizer, loaded.vision)
  elif layout == 'idefics':
    idefics.save(target, loaded.model, loaded.params, loaded.tokenizer)
  elif family is None:
    raise ValueError(
        "OpenFlamingo's layout has the names of the language model's family. "
        f'Pass --family, one of {sorted(FAMILIES)}.')
  else:
    openflamingo.save(target, loaded.model, loaded.params, family)


def describe(loaded: load_lib.Loaded) -> str:
  """What was loaded, what is missing by design, what has no use; and why."""
  lines = ['Loaded:']
  lines += [
      f'  {name:24} {numbers / 1e6:10,.1f} M'
      for name, numbers in parts(loaded).items()]
  report = loaded.report
  lines.append(
      f'  {len(report.loaded)} tensors, '
      f'{sum(report.loaded.values()) / 1e6:,.1f} M numbers')
  lines += reasons('Missing by design:', report.absent)
  lines += reasons('Of no use:', report.unused)
  lines.append('Unexpected: none')
  return '\n'.join(lines)


def parts(loaded: load_lib.Loaded) -> dict[str, int]:
  """Numbers of each part of a model, the gated blocks together."""
  counts = collections.Counter()
  for path, leaf in params_lib.flatten(loaded.params):
    name = 'gated cross-attention' if path[0].startswith('xattn_') else path[0]
    counts[name] += leaf.size
  return dict(counts)


def reasons(title: str, names: Mapping[str, str]) -> list[str]:
  """Lines that list names by why they are there."""
  by_reason = collections.defaultdict(list)
  for name, why in names.items():
    by_reason[why].append(name)
  return [f'{title} none' if not names else title] + [
      f'  {why}: {some(group, 3)}' for why, group in sorted(by_reason.items())]


def peak_gigabytes() -> float:
  """Most memory this process has had, in 10**9 bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == 'darwin' else 1024) / 1e9


if __name__ == '__main__':
  app.run(main)
