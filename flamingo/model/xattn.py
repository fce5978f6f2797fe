"""GATED XATTN-DENSE: the layers through which a frozen LM sees.

Flamingo, section 2.2 and appendix A.1.2:

  y = y + tanh(a_attn) * xattn(norm(y), latents of the image each token sees)
  y = y + tanh(a_dense) * dense(norm(y))
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flamingo.model.attention import attend, FeedForward, Linear, Norm
from flamingo.model.products import Dtype, project_heads
from flamingo.model.runs import cost, Runs

FORMS = ('projected', 'gathered', 'absorbed')


def image_mask(
    image_index: Int[Array, 'b l'], images: int, latents: int, sees: str
) -> Bool[Array, 'b l m']:
  """Which latents each token may look at (section 2.3).

  Five tokens of one image of two latents, then another, after one of no image,
  that is image_index = 0 1 1 2 2:

    sees='last'        sees='all'
      0 0 0 0            0 0 0 0
      1 1 0 0            1 1 0 0
      1 1 0 0            1 1 0 0
      0 0 1 1            1 1 1 1
      0 0 1 1            1 1 1 1

  Args:
    image_index: the image each token sees, from 1; 0 sees none.
    images: number N of images.
    latents: number R of latents an image.
    sees: 'last' for the image of the index alone, 'all' for those before too
      (an ablation of the paper, Table 10).
  """
  number = jnp.repeat(jnp.arange(1, images + 1), latents)[None, None]
  index = image_index[:, :, None]
  if sees == 'last':
    return index == number
  return index >= number


class GatedCrossAttention(nn.Module):
  """One gated cross-attention block with its dense half.

  The attention has three forms, which are equal but for rounding:

    projected   keys and values of all N x R latents, scores of each token with
                all of them, of which the mask leaves R
    gathered    keys and values of all N x R latents; scores of each token with
                the R it sees, see `runs`
    absorbed    no keys and values: each head asks the R latents a token sees
                themselves, by its query times its key kernel, and the weighted
                sum of latents goes through its value kernel. Nothing of it
                grows with N.

  Attributes:
    width: residual width D of the language model.
    visual_width: width of the latents.
    heads: attention heads (paper: D / 128).
    head_dim: width of a head (paper: 128).
    ff_hidden: width of the dense half (paper: 4 x D); 0 leaves the dense half
      out (the paper's ablation 'vanilla xattn' has neither it nor gates).
    activation: of the dense half (paper: squared_relu).
    gated_ff: SwiGLU form (IDEFICS, with activation 'silu').
    norm: 'layer' or 'rms' (IDEFICS) in front of both halves.
    norm_visual: a norm on the latents too (paper, version 1).
    norm_heads: RMS norm on each head's queries and keys (IDEFICS).
    norm_eps: epsilon of all norms; PyTorch's default, Flax's is 1e-6.
    gate: 'tanh' of a scalar; 'vector' has one a channel; 'none' has no gate
      (an ablation of the paper).
    gate_init: value of tanh(gate) at the start. At the paper's 0 the model is
      the frozen LM exactly.
    ff_gate_init: likewise for the dense half; by default the same.
    out_scale: of the first values of attention's output projection, beside
      those of other projections. At 0 attention says nothing at first, whatever
      its gate, and all that an open gate lets through is learnt. With a gate of
      0 as well it would never learn.
    branch_scale: constant factor on both branches. The residual stream of a
      pretrained LM can grow a hundredfold with depth; its RMS at this layer
      makes a branch as large as what it is added to.
    sees: 'last' or 'all', see `image_mask`.
    form: one of the three; 'auto' takes the cheapest for the shapes that come.
      `norm_heads`, which norms keys, can't be absorbed, and sees='all' is only
      projected.
    dtype: type of matrix operands.
  """

  width: int
  visual_width: int
  heads: int
  head_dim: int
  ff_hidden: int
  activation: str = 'squared_relu'
  gated_ff: bool = False
  norm: str = 'layer'
  norm_visual: bool = True
  norm_heads: bool = False
  norm_eps: float = 1e-5
  gate: str = 'tanh'
  gate_init: float | Array = 0.0
  ff_gate_init: float | Array | None = None
  out_scale: float | Array = 1.0
  branch_scale: float | Array = 1.0
  sees: str = 'last'
  form: str = 'auto'
  dtype: Dtype = jnp.float32

  def setup(self):
    for name, known in (
        ('gate', ('tanh', 'vector', 'none')), ('norm', ('layer', 'rms')),
        ('sees', ('last', 'all')), ('form', ('auto',) + FORMS)):
      if getattr(self, name) not in known:
        raise ValueError(
            f'{name}={getattr(self, name)!r} is no setting of a gated block. '
            f'Choose one of {known}.')
    if self.form not in self._forms() + ('auto',):
      raise ValueError(
          f'form={self.form!r} does not go with sees={self.sees!r}, '
          f'norm_heads={self.norm_heads}. Choose one of {self._forms()}, or '
          "'auto'.")
    self.norm_text = Norm(self.width, self.norm, eps=self.norm_eps)
    if self.norm_visual:
      self.norm_latents = Norm(
          self.visual_width, self.norm, eps=self.norm_eps)
    heads = (self.heads, self.head_dim)
    self.query = Linear((self.width,), heads, dtype=self.dtype)
    self.key = Linear((self.visual_width,), heads, dtype=self.dtype)
    self.value = Linear((self.visual_width,), heads, dtype=self.dtype)
    if self.norm_heads:
      self.norm_query = Norm(self.head_dim, 'rms', eps=self.norm_eps)
      self.norm_key = Norm(self.head_dim, 'rms', eps=self.norm_eps)
    self.out = Linear(
        heads, (self.width,), scale=self.out_scale, dtype=self.dtype)
    if self.ff_hidden:
      self.norm_ff = Norm(self.width, self.norm, eps=self.norm_eps)
      self.ff = FeedForward(
          self.width, self.ff_hidden, self.activation, self.gated_ff,
          dtype=self.dtype)
    if self.gate != 'none':
      shape = (self.width,) if self.gate == 'vector' else ()
      gate = lambda name, value: self.param(
          name, nn.initializers.constant(jnp.arctanh(value)), shape)
      self.attn_gate = gate('attn_gate', self.gate_init)
      if self.ff_hidden:
        same = self.ff_gate_init is None
        self.ff_gate = gate(
            'ff_gate', self.gate_init if same else self.ff_gate_init)

  def __call__(
      self,
      y: Float[Array, 'b l d'],
      latents: Float[Array, 'b n r c'],
      image_index: Int[Array, 'b l'],
  ) -> Float[Array, 'b l d']:
    """Adds to the residual stream what each token's image says.

    Args:
      y: residual stream of the language model.
      latents: of the resampler, R for each of N images.
      image_index: the image each token sees, from 1; 0 sees none, and its
        cross-attention is exactly zero.
    """
    y = self._add(y, 'attn_gate', self._look(y, latents, image_index))
    if self.ff_hidden:
      y = self._add(y, 'ff_gate', self.ff(self.norm_ff(y)))
    return y

  def choose_form(self, tokens: int, images: int, latents: int) -> str:
    """The form that rows of L tokens and N images of R latents are seen in.

    To lay tokens out moves data, which `cost` doesn't count, so it has to save
    a quarter of the products.
    """
    if self.form != 'auto':
      return self.form
    costs = {
        form: cost(
            form, tokens=tokens, images=images, latents=latents,
            visual_width=self.visual_width, heads=self.heads,
            head_dim=self.head_dim)
        for form in self._forms()}
    cheapest = min(costs, key=costs.get)
    saves = 4 * costs[cheapest] <= 3 * costs['projected']
    return cheapest if saves else 'projected'

  def _forms(self) -> tuple[str, ...]:
    if self.sees == 'all':
      return ('projected',)
    return FORMS[:2] if self.norm_heads else FORMS

  def _look(self, y, latents, image_index):
    n, r = latents.shape[1:3]
    if self.norm_visual:
      latents = self.norm_latents(latents)
    query = self.query(self.norm_text(y))
    if self.norm_heads:
      query = self.norm_query(query)
    form = self.choose_form(y.shape[1], n, r)
    look = getattr(self, f'_{form}')
    return self.out(look(query, latents, image_index))

  def _keys_and_values(self, latents):
    key, value = self.key(latents), self.value(latents)
    return self.norm_key(key) if self.norm_heads else key, value

  def _projected(self, query, latents, image_index):
    b, n, r, c = latents.shape
    key, value = self._keys_and_values(latents.reshape(b, n * r, c))
    mask = image_mask(image_index, n, r, self.sees)
    return attend(query, key, value, mask, dtype=self.dtype)

  def _gathered(self, query, latents, image_index):
    runs = Runs.of(image_index, latents.shape[1])
    key, value = self._keys_and_values(latents)

    @jax.checkpoint  # a copy for each run is not worth keeping
    def look(query, key, value):
      return _attend_in_runs(
          query, runs.seen(key), runs.seen(value), dtype=self.dtype)

    return runs.collect(look(runs.lay_out(query), key, value))

  def _absorbed(self, query, latents, image_index):
    runs = Runs.of(image_index, latents.shape[1])
    ask = self.key.kernel.transpose(1, 2, 0)  # [c h d] to [h d c]
    tell = self.value.kernel.transpose(1, 0, 2)  # to [h c d]

    @jax.checkpoint  # a copy for each run is not worth keeping
    def look(asked, latents):
      # Not before they are copied: gradients of copies add up in float32.
      own = runs.seen(latents).astype(self.dtype)[..., None, :]
      return _attend_in_runs(asked, own, own, self.head_dim**-0.5, self.dtype)

    asked = project_heads(runs.lay_out(query), ask, self.dtype)
    seen = look(asked.astype(self.dtype), latents)
    return runs.collect(project_heads(seen, tell, self.dtype))

  def _add(self, y, gate, branch):
    branch = branch * self.branch_scale
    if self.gate == 'none':
      return y + branch
    strength = jnp.tanh(getattr(self, gate)).astype(jnp.float32)
    return y + jnp.broadcast_to(strength, branch.shape) * branch


def _attend_in_runs(
    query: Float[Array, 'b u t h d'],
    key: Float[Array, 'b u r k d'],
    value: Float[Array, 'b u r k d'],
    scale: float | None = None,
    dtype: Dtype = jnp.float32,
) -> Float[Array, 'b u t h d']:
  """Attention of each run's tokens to what all of them see."""
  flat = lambda x: x.reshape((-1,) + x.shape[2:])
  return attend(
      *map(flat, (query, key, value)), scale=scale, dtype=dtype).reshape(
          query.shape)
