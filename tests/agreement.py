"""How far our numbers are from the originals': asserted, and noted for a table.

`pytest --parity` prints what was noted, the largest difference of each test.
"""

import os

import numpy as np

NAME = 'largest difference'

# By test, as pytest names it.
MEASURED: dict[str, float] = {}


def close(ours, theirs, *, atol: float) -> None:
  """Asserts that no number differs by more than `atol`, and notes the most."""
  ours = np.asarray(ours, np.float64)
  theirs = np.asarray(theirs, np.float64)
  assert ours.size, 'nothing was compared'
  np.testing.assert_allclose(ours, theirs, atol=atol, rtol=0)
  test = os.environ['PYTEST_CURRENT_TEST'].rpartition(' ')[0]
  most = float(np.abs(ours - theirs).max())
  MEASURED[test] = max(MEASURED.get(test, 0.0), most)
