"""Flamingo: a frozen language model with eyes.

Flamingo owns the loop over the LM's layers, so the LM stays an ordinary module
whose pretrained parameters drop in under `lm`, and the vision encoder one whose
parameters drop in under `vision`.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from flamingo.model import scan as scan_lib
from flamingo.model.cache import Cache, layer_of
from flamingo.model.induction import check_heads, gist, InductionPath
from flamingo.model.lm import LM
from flamingo.model.products import project_to_rows
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.stack import BLOCKS, Groups, LAYERS
from flamingo.model.whitening import Whitening
from flamingo.model.xattn import GatedCrossAttention
from flamingo.sharding import Activations, ONE_DEVICE


def gated_layers(layers: int, every: int, offset: int) -> tuple[int, ...]:
  """LM layers that a gated block stands before.

  Flamingo and IDEFICS: offset 0; OpenFlamingo: offset every - 1.
  """
  if not 0 <= offset < every:
    raise ValueError(
        f'offset={offset} must be at least 0 and less than every={every}: '
        'gated blocks stand before LM layers offset, offset + every, ...')
  return tuple(range(offset, layers, every))


def spans(layers: int, every: int, offset: int) -> tuple[range, ...]:
  """LM layers from each gated block to the next, and those before the first."""
  edges = sorted({0, *gated_layers(layers, every, offset), layers})
  return tuple(range(a, b) for a, b in zip(edges, edges[1:]))


class Flamingo(nn.Module):
  """Frozen vision, resampler, gated cross-attention, frozen LM.

  Attributes:
    lm: the language model.
    resampler: the Perceiver Resampler; None shows every feature to the LM
      (IDEFICS without its perceiver).
    xattn: one gated block for each of `gated_layers(lm.layers, every, offset)`.
    every: a gated block stands before every such LM layer.
    offset: the first LM layer with one.
    new_tokens: tokens behind the LM's vocabulary, with trainable rows; with 0
      there are no such parameters.
    new_token_scale: standard deviation of their first values.
    whitening: a fixed map in front of the resampler, if any.
    induction: a way for pictures to the LM's induction heads, if any.
    vision: encoder of uint8 pixels [B H W 3] to features [B S C]; None if the
      model is only given cached features.
    scan: whether full groups of layers (a gated block and the `every` LM layers
      behind it) are read by a scan over stacked parameters, see `stack`. Then
      compiling takes no longer for a deeper model. From one key it draws other
      first values, of the same distributions.
    remat: what the backward pass computes again of such a group: 'none' of it,
      all but matrix products with parameters ('dots'), or it in 'full'.
    activations: says where activations are on a mesh; of no consequence for
      what is computed.
  """

  lm: LM
  resampler: PerceiverResampler | None
  xattn: Sequence[GatedCrossAttention]
  every: int = 1
  offset: int = 0
  new_tokens: int = 2
  new_token_scale: float = 0.02
  whitening: Whitening | None = None
  induction: InductionPath | None = None
  vision: nn.Module | None = None
  scan: bool = False
  remat: str = 'none'
  activations: Activations = ONE_DEVICE

  def setup(self):
    places = gated_layers(self.lm.layers, self.every, self.offset)
    if len(places) != len(self.xattn):
      raise ValueError(
          f'every={self.every}, offset={self.offset} puts gated blocks before '
          f'LM layers {places}, but {len(self.xattn)} blocks were given.')
    if len(set(map(id, self.xattn))) != len(self.xattn):
      # flax gives an instance its parameters once, however often it stands.
      raise ValueError(
          f'{len(self.xattn)} gated blocks were given, and some of them are '
          'one instance, which would share its weights. Pass '
          '`block.clone()` for each place.')
    self.gated = dict(zip(places, self.xattn))
    if self.remat not in scan_lib.REMAT:
      raise ValueError(
          f'remat={self.remat!r} is no setting of Flamingo. Choose one of '
          f'{scan_lib.REMAT}.')
    if self.induction is not None:
      self._check_induction()
    if self.groups is not None:
      scan_lib.check(
          self.lm, self.groups, self.xattn[:self.groups.count])
    if not self.new_tokens:
      return
    rows = (self.new_tokens, self.lm.row_width)
    init = nn.initializers.normal(self.new_token_scale)
    self.new_embedding = self.param('new_embedding', init, rows)
    if not self.lm.tied:
      self.new_unembedding = self.param('new_unembedding', init, rows)

  def _check_induction(self):
    resampler = self.resampler
    check_heads(self.lm, self.induction.heads)
    if self.scan:
      raise ValueError(
          'An induction path tells heads of some layers, and scanned layers '
          'are all alike. Take layers=unrolled.')
    if resampler is not None and resampler.width != resampler.visual_width:
      raise ValueError(
          'An induction path takes features as wide as latents, beside which '
          f'they are handed on; they are {resampler.visual_width} and '
          f'{resampler.width} wide. Whiten them to that width.')

  @property
  def groups(self) -> Groups | None:
    """The groups whose parameters are stacked; None if there are none."""
    if not self.scan:
      return None
    return Groups.of(self.lm.layers, self.every, self.offset)

  def see(
      self, images: Num[Array, 'b n t *rest']
  ) -> Float[Array, 'b n r c']:
    """Latents of each image, from pixels or from cached features.

    Args:
      images: uint8 pixels [B N T H W 3], or features [B N T S C].

    Returns:
      R latents an image, and behind them its gist where there is an induction
      path.
    """
    b, n, t = images.shape[:3]
    images = self.activations.rows(images)
    if images.ndim == 6:
      if self.vision is None:
        raise ValueError(
            'The model was given pixels but has no vision encoder. Build it '
            'with `vision=...`, or give it features [B N T S C].')
      flat = images.reshape((b * n * t,) + images.shape[3:])
      features = self._encode(flat)
      images = features.reshape((b, n, t) + features.shape[1:])
    if self.whitening is not None:
      images = self.whitening(images.astype(jnp.float32))
    if self.resampler is None:
      latents = images.reshape((b, n, -1) + images.shape[4:])
      latents = latents.astype(jnp.float32)
    else:
      flat = images.reshape((b * n,) + images.shape[2:])
      latents = self.resampler(self.activations.pictures(flat))
      latents = latents.reshape((b, n) + latents.shape[1:])
    if self.induction is not None:
      gists = gist(images.astype(jnp.float32))
      latents = jnp.concatenate([latents, gists[:, :, None]], axis=2)
    return self.activations.rows(latents)

  def _encode(self, pictures):
    if self.is_initializing():
      return self.vision(pictures)
    # A bound module can't be called within a JAX transformation.
    vision, variables = self.vision.unbind()
    return self.activations.encoded(vision.apply, variables, pictures)

  def read(
      self,
      latents: Float[Array, 'b n r c'],
      tokens: Int[Array, 'b l'],
      image_index: Int[Array, 'b l'],
      *,
      valid: Bool[Array, 'b l'] | None = None,
      positions: Int[Array, 'b l'] | None = None,
      mask: Bool[Array, 'b l m'] | None = None,
      cache: Cache | None = None,
  ) -> tuple[Float[Array, 'b l e'], Cache | None]:
    """Final states of the language model; `logits` maps them on.

    Args:
      latents: what `see` returned.
      tokens: ids; those from `lm.vocab_size` on are new tokens.
      image_index: the image each token sees, from 1; 0 sees none.
      valid: False where a token is padding, on either side.
      positions: of the tokens; by default the next ones.
      mask: what each token may look at among cached and new tokens; by default
        itself and the tokens before it.
      cache: what was read before, to be continued.

    Returns:
      Normed final states, and the cache with these tokens in it if one was
      given.
    """
    place = self.lm.place(
        tokens, valid=valid, positions=positions, mask=mask, cache=cache)
    x = self.lm.begin(self.embed(tokens), place)
    beside = {}
    if self.induction is not None:
      latents, gists = latents[:, :, :-1], latents[:, :, -1]
      beside = self.induction(gists, tokens, image_index)
    inputs = latents, image_index, place
    caches = [layer_of(cache, i) for i in range(self.lm.layers)]
    remat = 'none' if self.is_initializing() else self.remat
    groups, key_values = self.groups, []
    for span in spans(self.lm.layers, self.every, self.offset):
      part = slice(span.start, span.stop)
      if groups is None or span.start not in groups.layers:
        x, new = scan_lib.read_span(
            self.gated.get(span.start), self.lm.layer[part], x, caches[part],
            *inputs, beside=[beside.get(i) for i in span], remat=remat,
            activations=self.activations)
      elif span.start == groups.first:
        x, new = self._read_groups(groups, x, caches, *inputs)
      else:
        continue  # read already, with the first group
      key_values += new
    return self.lm.end(x), place.appended(cache, key_values)

  def _read_groups(self, groups, x, caches, latents, image_index, place):
    blocks = [self.gated[i] for i in groups.at(0)]
    layers = [self.lm.layer[i] for i in groups.layers[:groups.every]]
    numbers = scan_lib.differences(blocks)

    def make_blocks(key):
      return scan_lib.first_values(
          key, blocks[0], groups.count, x, latents, image_index,
          numbers=numbers)

    def make_layers(key):
      keys = jax.random.split(key, groups.every)
      return {
          f'layer_{j}': scan_lib.first_values(
              keys[j], layer, groups.count, x, place)
          for j, layer in enumerate(layers)}

    return scan_lib.read_groups(
        groups, blocks[0], layers,
        (scan_lib.declared(self, BLOCKS, make_blocks),
         scan_lib.declared(self.lm, LAYERS, make_layers)),
        numbers, x, caches, latents, image_index, place, remat=self.remat,
        activations=self.activations)

  def empty_cache(self, batch: int, size: int) -> Cache:
    """A cache with room for `size` tokens in each of `batch` rows."""
    wider = None if self.induction is None else self.induction.wider
    return self.lm.empty_cache(batch, size, wider)

  def embed(self, tokens: Int[Array, 'b l']) -> Float[Array, 'b l e']:
    """Frozen rows of the LM beside trainable rows of the new tokens."""
    first_new = self.lm.vocab_size
    old = self.activations.looked_up(
        self.lm.embed(jnp.minimum(tokens, first_new - 1)))
    if not self.new_tokens:
      return old
    new = self.new_embedding[jnp.maximum(tokens - first_new, 0)]
    return jnp.where((tokens >= first_new)[:, :, None], new, old)

  def logits(self, x: Float[Array, '*b e']) -> Float[Array, '*b v']:
    """Logits over the LM's vocabulary and the new tokens behind it."""
    if not self.new_tokens:
      return self.lm.logits(x)
    rows = self.new_embedding if self.lm.tied else self.new_unembedding
    new = project_to_rows(x, rows, self.lm.dtype)
    return jnp.concatenate([self.lm.logits(x), new], axis=-1)

  def __call__(
      self,
      images: Num[Array, 'b n t *rest'],
      tokens: Int[Array, 'b l'],
      image_index: Int[Array, 'b l'],
  ) -> Float[Array, 'b l v']:
    """Logits of the next token at every token."""
    x, _ = self.read(self.see(images), tokens, image_index)
    return self.logits(x)
