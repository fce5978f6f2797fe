"""Pictures that nobody drew: weighted sums of the frozen features of others.

A gallery has a few hundred things, few enough to learn by heart how alike any
two of them are. Of sums there are as many as one likes: what tells them apart
has to be read off the features.

A blend stands for a picture where a row of a `FeatureStore` would: a scalar of
numpy with the fields `rows` and `weights`, and no features until it is read.
"""

from collections.abc import Callable

from jaxtyping import Float, Int, Shaped
import numpy as np


def blend(
    *parts: tuple[Int[np.ndarray, 'n'], Float[np.ndarray, 'n'] | float],
) -> Shaped[np.ndarray, 'n']:
  """Sums of K pictures each.

  Args:
    *parts: K times the rows [n] of the store and what they count.

  Returns:
    n blends.
  """
  rows = np.stack([np.asarray(rows) for rows, _ in parts], axis=1)
  blends = np.zeros(len(rows), dtype=[
      ('rows', np.int64, (len(parts),)),
      ('weights', np.float32, (len(parts),))])
  blends['rows'] = rows
  for k, (_, weights) in enumerate(parts):
    blends['weights'][:, k] = weights
  return blends


def read(
    store: Callable[[np.ndarray], Shaped[np.ndarray, 'n s d']],
    pictures: Shaped[np.ndarray, 'n'],
) -> Shaped[np.ndarray, 'n s d']:
  """The features of pictures: rows as they are, blends summed in float32.

  Args:
    store: maps rows [n] to their features.
    pictures: rows, or blends.
  """
  if pictures.dtype.names is None:
    return store(pictures)
  total, dtype = 0.0, None
  for rows, weights in zip(pictures['rows'].T, pictures['weights'].T):
    features = store(rows)
    dtype = features.dtype
    total = total + features.astype(np.float32) * weights[:, None, None]
  return total.astype(dtype)
