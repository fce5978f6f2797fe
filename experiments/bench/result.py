"""What a subject of the benchmark returns: seconds by name, and their ratios.

A ratio is always that of two named times, so that whoever reads it sees what
was divided, and can do it again from the JSON.
"""

from collections.abc import Mapping, Sequence
import dataclasses


@dataclasses.dataclass(frozen=True)
class Ratio:
  """One time over another, and what it should be.

  Attributes:
    name: what the quotient says.
    over: name of the time that is divided.
    under: name of the time it is divided by.
    goal: what it should be; None where it is only of interest.
    at_most: whether the goal is a most; else it is a least.
  """

  name: str
  over: str
  under: str
  goal: float | None = None
  at_most: bool = False


def result(
    seconds: Mapping[str, float],
    ratios: Sequence[Ratio] = (),
    facts: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
) -> dict:
  """A subject's result, as it goes into the JSON.

  Args:
    seconds: times by name; some are computed, such as the time that the same
      floating-point operations would take at the machine's ceiling.
    ratios: of them.
    facts: sizes, types, threads: what the times depend on.
    notes: sentences about what is in the times and what is not.

  Raises:
    KeyError: a ratio is of a time that is not there.
  """
  return {
      'seconds': dict(seconds),
      'ratios': {r.name: _quotient(r, seconds) for r in ratios},
      'facts': dict(facts or {}),
      'notes': list(notes)}


def _quotient(ratio: Ratio, seconds: Mapping[str, float]) -> dict:
  value = seconds[ratio.over] / seconds[ratio.under]
  met = None
  if ratio.goal is not None:
    met = value <= ratio.goal if ratio.at_most else value >= ratio.goal
  return {
      'name': ratio.name, 'value': value, 'over': ratio.over,
      'under': ratio.under,
      'goal': ratio.goal, 'at_most': ratio.at_most, 'met': met}
