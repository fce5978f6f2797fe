"""Scanned layers, and layers that are computed again: the same, sooner."""

from flamingo import params as params_lib
from flamingo.model import scan as scan_lib
from flamingo.model import stack as stack_lib
from flamingo.model.flamingo import spans
import jax
import jax.numpy as jnp
import numpy as np
import pytest

BIASED = dict(
    norm='layer', gated_ff=False, attn_bias=True, out_bias=True, ff_bias=True)
FAMILIES = {
    'llama': dict(),
    'gpt-neox': BIASED | dict(parallel=True, tied=False, rope_fraction=0.5),
    'opt': BIASED | dict(
        position='learned', max_positions=13, position_offset=2),
    'mpt': dict(norm='layer', norm_bias=False, position='alibi'),
    'gemma 3': dict(
        norm_plus_one=True, norm_after=True, norm_heads='head', window=3,
        global_every=2, local_rope_base=100.0, embed_scale=11**0.5),
}


def _deep(tiny, layers=6, every=2, offset=1, **lm):
  """The tiny model with so many layers, and as many blocks as it has room for.

  Blocks differ in the numbers that a scan can tell them.
  """
  return tiny.model.clone(
      lm=tiny.model.lm.clone(layers=layers, **lm), every=every, offset=offset,
      resampler=tiny.model.resampler.clone(layers=1),
      xattn=tuple(
          tiny.model.xattn[0].clone(
              branch_scale=1 + i / 7, gate_init=(i + 1) / 11, out_scale=i / 2)
          for i in range(len(range(offset, layers, every)))))


@pytest.fixture(scope='module')
def deep(tiny, random_params):
  """A layer before the first block, two full groups, and one cut short."""
  model = _deep(tiny)
  return model, random_params(
      model, tiny.images, tiny.tokens, tiny.image_index)


@pytest.fixture(scope='module')
def logits(tiny, quick_jit):
  run = quick_jit(
      lambda model, params, images: model.apply(
          {'params': params}, images, tiny.tokens, tiny.image_index),
      static_argnums=0)
  return lambda model, params, images=tiny.images: np.asarray(
      run(model, params, images))


@pytest.fixture(scope='module')
def gradient(tiny, quick_jit):
  """(model, params) to gradients of all that trains, under unrolled names."""
  def loss(trainable, frozen, model):
    x = model.apply(
        {'params': params_lib.merge(trainable, frozen)}, tiny.images,
        tiny.tokens, tiny.image_index)
    return jnp.square(jax.nn.log_softmax(x)).mean()

  run = quick_jit(jax.grad(loss), static_argnums=2)
  return lambda model, params: jax.device_get(
      stack_lib.unstack(run(*params_lib.split(params), model)))


def _same_gradients(came, expected):
  expected = dict(params_lib.flatten(expected))
  came = dict(params_lib.flatten(came))
  assert came.keys() == expected.keys()
  for path, leaf in came.items():
    # Sums of float32 in another order: the error is of the largest addend's.
    np.testing.assert_allclose(
        leaf, expected[path], rtol=1e-4,
        atol=2e-5 * np.abs(expected[path]).max(), err_msg=str(path))


# Scanned layers compute what unrolled ones do.


