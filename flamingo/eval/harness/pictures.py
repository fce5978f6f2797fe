"""Every image is seen once: its latents are kept on disk.

A row of the store is an image's latents and, behind them, what RICES and
nearest centroid compare images by: its contrastive embedding, or the mean of
its vision features. It is found by what the image's files hold, how they are
cut and fitted, and the fingerprint of the vision encoder, the resampler and
that choice.
"""

from collections.abc import Mapping, Sequence
import functools
import hashlib
import pathlib

from einops import rearrange
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Float, UInt8
import numpy as np

from flamingo import params as params_lib
from flamingo import sharding
from flamingo.data import features
from flamingo.data import images
from flamingo.data.images import Preprocess
from flamingo.eval.benchmarks import Item, read_images
from flamingo.model.flamingo import Flamingo
from flamingo.types import Params

_FRAMES_AT_ONCE = 32
_SEEING = ('vision', 'resampler', 'whitening')

SIMILARITIES = ('auto', 'embed', 'pooled')


def similarity_of(model: Flamingo, params: Params, wanted: str = 'auto') -> str:
  """What images are compared by: 'embed' or 'pooled'.

  'embed' is the encoder's contrastive embedding, which CLIP was trained to
  compare images by, and OpenFlamingo's RICES does; 'pooled' the mean of the
  features that the resampler sees.

  Args:
    model: with its vision encoder.
    params: all of its parameters.
    wanted: of `SIMILARITIES`; 'auto' takes the embedding where there is one.

  Raises:
    ValueError: there is no embedding, and it is wanted.
  """
  if wanted not in SIMILARITIES:
    raise ValueError(
        f'Expected a similarity of {list(SIMILARITIES)}; came {wanted!r}.')
  if wanted == 'pooled' or _embeds(model, params):
    return wanted if wanted == 'pooled' else 'embed'
  if wanted == 'embed':
    raise ValueError(
        f"similarity='embed' compares images by the contrastive embedding of "
        f'the vision encoder, and this {type(model.vision).__name__} has none, '
        'or its files lack what only that needs: the last norm of a CLIP. Set '
        "it to 'pooled', or to 'auto'.")
  return 'pooled'


def _embeds(model, params):
  vision = model.vision
  if not getattr(vision, 'embeds', False):
    return False
  size = vision.image_size
  needed = jax.eval_shape(
      functools.partial(vision.init, method='embed'), jax.random.key(0),
      jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8))['params']
  have = {path for path, _ in params_lib.flatten(params['vision'])}
  return all(path in have for path, _ in params_lib.flatten(needed))


