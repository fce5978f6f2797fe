"""A decoder-only language model; the families are settings of its attributes.

The frozen half of Flamingo. `Flamingo` owns the loop over layers, so what it
needs stands here as parts: `place`, `embed`, `begin`, `layer[i]`, `end`,
`logits`.
"""

from collections.abc import Mapping
import functools

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from flamingo.model.attention import FeedForward, Linear, Norm
from flamingo.model.cache import Cache, layer_of, Place
from flamingo.model.decoder import Layer, SelfAttention
from flamingo.model.embedding import Embedding, LearnedPositions
from flamingo.model.positions import RopeScaling, rotate
from flamingo.model.products import Dtype


class LM(nn.Module):
  """A decoder. As it comes it is of the llama family.

  Attributes:
    vocab_size: rows of the pretrained embedding; new tokens are not among them.
    width: residual width D.
    layers: depth.
    heads: query heads.
    kv_heads: key and value heads.
    head_dim: width of a head.
    hidden: feed-forward width.
    rope_base: base of the rotary embedding.
    norm_eps: epsilon of the norms.
    activation: of the feed-forward, a name in `attention.ACTIVATIONS`.
    gated_ff: whether the feed-forward is act(gate(x)) * up(x).
    tied: whether the output projection is the embedding.
    dtype: type of matrix operands; sums and the residual stream are float32.
    norm: 'rms', or 'layer' (GPT-2, OPT, GPT-NeoX, MPT).
    norm_bias: whether LayerNorms have an offset (MPT: no).
    norm_plus_one: norms multiply by 1 + scale (Gemma).
    norm_first: norms stand before attention and feed-forward; else behind each
      addition to the residual stream, and there is no final one (OPT-350m).
    norm_after: norms stand behind attention and feed-forward too (Gemma 3).
    norm_heads: a norm on queries and keys: 'head' for each head by itself
      (Gemma 3), 'width' for all heads together (mpt-1b-redpajama).
    position: 'rotary', 'learned' (GPT-2, OPT) or 'alibi' (MPT).
    rope_fraction: share of a head that is rotated (GPT-NeoX: rotary_pct).
    rope_scaling: slower rotation (Llama 3.1, Gemma 3 from 4B on).
    max_positions: number of learned positions.
    position_offset: rows of their table in front of the first (OPT: 2).
    alibi_max: -log2 of the flattest of ALiBi's slopes.
    attn_bias: whether queries, keys and values have biases.
    out_bias: whether the output of attention has one.
    ff_bias: whether the feed-forward has them.
    unembed_bias: whether an output projection that isn't tied has one.
    query_scale: of the attention scores; by default head_dim ** -0.5.
    clip_qkv: queries, keys and values are cut off at this size (some MPT).
    window: tokens that a token sees, itself included (Mistral 0.1, Gemma 3).
    global_every: the last layer of every so many has no window (Gemma 3: 6).
    local_rope_base: base in layers with a window, which then have no scaling.
    parallel: attention and feed-forward are added at once (GPT-NeoX).
    embed_scale: factor on the embedding, not on the output (Gemma: sqrt(D)).
    embed_width: of the embedding's rows, where not D (OPT-350m).
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  hidden: int
  rope_base: float = 10_000.0
  norm_eps: float = 1e-5
  activation: str = 'silu'
  gated_ff: bool = True
  tied: bool = True
  dtype: Dtype = jnp.float32
  norm: str = 'rms'
  norm_bias: bool = True
  norm_plus_one: bool = False
  norm_first: bool = True
  norm_after: bool = False
  norm_heads: str | None = None
  position: str = 'rotary'
  rope_fraction: float = 1.0
  rope_scaling: RopeScaling | None = None
  max_positions: int = 0
  position_offset: int = 0
  alibi_max: float = 8.0
  attn_bias: bool = False
  out_bias: bool = False
  ff_bias: bool = False
  unembed_bias: bool = False
  query_scale: float | None = None
  clip_qkv: float | None = None
  window: int | None = None
  global_every: int = 0
  local_rope_base: float | None = None
  parallel: bool = False
  embed_scale: float = 1.0
  embed_width: int | None = None

  def setup(self):
    self._check()
    make_norm = functools.partial(
        Norm, kind=self.norm, use_bias=self.norm_bias, eps=self.norm_eps,
        plus_one=self.norm_plus_one)
    linear = functools.partial(Linear, dtype=self.dtype)
    self.embed = Embedding(self.vocab_size, self.row_width)
    if self.position == 'learned':
      self.learned = LearnedPositions(
          self.max_positions, self.width, self.position_offset,
          name='position')
    if self.embed_width is not None:
      self.embed_in = linear((self.embed_width,), (self.width,))
      self.embed_out = linear((self.width,), (self.embed_width,))
    self.layer = [
        Layer(
            self.width, self._attention(i, make_norm),
            FeedForward(
                self.width, self.hidden, self.activation, self.gated_ff,
                use_bias=self.ff_bias, dtype=self.dtype),
            make_norm, norm_first=self.norm_first, norm_after=self.norm_after,
            parallel=self.parallel)
        for i in range(self.layers)
    ]
    if self.norm_first:
      self.final_norm = make_norm(self.width)
    if not self.tied:
      self.unembed = linear(
          (self.row_width,), (self.vocab_size,), use_bias=self.unembed_bias)

  @property
  def row_width(self) -> int:
    """Width of the embedding's rows."""
    return self.width if self.embed_width is None else self.embed_width

  def is_local(self, i: int) -> bool:
    """Whether layer `i` has a window; layers differ in nothing else."""
    last = self.global_every and (i + 1) % self.global_every == 0
    return self.window is not None and not last

  def _attention(self, i: int, make_norm) -> SelfAttention:
    window = self.window if self.is_local(i) else None
    base, scaling = self.rope_base, self.rope_scaling
    if window is not None and self.local_rope_base is not None:
      base, scaling = self.local_rope_base, None
    rotary = functools.partial(
        rotate, base=base, fraction=self.rope_fraction, scaling=scaling)
    return SelfAttention(
        self.width, self.heads, self.kv_heads, self.head_dim, make_norm,
        rotate=rotary if self.position == 'rotary' else None,
        alibi_max=self.alibi_max if self.position == 'alibi' else None,
        window=window, norm_heads=self.norm_heads, clip=self.clip_qkv,
        scale=self.query_scale, use_bias=self.attn_bias,
        out_bias=self.out_bias, dtype=self.dtype)

  def _check(self):
    if self.position not in ('rotary', 'learned', 'alibi'):
      raise ValueError(
          f'position={self.position!r} is no setting of LM. Choose rotary, '
          'learned or alibi.')
    if self.position == 'learned' and self.max_positions < 1:
      raise ValueError("position='learned' needs max_positions, their number.")
    if self.window is None and (self.global_every or self.local_rope_base):
      raise ValueError(
          'global_every and local_rope_base are about layers with a window: '
          'set `window` too.')
    if self.tied and self.unembed_bias:
      raise ValueError('unembed_bias=True needs tied=False.')

  def place(
      self,
      tokens: Int[Array, 'b l'],
      *,
      valid: Bool[Array, 'b l'] | None = None,
      positions: Int[Array, 'b l'] | None = None,
      mask: Bool[Array, 'b l m'] | None = None,
      cache: Cache | None = None,
  ) -> Place:
    """Where new tokens stand, see `Place.of`.

    Raises:
      ValueError: more tokens than learned positions, none of them padding.
    """
    limit = self.max_positions if self.position == 'learned' else np.inf
    if valid is None and positions is None and tokens.shape[1] > limit:
      raise ValueError(
          f'{tokens.shape[1]} tokens came, but LM has learned '
          f'max_positions={self.max_positions}. Shorten the text.')
    return Place.of(
        tokens, valid=valid, positions=positions, mask=mask, cache=cache)

  def begin(
      self, rows: Float[Array, 'b l e'], place: Place
  ) -> Float[Array, 'b l d']:
    """The residual stream before the first layer, of rows of the embedding."""
    x = rows if self.embed_scale == 1 else rows * self.embed_scale
    if self.embed_width is not None:
      x = self.embed_in(x)
    if self.position == 'learned':
      x = x + self.learned(place.positions)
    return x

  def end(self, x: Float[Array, 'b l d']) -> Float[Array, 'b l e']:
    """Final states: the residual stream normed, as wide as embedding rows."""
    if self.norm_first:
      x = self.final_norm(x)
    return x if self.embed_width is None else self.embed_out(x)

  def logits(self, x: Float[Array, '*b e']) -> Float[Array, '*b v']:
    """Logits over the pretrained vocabulary, of final states."""
    if self.tied:
      return self.embed.attend(x, self.dtype)
    return self.unembed(x)

  def __call__(
      self,
      tokens: Int[Array, 'b l'],
      *,
      valid: Bool[Array, 'b l'] | None = None,
      cache: Cache | None = None,
  ) -> tuple[Float[Array, 'b l v'], Cache | None]:
    """The bare language model.

    Args:
      tokens: what is read.
      valid: False where a token is padding, on either side.
      cache: what was read before; it is returned with these tokens in it.
    """
    place = self.place(tokens, valid=valid, cache=cache)
    x = self.begin(self.embed(tokens), place)
    key_values = []
    for i, layer in enumerate(self.layer):
      x, key_value = layer(x, place, layer_of(cache, i))
      key_values.append(key_value)
    return self.logits(self.end(x)), place.appended(cache, key_values)

  def residual_rms(self, tokens: Int[Array, 'b l']) -> Float[Array, 'n b l']:
    """Root mean square of the residual stream before each layer.

    It can grow a hundredfold with depth, which a branch added to it must know.
    """
    place = self.place(tokens)
    x, sizes = self.begin(self.embed(tokens), place), []
    for layer in self.layer:
      sizes.append(jnp.sqrt((x * x).mean(-1)))
      x, _ = layer(x, place)
    return jnp.stack(sizes)

  def attention_weights(
      self, tokens: Int[Array, 'b l']
  ) -> Float[Array, 'n b h l l']:
    """How much each token looks at each, in every layer and head."""
    place = self.place(tokens)
    x, weights = self.begin(self.embed(tokens), place), []
    for layer in self.layer:
      weights.append(layer.weights(x, place))
      x, _ = layer(x, place)
    return jnp.stack(weights)

  def empty_cache(
      self, batch: int, size: int, wider: Mapping[int, int] | None = None
  ) -> Cache:
    """A cache with room for `size` tokens in each of `batch` rows.

    `wider` says by how much keys are wider, by layer.
    """
    return Cache.empty(
        batch, size, self.layers, self.kv_heads, self.head_dim, self.dtype,
        wider)
