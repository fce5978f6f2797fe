"""Wall time of what is called again and again, two sides in turns.

A machine's speed drifts: others use it, it gets warm, its clock changes. Two
things timed one after the other differ by that too; timed in turns, A B A B,
both drift alike and their ratio stays.
"""

from collections.abc import Callable, Mapping
import os
import statistics
import time

import jax
import jax.numpy as jnp


def once(function: Callable[[], object]) -> float:
  """Seconds of one call, up to when its result is there."""
  began = time.perf_counter()
  jax.block_until_ready(function())
  return time.perf_counter() - began


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    limit: float = 60.0,
    warm: int = 1,
) -> dict[str, list[float]]:
  """Seconds of each call of each function, called in turns.

  Args:
    functions: by name; called without arguments.
    rounds: how often each is timed.
    limit: seconds after which no further round begins; the first always does.
    warm: calls of each that come first and are not timed: they compile.
  """
  for function in functions.values():
    for _ in range(warm):
      jax.block_until_ready(function())
  times = {name: [] for name in functions}
  began = time.perf_counter()
  for done in range(rounds):
    if done and time.perf_counter() - began > limit:
      break
    for name, function in functions.items():
      times[name].append(once(function))
  return times


def medians(
    functions: Mapping[str, Callable[[], object]], **how
) -> dict[str, float]:
  """The median of each function's times: see `in_turns`."""
  return {
      name: statistics.median(times)
      for name, times in in_turns(functions, **how).items()}


def fastest(function: Callable, *args, repeats: int = 5) -> float:
  """Seconds of the fastest of some calls, after one that compiles."""
  call = lambda: function(*args)
  return min(in_turns({'it': call}, rounds=repeats)['it'])


def ceiling(dtype, size: int = 1024, repeats: int = 20) -> float:
  """FLOP/s of a square matrix product with a float32 sum."""
  # Chips at the limit of their power multiply zeros and ones faster.
  a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
  product = jax.jit(lambda a, b: jax.lax.dot_general(
      a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32))
  return 2 * size**3 / fastest(product, a, a, repeats=repeats)


def ceilings(size: int = 1024) -> dict[str, float]:
  """FLOP/s of matrix products by type of their operands."""
  return {
      str(jnp.dtype(dtype)): ceiling(dtype, size)
      for dtype in (jnp.bfloat16, jnp.float32)}


def cores() -> int:
  """Processors that this process may use; XLA has a thread for each."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