@pytest.mark.parametrize('family', FAMILIES)
def test_scanned_layers_compute_what_unrolled_ones_do(
    tiny, random_params, logits, family
):
  model = _deep(tiny, **FAMILIES[family])
  params = random_params(model, tiny.images, tiny.tokens, tiny.image_index)
  scanned = model.clone(scan=True)
  stacked = stack_lib.stack(params, scanned.groups)
  assert stacked['xattn_groups']['attn_gate'].shape == (2,)
  assert {'layer_0', 'layer_5', 'groups'} < stacked['lm'].keys()
  np.testing.assert_allclose(
      logits(scanned, stacked), logits(model, params), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('layers, every, offset, count', [
    (4, 1, 0, 4),  # nothing but groups
    (7, 3, 2, 1),  # one group, with layers on both sides
    (2, 3, 0, 0),  # no group is full
])
def test_groups_of_any_size_are_scanned(
    tiny, random_params, logits, layers, every, offset, count
):
  model = _deep(tiny, layers, every, offset)
  params = random_params(model, tiny.images, tiny.tokens, tiny.image_index)
  scanned = model.clone(scan=True)
  assert (scanned.groups.count if scanned.groups else 0) == count
  np.testing.assert_allclose(
      logits(scanned, stack_lib.stack(params, scanned.groups)),
      logits(model, params), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('scan, remat', [
    (True, 'none'), (True, 'dots'), (True, 'full'), (False, 'dots'),
    (False, 'full')])
def test_gradients_are_the_same_scanned_and_computed_again(
    deep, gradient, scan, remat
):
  model, params = deep
  other = model.clone(scan=scan, remat=remat)
  expected = gradient(model, params)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(expected))
  _same_gradients(
      gradient(other, stack_lib.stack(params, other.groups)), expected)


def test_spans_are_the_layers_from_one_gated_block_to_the_next():
  assert spans(6, 2, 1) == (
      range(0, 1), range(1, 3), range(3, 5), range(5, 6))
  assert spans(4, 2, 0) == (range(0, 2), range(2, 4))
  assert spans(3, 5, 4) == (range(0, 3),)


def test_with_gates_at_zero_a_scan_is_its_lm_bit_for_bit(tiny, deep):
  """Whatever the images are, and whatever stands behind the gates."""
  model, params = deep
  scanned = model.clone(scan=True)
  run = jax.jit(lambda model, params, images=tiny.images: model.apply(
      {'params': params}, images, tiny.tokens, tiny.image_index),
      static_argnums=0)
  closed = params_lib.unflatten(
      (path, 0 * leaf if path[-1].endswith('_gate') else leaf)
      for path, leaf in params_lib.flatten(params))
  stacked = stack_lib.stack(closed, scanned.groups)
  expected = run(scanned, stacked)
  np.testing.assert_array_equal(
      run(scanned, stacked, -9 * tiny.images), expected)
  other = jax.tree_util.tree_map_with_path(
      lambda path, leaf: -leaf if 'xattn' in path[0].key else leaf, stacked)
  np.testing.assert_array_equal(run(scanned, other), expected)

  @jax.jit
  def bare(lm, rows, tokens):
    """The LM by itself, its layers scanned over by hand."""
    params = {'lm': lm, 'new_embedding': rows}
    place = model.lm.place(tokens)
    layer = model.lm.bind({'params': lm}).layer[0].unbind()[0]
    read = lambda x, own: layer.apply({'params': own}, x, place)[0]
    group = lambda x, own: (
        read(read(x, own['layer_0']), own['layer_1']), None)
    x = model.apply({'params': params}, tokens, method='embed')
    x = read(x, lm['layer_0'])
    x, _ = jax.lax.scan(group, x, lm['groups'])
    x = read(x, lm['layer_5'])
    x = model.lm.apply({'params': lm}, x, method='end')
    return model.apply({'params': params}, x, method='logits')

  np.testing.assert_array_equal(
      bare(stacked['lm'], stacked['new_embedding'], tiny.tokens), expected)
  np.testing.assert_allclose(
      expected, run(model, closed), rtol=1e-5, atol=1e-5)


def test_a_scan_reads_on_from_a_cache(tiny, deep, logits, quick_jit):
  model, params = deep
  scanned = model.clone(scan=True)
  stacked = stack_lib.stack(params, scanned.groups)

  @quick_jit
  def read(part, cache):
    variables = {'params': stacked}
    latents = scanned.apply(variables, tiny.images, method='see')
    x, cache = scanned.apply(
        variables, latents, *part, cache=cache, method='read')
    return scanned.apply(variables, x, method='logits'), cache

  cache, came = model.lm.empty_cache(2, 13), []
  for part in slice(0, 8), slice(8, 13):
    new, cache = read(
        (tiny.tokens[:, part], tiny.image_index[:, part]), cache)
    came.append(new)
  assert len(cache.keys) == 6 and cache.length == 13
  np.testing.assert_allclose(
      np.concatenate(came, axis=1), logits(model, params),
      rtol=1e-4, atol=1e-4)


# First values.


def test_a_scanned_model_has_the_parameters_of_an_unrolled_one(tiny, deep):
  model, params = deep
  scanned = model.clone(scan=True)
  shapes = jax.eval_shape(
      scanned.init, jax.random.key(0), tiny.images, tiny.tokens,
      tiny.image_index)['params']
  params_lib.check_same(
      shapes, stack_lib.stack(params, scanned.groups), 'parameters')


def test_each_layer_of_a_scan_begins_with_values_of_its_own(tiny, quick_jit):
  model = _deep(tiny, layers=8, every=2, offset=0).clone(scan=True)

  @quick_jit
  def some_params(key):  # what isn't returned isn't computed
    params = model.init(
        key, tiny.images, tiny.tokens, tiny.image_index)['params']
    return params_lib.split(params, lambda path: (
        path[0] != 'resampler' and path[-2:] == ('query', 'kernel')
        or path[0].startswith('xattn') and path[-2:] == ('out', 'kernel')
        or path[-1] == 'attn_gate'))[0]

  params = stack_lib.unstack(some_params(jax.random.key(0)))
  kernels = [
      *(params['lm'][f'layer_{i}']['attn']['query']['kernel']
        for i in range(8)),
      *(params[f'xattn_{i}']['query']['kernel'] for i in range(4))]
  for i, kernel in enumerate(kernels):
    # Normal, of deviation 1 / sqrt(fan in); none is another one's.
    assert np.std(kernel) * 11**0.5 == pytest.approx(1, abs=0.15)
    for other in kernels[:i]:
      n = min(kernel.size, other.size)
      assert abs(np.corrcoef(
          kernel.ravel()[:n], other.ravel()[:n])[0, 1]) < 0.35
  # Gates and projections are where each block was told to begin.
  gates = [params[f'xattn_{i}']['attn_gate'] for i in range(4)]
  np.testing.assert_allclose(
      np.tanh(gates), [block.gate_init for block in model.xattn], rtol=1e-6)
  for i in range(4):
    out = params[f'xattn_{i}']['out']['kernel']
    assert np.std(out) * np.prod(out.shape[:2]) ** 0.5 == pytest.approx(
        i / 2, rel=0.2)


# Depth is free.


def _equations(jaxpr):
  """Equations of a program, with those of the programs in it."""
  inner = [
      getattr(value, 'jaxpr', value)
      for eqn in jaxpr.eqns for value in jax.tree.leaves(
          list(eqn.params.values()), is_leaf=lambda x: hasattr(x, 'eqns'))
      if hasattr(getattr(value, 'jaxpr', value), 'eqns')]
  return list(jaxpr.eqns) + [e for sub in inner for e in _equations(sub)]


def _step_program(tiny, model):
  """Of the gradient of a loss, from shapes alone."""
  inputs = tiny.images, tiny.tokens, tiny.image_index
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
  loss = lambda trainable, frozen: model.apply(
      {'params': params_lib.merge(trainable, frozen)}, *inputs).sum()
  return jax.jit(jax.grad(loss)).trace(*params_lib.split(shapes))


@pytest.mark.parametrize('remat', scan_lib.REMAT)
def test_a_program_does_not_grow_with_depth(tiny, remat):
  sizes = {}
  for layers in 6, 48:
    model = _deep(tiny, layers, every=2, offset=0).clone(
        scan=True, remat=remat)
    program = _step_program(tiny, model)
    sizes[layers] = (
        len(_equations(program.jaxpr.jaxpr)),
        len(program.lower().as_text().splitlines()))
  # What is compiled, before and after it is lowered.
  for few, many in zip(sizes[6], sizes[48]):
    assert many < 1.05 * few


def test_an_unrolled_program_grows_with_depth(tiny):
  """Or else the test before could not fail."""
  few, many = (
      len(_equations(_step_program(tiny, _deep(
          tiny, layers, every=2, offset=0)).jaxpr.jaxpr)) for layers in (2, 6))
  assert many > 1.5 * few


def _remembered(tiny, deep, **settings):
  """Shapes that the scan of the forward pass hands to that of the backward."""
  eqns = _equations(_step_program(
      tiny, deep[0].clone(scan=True, **settings)).jaxpr.jaxpr)
  forward = [eqn for eqn in eqns if eqn.primitive.name == 'scan'][0]
  outputs = forward.outvars[forward.params['num_carry']:]
  return [tuple(var.aval.shape) for var in outputs]


def test_a_scan_remembers_no_copy_of_a_frozen_kernel(tiny, deep):
  kernels = {
      (2, int(np.prod(leaf.shape[:1])), int(np.prod(leaf.shape[1:])))
      for path, leaf in params_lib.flatten(deep[1]['lm']['layer_1'])
      if path[-1] == 'kernel' and path[-2] != 'out'}
  kernels |= {(2, 24, 11)}  # out: from 6 heads of 4
  remembered = _remembered(tiny, deep)
  assert len(remembered) > 20 and not kernels & set(remembered)


def test_what_is_remembered_is_what_remat_says(tiny, deep):
  inputs = (2, 2, 13, 11)
  full = [x for x in _remembered(tiny, deep, remat='full') if len(x) > 1]
  assert full == [inputs]
  dots = [x for x in _remembered(tiny, deep, remat='dots') if len(x) > 1]
  # Queries of the block; of each layer, its feed-forward's two halves.
  assert dots.count((2, 2, 13, 26)) == 1
  assert dots.count((2, 2, 13, 17)) == 4
  # The scores of attention, of 3 groups of 2 heads, are computed again.
  assert not [x for x in dots if x[-2:] == (13, 13)]
  assert [x for x in _remembered(tiny, deep) if x[-2:] == (13, 13)]


# What is refused.


def _build(tiny, model):
  return jax.eval_shape(
      model.init, jax.random.key(0), tiny.images, tiny.tokens,
      tiny.image_index)


def test_blocks_that_differ_in_more_than_numbers_are_not_scanned(tiny):
  model = _deep(tiny)
  blocks = model.xattn[0], model.xattn[1].clone(sees='all'), model.xattn[2]
  with pytest.raises(ValueError, match='these have sees = .*scan=False'):
    _build(tiny, model.clone(xattn=blocks, scan=True))
  # The last one stands in no full group, so it may.
  blocks = model.xattn[:2] + (model.xattn[2].clone(sees='all'),)
  _build(tiny, model.clone(xattn=blocks, scan=True))


def test_windows_that_differ_between_groups_are_not_scanned(tiny):
  model = _deep(tiny, window=3, global_every=3)
  with pytest.raises(
      ValueError, match=r'every=2.*layers \(2, 4\) global_every=3 gives'):
    _build(tiny, model.clone(scan=True))
  _build(tiny, model)


def test_unrolled_parameters_in_a_scan_are_refused(tiny, deep):
  model, params = deep
  with pytest.raises(ValueError, match="no 'xattn_groups'.*stack"):
    jax.eval_shape(lambda params: model.clone(scan=True).apply(
        {'params': params}, tiny.images, tiny.tokens, tiny.image_index), params)


def test_an_unknown_remat_is_refused(tiny):
  with pytest.raises(ValueError, match="remat='some' is no setting"):
    _build(tiny, tiny.model.clone(remat='some'))
