"""The nouns of the project, and the one glossary of array axes.

Axes, in every signature:
  B batch · N images · T frames · H W pixels · S features per frame
  L tokens · M keys (cached and new) · R latents · D width · V vocabulary
"""

from collections.abc import Sequence
import dataclasses

import flax.struct
import jax
import numpy as np

Params = dict[str, 'Params | jax.Array | np.ndarray']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
  """A picture or a clip, or neither, and the text that follows it.

  Attributes:
    text: the text; it may be empty. It never contains `<image>` or `<EOC>`:
      those are written by `encode`.
    image: uint8 pixels [T H W 3], frozen vision features [T S D], or a row of
      the feature store that holds them, or a blend of rows (see
      `flamingo.data.blends`); None for text without a picture.
    learn: whether these tokens count in the loss.
    close: whether `<EOC>` ends the chunk. A query is left open, for the model
      to continue.
  """

  text: str
  image: np.ndarray | np.int64 | np.void | None = None
  learn: bool = True
  close: bool = True


# A web page, a caption, a clip, a question, a chat, a 32-shot prompt.
Document = Sequence[Chunk]


@flax.struct.dataclass
class Batch:
  """What a training step reads.

  Attributes:
    images: uint8 [B N T H W 3], or cached features [B N T S D].
    tokens: int32 [B L].
    image_index: int32 [B L], the image each token sees, from 1; 0 sees none.
    targets: int32 [B L], the next token.
    loss_mask: bool [B L], the targets that count.
  """

  images: jax.Array
  tokens: jax.Array
  image_index: jax.Array
  targets: jax.Array
  loss_mask: jax.Array


@flax.struct.dataclass
class TrainState:
  """What a training step changes, and the frozen part it reads.

  Attributes:
    step: int32 scalar, updates done.
    trainable: resampler, gated cross-attention, the rows of new tokens.
    frozen: vision and language model: never differentiated, never saved again.
    opt_state: the optimizer's state, for `trainable` alone.
    ema: moving average of `trainable`; None where none is kept.
  """

  step: jax.Array
  trainable: Params
  frozen: Params
  opt_state: tuple
  ema: Params | None = None
