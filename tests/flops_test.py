"""FLOPs counted from shapes, against XLA's count and the papers' arithmetic."""

from flamingo.model.flamingo import Flamingo, gated_layers
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.vision.nfnet import NFNet, VARIANTS
from flamingo.model.xattn import GatedCrossAttention
from flamingo import params as params_lib
from flamingo.train import flops as flops_lib
from flamingo.train.flops import product_flops, step_flops
from flamingo.train.step import weighted_loss
from flamingo.types import Batch
import jax
import jax.numpy as jnp
import pytest


def make_model(
    *, every=2, offset=0, new_tokens=2, vision=None, width=128, frames=3, **lm):
  """Products are large beside all else, which XLA counts too."""
  layers = lm.pop('layers', 3)
  return Flamingo(
      lm=LM(vocab_size=384, width=256, layers=layers, heads=4, kv_heads=2,
            head_dim=48, hidden=512, **lm),
      resampler=PerceiverResampler(
          visual_width=96, width=width, layers=2, latents=24, heads=3,
          head_dim=32, frames=frames, project_input=width != 96),
      xattn=tuple(
          GatedCrossAttention(
              width=256, visual_width=width, heads=4, head_dim=32,
              ff_hidden=512)
          for _ in gated_layers(layers, every, offset)),
      every=every, offset=offset, new_tokens=new_tokens, vision=vision)


def make_batch(rows=3, length=21, images=(1, 2, 33, 96), dtype=jnp.float32):
  shaped = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
  tokens = shaped(rows, length)
  return Batch(
      images=jax.ShapeDtypeStruct((rows,) + images, dtype), tokens=tokens,
      image_index=tokens, targets=tokens,
      loss_mask=jax.ShapeDtypeStruct((rows, length), bool))


def split_shapes(model, batch):
  return params_lib.split(jax.eval_shape(
      model.init, jax.random.key(0), batch.images, batch.tokens,
      batch.image_index)['params'])


def counted_by_xla(model, batch):
  """FLOPs of the compiled gradient.

  Its one loop is over 64 tokens at a time that are mapped to the vocabulary:
  there are 63, so that counting its body once is right.
  """
  trainable, frozen = split_shapes(model, batch)

  def gradient(trainable, frozen, batch):
    return jax.grad(lambda t: weighted_loss(
        model, t, frozen, {'pages': batch}, {'pages': 1.0})[0])(trainable)

  compiled = jax.jit(gradient).lower(trainable, frozen, batch).compile()
  return compiled.cost_analysis()['flops']


@pytest.mark.parametrize('setting', [
    dict(),
    dict(every=1, gated_ff=False),
    dict(every=3, offset=1, tied=False),
    # Nothing is trained below the last layer: it alone has a backward pass.
    dict(every=3, offset=2, new_tokens=0),
    # Nothing is trained below the features.
    dict(width=96, frames=0),
])
def test_an_update_costs_what_xla_counts(setting):
  model, batch = make_model(**setting), make_batch()
  ours = step_flops(model, *split_shapes(model, batch), {'pages': batch})
  assert sum(ours.values()) == pytest.approx(
      counted_by_xla(model, batch), rel=0.02)


def test_every_part_is_counted_as_xla_counts_it_alone():
  model, batch = make_model(), make_batch()
  trainable, frozen = split_shapes(model, batch)
  parts = flops_lib.by_part(model, trainable, frozen, {'pages': batch})
  resampled = jax.jit(lambda t, f, b: model.apply(
      {'params': params_lib.merge(t, f)}, b.images, method='see'))
  forward = resampled.lower(trainable, frozen, batch).compile()
  assert parts['resampler'].forward == pytest.approx(
      forward.cost_analysis()['flops'], rel=0.02)
  bare = jax.jit(lambda lm, tokens: model.lm.apply({'params': lm}, tokens)[0])
  forward = bare.lower(frozen['lm'], batch.tokens).compile()
  new_rows = 2 * batch.tokens.size * 2 * model.lm.width
  assert (
      parts['language model'].forward + parts['vocabulary'].forward - new_rows
      == pytest.approx(forward.cost_analysis()['flops'], rel=0.02))


def test_a_vision_encoder_only_looks():
  vision = NFNet(
      depths=(1, 1, 1, 1), widths=(64, 64, 96, 96), group_size=32,
      stem=(16, 16, 16, 32), final_conv=False)
  model = make_model(vision=vision)
  pixels = make_batch(images=(2, 1, 64, 64, 3), dtype=jnp.uint8)
  features = make_batch(images=(2, 1, 4, 96))
  trainable, frozen = split_shapes(model, pixels)
  parts = flops_lib.by_part(model, trainable, frozen, {'pages': pixels})
  seeing = parts.pop('vision encoder')
  assert parts == flops_lib.by_part(
      model, trainable, frozen, {'pages': features})
  assert seeing.backward == 0
  encode = jax.jit(lambda params, x: vision.apply({'params': params}, x))
  images = jax.ShapeDtypeStruct((6, 64, 64, 3), jnp.uint8)
  counted = encode.lower(frozen['vision'], images).compile().cost_analysis()
  # XLA does not count what a convolution multiplies beyond the border, and
  # does count activations, large beside such narrow convolutions.
  assert seeing.forward == pytest.approx(counted['flops'], rel=0.15)


@pytest.mark.parametrize('name, size, billions', [
    ('f0', 256, 12.38), ('f6', 576, 377.28)])
def test_an_nfnet_costs_what_its_paper_says(name, size, billions):
  """Multiply-adds of Brock et al., 2021, table 1."""
  vision = NFNet(depths=VARIANTS[name].depths)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
  params = jax.eval_shape(vision.init, jax.random.key(0), image)
  counted = product_flops(vision.apply, params, image)
  assert counted / 2e9 == pytest.approx(billions, abs=0.005)


def test_stacked_layers_cost_what_separate_ones_do():
  model, batch = make_model(layers=4), make_batch()
  trainable, frozen = split_shapes(model, batch)
  plain = step_flops(model, trainable, frozen, {'pages': batch})
  stack = lambda *leaves: jax.ShapeDtypeStruct(
      (len(leaves),) + leaves[0].shape, leaves[0].dtype)
  lm = dict(frozen['lm'])
  groups = {
      f'layer_{j}': jax.tree.map(
          stack, lm.pop(f'layer_{j}'), lm.pop(f'layer_{j + 2}'))
      for j in (0, 1)}
  scanned = dict(trainable)
  scanned['xattn_groups'] = jax.tree.map(
      stack, scanned.pop('xattn_0'), scanned.pop('xattn_1'))
  assert plain == step_flops(
      model, scanned, {'lm': lm | {'groups': groups}}, {'pages': batch})


def test_a_batch_twice_as_large_costs_twice_as_much():
  model = make_model()
  shapes = split_shapes(model, make_batch())
  once = step_flops(model, *shapes, {'a': make_batch()})
  assert {k: 2 * v for k, v in once.items()} == step_flops(
      model, *shapes, {'a': make_batch(rows=6)})
  assert {k: 2 * v for k, v in once.items()} == step_flops(
      model, *shapes, {'a': make_batch(), 'b': make_batch()})


def test_a_scan_costs_its_body_as_often_as_it_runs():
  square = jnp.ones((7, 7))

  def function(x):
    body = lambda x, _: (jax.jit(lambda x: x @ square)(x), None)
    return jax.lax.scan(body, x, length=5)[0]

  assert product_flops(function, jnp.ones((3, 7))) == 5 * 2 * 3 * 7 * 7
