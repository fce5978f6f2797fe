"""Documents become batches, in an order that one integer says. The only grain.

What step k trains on is a function of (seed, k): not of how many processes
draw it, of what was drawn before, or of where a run was interrupted.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import zlib

import grain
import numpy as np

from flamingo.data import encode
from flamingo.data.tokenizer import Tokenizer
from flamingo.types import Batch, Document

Source = Callable[[np.random.Generator], Document]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """One member of the mixture.

  Attributes:
    name: for metrics and for its stream of chance.
    source: draws a document.
    weight: lambda, the weight of its mean loss a token (section 2.4).
    batch_size: documents a step.
    first_step: steps before this one train without it. Its rows stay in the
      batch with nothing to learn, so that the step keeps its shape.
    look_ahead: probability that text sees the image after it (p_next).
  """

  name: str
  source: Source
  weight: float = 1.0
  batch_size: int
  first_step: int = 0
  look_ahead: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """The one shape of all batches.

  Attributes:
    length: L, tokens of a document; longer ones are cut at their end.
    images: N, images of a document; more are an error.
    image_shape: [T H W 3] of pixels or [T S D] of features.
    image_dtype: of the images in a batch.
    lookup: rows of the feature store to features, for documents whose images
      are rows.
  """

  length: int
  images: int
  image_shape: tuple[int, ...]
  image_dtype: np.typing.DTypeLike = np.float32
  lookup: Callable[[np.ndarray], np.ndarray] | None = None


def draw_document(
    dataset: Dataset, seed: int, step: int, row: int
) -> tuple[Document, bool]:
  """A row of a batch before it is encoded, and whether its text looks ahead."""
  name = zlib.crc32(dataset.name.encode())
  rng = np.random.default_rng((seed, name, step, row))
  return dataset.source(rng), bool(rng.random() < dataset.look_ahead)


def draw_batch(
    dataset: Dataset, tokenizer: Tokenizer, layout: Layout, seed: int,
    step: int, rows: Sequence[int] | None = None,
) -> Batch:
  """The batch of one dataset at one step, or some rows of it.

  Every row has its own stream of chance, so two processes that draw half of
  the rows each draw what one would.
  """
  rows = range(dataset.batch_size) if rows is None else rows
  examples = []
  for row in rows:
    document, look_ahead = draw_document(dataset, seed, step, row)
    examples.append(encode.encode(
        document, tokenizer, max_images=layout.images, look_ahead=look_ahead))
  batch = encode.batch(
      examples, length=layout.length, images=layout.images,
      image_shape=layout.image_shape, image_dtype=layout.image_dtype,
      pad_id=tokenizer.pad_id, lookup=layout.lookup)
  if step < dataset.first_step:
    batch = batch.replace(loss_mask=np.zeros_like(batch.loss_mask))
  return batch


def make_pipeline(
    datasets: Sequence[Dataset],
    tokenizer: Tokenizer,
    layout: Layout,
    *,
    seed: int,
    steps: int,
    rows: Callable[[int], Sequence[int]] = range,
    threads: int = 1,
) -> grain.DatasetIterator:
  """An iterator over steps of {dataset name: batch}.

  Its `get_state` and `set_state` are a checkpoint's view of it.

  Args:
    datasets: the mixture, of any length.
    tokenizer: of the language model.
    layout: shape of the batches.
    seed: of the whole order.
    steps: length.
    rows: of a batch size, those rows that this process draws; by default all.
      Several processes share the rows by `sharding.rows_here`.
    threads: how many steps are drawn at once, ahead of the training.

  Raises:
    ValueError: names occur twice.
  """
  names = [dataset.name for dataset in datasets]
  if len(set(names)) < len(names) or not names:
    raise ValueError(
        f'A mixture needs datasets of different names, not {names}.')
  drawn = {dataset.name: rows(dataset.batch_size) for dataset in datasets}

  def draw(step: int) -> dict[str, Batch]:
    return {
        dataset.name: draw_batch(
            dataset, tokenizer, layout, seed, step, drawn[dataset.name])
        for dataset in datasets}

  options = grain.ReadOptions(
      num_threads=threads, prefetch_buffer_size=2 * threads)
  return iter(grain.MapDataset.range(steps).map(draw).to_iter_dataset(options))


Pipeline = Iterator[dict[str, Batch]]
