"""The subjects of the benchmark by name, and how to run several of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import importlib.metadata
import time
from typing import Any

import jax

from experiments.bench import (
    clock, depth, first_step, images, peer, pipeline, ranking, slice_of_3b,
    step, sweep)
from experiments.bench.apart import apart
from flamingo import hardware


@dataclasses.dataclass(frozen=True)
class Subject:
  """Something that is measured.

  Attributes:
    about: one line about it.
    cost: seconds it takes on two slow cores, about.
    run: measures it, given a `Quickstart`.
  """

  about: str
  cost: int
  run: Callable[[Any], dict]

  @classmethod
  def of(cls, module) -> 'Subject':
    """The subject that a module measures."""
    return cls(module.ABOUT, module.COST, module.run)


SUBJECTS = {
    'step': Subject.of(step),
    'slice': Subject.of(slice_of_3b),
    'peer': Subject.of(peer),
    'images': Subject.of(images),
    'depth': Subject.of(depth),
    'start': Subject.of(first_step),
    'pipeline': Subject.of(pipeline),
    'ranking': Subject.of(ranking),
    'sweep': Subject.of(sweep),
}


def choose(only: Sequence[str]) -> dict[str, Subject]:
  """Subjects by name; all of them if none is named.

  Raises:
    ValueError: one is not known.
  """
  if unknown := [name for name in only if name not in SUBJECTS]:
    raise ValueError(
        f'--only names {", ".join(map(repr, unknown))}; there are '
        f'{", ".join(SUBJECTS)}.')
  return {name: SUBJECTS[name] for name in SUBJECTS if name in only or not only}


def measure(
    subjects: Mapping[str, Subject], given: Any
) -> Iterator[tuple[str, dict]]:
  """Yields (name, result) of each subject, as soon as it is measured.

  Each has a process of its own, which takes its memory with it: gigabytes that
  a subject has needed once are kept for its next step (see
  `hardware.keep_memory`), and the next subject may need as many. One that
  fails, or whose process is killed, has its error in the place of its times,
  and the others are measured all the same.

  Args:
    subjects: by name; what is to be run is a function of a module.
    given: what each is given; sent to its process.
  """
  for name, subject in subjects.items():
    began = time.perf_counter()
    try:
      with apart(_prepared, subject, given) as run:
        result = run()
    except RuntimeError as error:  # whatever it was there, the others go on
      result = {
          'error': str(error).splitlines()[-1], 'traceback': str(error)}
    yield name, {
        'about': subject.about, 'took': time.perf_counter() - began, **result}


def _prepared(subject: Subject, given: Any) -> Callable[[], dict]:
  hardware.keep_memory()  # as training does
  # What is compiled here is to be compiled, whatever an earlier run has left.
  jax.config.update('jax_enable_compilation_cache', False)
  return functools.partial(subject.run, given)


def look_at_machine() -> dict:
  """`machine`, seen from a process that lets go of its devices again."""
  with apart(functools.partial, machine) as look:
    return look()


def machine() -> dict:
  """What the times were measured on."""
  device = jax.devices()[0]
  return {
      'device': device.device_kind, 'platform': device.platform,
      'devices': jax.device_count(), 'cores': clock.cores(),
      'versions': {name: _version(name) for name in (
          'jax', 'jaxlib', 'torch', 'transformers', 'open_flamingo')}}


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None
