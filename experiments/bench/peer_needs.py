"""Whether OpenFlamingo is here to be timed, and what to install if not."""

import importlib
import importlib.util
import sys
import types

# Its flag --precision; the last keeps all weights in bfloat16, which it offers
# although its own models were trained with the first two.
PRECISIONS = ('fp32', 'amp_bf16', 'bf16')
_NEEDS = ('torch', 'transformers', 'einops_exts', 'open_flamingo')


def lacking() -> list[str]:
  """Packages that OpenFlamingo needs and that are not installed."""
  return [name for name in _NEEDS if importlib.util.find_spec(name) is None]


def check() -> None:
  """Raises ImportError where something it needs is not installed."""
  if missing := lacking():
    raise ImportError(
        f'OpenFlamingo is timed in torch, and {", ".join(missing)} '
        f'{"is" if len(missing) == 1 else "are"} not installed. Install them: '
        "pip install -e '.[parity]', then "
        'pip install --no-deps open-flamingo==2.0.1 '
        'efficientnet-lite-pytorch==0.1.0 (or run `make parity`).')


def load() -> types.ModuleType:
  """The module `experiments.bench.openflamingo`, which imports torch.

  Raises:
    ImportError: something it needs is not installed.
  """
  check()
  # Its factory imports CLIP, which nothing that is timed asks for.
  name = 'open_clip'
  if name not in sys.modules and importlib.util.find_spec(name) is None:
    sys.modules[name] = types.ModuleType(name)
  return importlib.import_module('experiments.bench.openflamingo')
