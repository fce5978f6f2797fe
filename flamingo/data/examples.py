"""Which examples a step of training read, in words: for when it went wrong."""

from collections.abc import Callable, Sequence

import numpy as np

from flamingo.data.pipeline import Dataset, draw_document
from flamingo.types import Document

_TEXT = 120  # characters of a document that are shown


def describer(
    datasets: Sequence[Dataset], *, seed: int, rows: int = 8
) -> Callable[[int, Sequence[str]], str]:
  """A function from a step and names of datasets to a text on its examples.

  Every row is given as what draws it again, its pictures (rows of the feature
  store, blends of them, or shapes) and its text.

  Args:
    datasets: the mixture.
    seed: of the pipeline.
    rows: most rows of a dataset that are written out.
  """
  def describe(step: int, names: Sequence[str]) -> str:
    lines = ['It read (draw_document gives these again):']
    for dataset in datasets:
      if names and dataset.name not in names:
        continue
      for row in range(min(dataset.batch_size, rows)):
        # The pipeline counts from 0, and the training its updates from 1.
        document, _ = draw_document(dataset, seed, step - 1, row)
        lines.append(
            f'  {dataset.name}, seed {seed}, step {step - 1}, row {row}: '
            f'{in_words(document)}')
      if dataset.batch_size > rows:
        lines.append(f'  and {dataset.batch_size - rows} more rows')
    return '\n'.join(lines)

  return describe


def in_words(document: Document) -> str:
  """Pictures of a document, and its text with marks where they stand."""
  pictures, text = [], ''
  for chunk in document:
    if chunk.image is not None:
      pictures.append(_name(chunk.image))
      text += '<image>'
    text += chunk.text
  if len(text) > _TEXT:
    text = text[:_TEXT] + '...'
  return f'images {", ".join(pictures) or "none"}; {text!r}'


def _name(image) -> str:
  """A row, a blend of rows ('0.4 x 7 + 0.6 x 12'), or a shape."""
  if isinstance(image, np.integer):
    return str(image)
  if isinstance(image, np.void):
    return ' + '.join(
        f'{weight:.2g} x {row}'
        for row, weight in zip(image['rows'], image['weights']))
  return 'x'.join(map(str, image.shape))