class Pictures:
  """Latents of items' images by row, computed when they are first needed.

  Args:
    model: with its vision encoder.
    params: all of its parameters.
    preprocess: makes pixels what the encoder was trained on.
    root: data root.
    hashes: what each image holds, by path: see `benchmarks.content_hash`.
    cache: folder for the latents of this and other models.
    mesh: of devices that share what is encoded at once; None for one device.
    similarity: what images are compared by, see `similarity_of`.

  Raises:
    ValueError: the model has no vision encoder, or not the embedding that
      images are to be compared by.
  """

  def __init__(
      self,
      model: Flamingo,
      params: Params,
      preprocess: Preprocess,
      root: str | pathlib.Path,
      hashes: Mapping[str, str],
      cache: str | pathlib.Path,
      mesh: Mesh | None = None,
      similarity: str = 'auto',
  ):
    if model.vision is None:
      raise ValueError(
          'Benchmarks are made of pixels, and this model has no vision '
          'encoder. Load the model with one.')
    self._model, self._params, self._mesh = model, params, mesh
    self._preprocess, self._root, self._hashes = preprocess, root, hashes
    similarity = similarity_of(model, params, similarity)
    static = dict(model=model, similarity=similarity)
    self._see = functools.partial(_encode, **static)
    size = preprocess.size
    latents, compared = _parts.eval_shape(
        params, jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8), frames=1,
        **static)
    self._shape, self._width = latents.shape[1:], compared.shape[1]
    # A gist comes with the latents where there is an induction path.
    more = () if model.induction is None else (model.induction,)
    name = fingerprint(
        {k: v for k, v in params.items() if k in _SEEING},
        model.vision, model.resampler, model.whitening, preprocess, similarity,
        *more)
    self._store = features.FeatureStore(
        pathlib.Path(cache) / name, name,
        (int(np.prod(self._shape)) + self._width,), np.float32)
    self._rows: dict[bytes, int] = {}
    self.fill(())

  def key(self, item: Item) -> bytes:
    """Names what an item shows: equal for copies under other names.

    An item without paths shows the blank picture.
    """
    content = ' '.join(self._hashes[path] for path in item.image)
    return features.key(content.encode(), item.box, self._preprocess)

  def fill(self, items: Sequence[Item]) -> None:
    """Encodes the images of these items that were never seen."""
    # The blank picture is always there, for prompts that see nothing.
    wanted = {features.key(b'', None, self._preprocess): None}
    wanted.update({self.key(item): item for item in items if item.image})
    by_frames: dict[int, list] = {}
    for key, item in wanted.items():
      if key not in self._rows:
        frames = len(item.image) if item else 1
        by_frames.setdefault(frames, []).append((key, item))
    for frames, pairs in sorted(by_frames.items()):
      if frames > 1 and self._model.resampler is None:
        raise ValueError(
            'A model without a resampler shows a language model every feature, '
            f'and clips of {frames} frames would have more of them than '
            'pictures. Set config.frames=1.')
      keys = [key for key, _ in pairs]
      rows = self._store.fill(
          keys, lambda i, pairs=pairs: self._strip(pairs[i][1]),
          lambda strips, frames=frames: self._see(
              self._params, self._put(strips), frames=frames),
          batch_size=self._at_once(frames), label='images')
      self._rows.update(zip(keys, map(int, rows)))

  def row(self, item: Item) -> np.int64:
    """Row of an item's image in the store; `fill` was given it before."""
    return np.int64(self._rows[self.key(item)])

  def latents(self, rows: Sequence[int]) -> Float[np.ndarray, 'n r c']:
    """Latents by row."""
    flat = self._store[list(map(int, rows))][:, : -self._width]
    return flat.reshape((len(flat),) + self._shape)

  def embed(self, items: Sequence[Item]) -> Float[np.ndarray, 'n d']:
    """What items' images are compared by, a mean over the frames of clips."""
    self.fill(items)
    return self._store[[int(self.row(i)) for i in items]][:, -self._width :]

  def _strip(self, item: Item | None) -> UInt8[np.ndarray, 'h w 3']:
    """Frame under frame, as one picture."""
    if item is None:
      return images.blank(self._preprocess.size)
    frames = read_images(self._root, item)
    return np.concatenate([self._preprocess(frame) for frame in frames])

  def _put(self, strips: np.ndarray) -> jax.Array | np.ndarray:
    if self._mesh is None:
      return strips
    return sharding.put_whole_batch(strips, self._mesh)

  def _at_once(self, frames: int) -> int:
    """Pictures encoded at once, as many for each device."""
    shards = 1 if self._mesh is None else sharding.row_shards(self._mesh)
    return shards * max(1, _FRAMES_AT_ONCE // frames // shards)


# Compiled once for all evaluations of a model in a process.
_compiled = functools.partial(
    jax.jit, static_argnames=('model', 'similarity', 'frames'))


@_compiled
def _encode(params, strips, *, model, similarity, frames):
  latents, compared = _parts(
      params, strips, model=model, similarity=similarity, frames=frames)
  return jnp.concatenate(
      [latents.reshape(len(latents), -1), compared], axis=1)


@_compiled
def _parts(params, strips, *, model, similarity, frames):
  pixels = rearrange(strips, 'b (t h) w c -> (b t) h w c', t=frames)
  vision = {'params': params['vision']}
  if similarity == 'embed':
    seen, compared = model.vision.apply(vision, pixels, method='both')
    # A direction is what counts: no frame of a clip more than another.
    compared /= jnp.linalg.norm(compared, axis=-1, keepdims=True)
  else:
    seen = model.vision.apply(vision, pixels)
    compared = seen.astype(jnp.float32).mean(axis=1)
  seen = rearrange(seen, '(b t) s d -> b 1 t s d', t=frames)
  latents = model.apply({'params': params}, seen, method='see')
  compared = rearrange(
      compared.astype(jnp.float32), '(b t) d -> b t d', t=frames).mean(axis=1)
  return latents[:, 0].astype(jnp.float32), compared


def fingerprint(params: Params, *description: object) -> str:
  """Changes if a parameter does, or the `repr` of what they belong to."""
  digest = hashlib.blake2b(repr(description).encode(), digest_size=8)
  for path, leaf in sorted(params_lib.flatten(params)):
    array = np.ascontiguousarray(jax.device_get(leaf))
    digest.update(f'{path}{array.shape}{array.dtype}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
