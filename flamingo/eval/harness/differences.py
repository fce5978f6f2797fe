"""Where two evaluations first differ: in config, prompts, data, model."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from flamingo.eval.harness.compare import Pair, summary
from flamingo.eval.harness.runs import Run

ABSENT = 'nothing'
# In a config, but what comes out does not depend on them.
_NO_MATTER = ('cache', 'chunk', 'mesh', 'tokens_at_once')


@dataclasses.dataclass(frozen=True)
class Difference:
  """Where two things first differ.

  Attributes:
    where: names the place.
    first: what the first has there.
    second: what the second has.
    others: names of further places.
  """

  where: str
  first: object
  second: object
  others: tuple[str, ...] = ()


def config_difference(first: Run, second: Run) -> Difference | None:
  """The first key of the configs that differs, in an order that matters."""
  return _difference(_flat(first.config), _flat(second.config))


def identity_difference(first: Run, second: Run) -> Difference | None:
  """The first fingerprint of model or data that differs."""
  return _difference(first.identity, second.identity)


def version_difference(first: Run, second: Run) -> Difference | None:
  """The first package that differs."""
  return _difference(first.versions, second.versions)


def template_difference(first: Run, second: Run) -> Difference | None:
  """The first task whose example prompt differs, from where it does."""
  found = _difference(first.templates, second.templates)
  if found is None or ABSENT in (found.first, found.second):
    return found
  pairs = zip(found.first, found.second)
  same = next(
      (i for i, (a, b) in enumerate(pairs) if a != b),
      min(len(found.first), len(found.second)))
  start = max(0, same - 20)
  return dataclasses.replace(
      found, first=found.first[start : same + 60],
      second=found.second[start : same + 60])


def _flat(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Values by their dotted names; those that do not matter last."""
  flat = {}
  for key in sorted(config, key=lambda key: (key in _NO_MATTER, key)):
    value = config[key]
    if isinstance(value, Mapping) and value:
      flat.update(_flat(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat


def _difference(first, second) -> Difference | None:
  names = dict.fromkeys((*first, *second))
  differ = [
      name for name in names
      if first.get(name, ABSENT) != second.get(name, ABSENT)]
  if not differ:
    return None
  name, *others = differ
  return Difference(
      name, first.get(name, ABSENT), second.get(name, ABSENT), tuple(others))


def prompt_difference(
    first: Run, second: Run, pairs: Sequence[Pair]
) -> tuple[Difference | None, int, int]:
  """The first common example whose prompt differs, and how many do.

  Returns:
    the difference, of demonstrations where those differ, else of digests;
    how many prompts differ; of how many.
  """
  found, differ, total = None, 0, 0
  for pair in pairs:
    for a, b in zip(pair.first, pair.second):
      for name, ours in first.records[a].items():
        theirs = second.records[b].get(name)
        if theirs is None:
          continue
        total += 1
        if ours['prompt'] == theirs['prompt']:
          continue
        differ += 1
        if found is None:
          where = f'{summary([tuple(pair.fields.items())])}, example {name}'
          for field in ('demonstrations', 'images', 'prompt'):
            if ours.get(field) != theirs.get(field):
              found = Difference(
                  f'{where}, {field}', ours.get(field), theirs.get(field))
              break
  return found, differ, total
