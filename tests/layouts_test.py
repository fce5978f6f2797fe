"""Tests of flamingo.pretrained.layouts."""

import functools
import tracemalloc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo import params as params_lib
from flamingo.pretrained import formats
from flamingo.pretrained import layouts
from flamingo.pretrained.formats import Stored
from flamingo.pretrained.rules import Rule

# Each kind of rule: the shape of theirs, the shapes of ours. Heads are 3, a
# head is 10 wide, the model 7, and the vocabulary 11.
KINDS = {
    'the same': (Rule.of('x', 'a', 'v m -> v m'), (11, 7), [(11, 7)]),
    'a linear layer of torch': (Rule.of('x', 'a', 'f m -> m f'), (5, 7),
                                [(7, 5)]),
    'heads': (Rule.of('x', 'a', '(h d) m -> m h d'), (30, 7), [(7, 3, 10)]),
    'a size that ours do not tell': (
        Rule.of('x', 'a', '(h i p) m -> m h (p i)', p=2), (30, 7),
        [(7, 3, 10)]),
    'parts one after another': (
        Rule.of('x', ('a', 'b', 'c'), '(n h d) m -> n m h d'), (90, 7),
        [(7, 3, 10)] * 3),
    'parts of each head': (
        Rule.of('x', ('a', 'b', 'c'), '(h n d) m -> n m h d'), (90, 7),
        [(7, 3, 10)] * 3),
    'biases of such parts': (
        Rule.of('x', ('a', 'b', 'c'), '(n h d) -> n h d'), (90,),
        [(3, 10)] * 3),
    'one part alone': (Rule.of('x', 'a', '(n f) m -> n m f'), (5, 7),
                       [(7, 5)]),
    'rows, then more rows': (
        Rule.of('x', ('a', 'b'), 'v m -> v m'), (13, 7), [(11, 7), (2, 7)]),
    'rows that turn over, then rows that do not': (
        Rule.of('x', ('a', 'b'), 'v m -> m v, r m -> r m'), (13, 7),
        [(7, 11), (2, 7)]),
    'a scalar in an array of one': (Rule.of('x', 'a', '1 -> '), (1,), [()]),
    'an axis of one on our side': (
        Rule.of('x', 'a', 't d -> t 1 d'), (4, 7), [(4, 1, 7)]),
    'images': (Rule.of('x', 'a', 'o i h w -> h w i o'), (5, 3, 2, 2),
               [(2, 2, 3, 5)]),
}


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_read_is_written_back_bit_for_bit(kind):
  rule, theirs, ours = KINDS[kind]
  tensor = np.random.default_rng(0).normal(size=theirs).astype(np.float32)
  assert rule.their_shape(ours) == theirs
  leaves = rule.read(tensor, ours)
  assert [leaf.shape for leaf in leaves] == ours
  np.testing.assert_array_equal(rule.write(leaves), tensor)


def test_parts_go_where_their_names_say():
  tensor = np.arange(2 * 3 * 4).reshape(2 * 3 * 4, 1)  # heads, parts, features
  rule = Rule.of('x', ('q', 'k', 'v'), '(h n d) m -> n m h d')
  query, key, value = rule.read(tensor, [(1, 2, 4)] * 3)
  np.testing.assert_array_equal(query[0], [[0, 1, 2, 3], [12, 13, 14, 15]])
  np.testing.assert_array_equal(key[0], [[4, 5, 6, 7], [16, 17, 18, 19]])
  np.testing.assert_array_equal(value[0], [[8, 9, 10, 11], [20, 21, 22, 23]])


def test_new_rows_stand_behind_the_frozen_ones():
  old, new = Rule.of('x', ('old', 'new'), 'v m -> v m').read(
      np.arange(5)[:, None], [(3, 1), (2, 1)])
  np.testing.assert_array_equal(old[:, 0], [0, 1, 2])
  np.testing.assert_array_equal(new[:, 0], [3, 4])


@pytest.mark.parametrize('rule, ours', [
    (Rule.of('x', 'a', 'f m -> m f'), [(7,)]),  # too few axes
    (Rule.of('x', 'a', '(h i p) -> h (p i)', p=2), [(3, 9)]),  # 9 is odd
    (Rule.of('x', 'a', '(h d) -> (h d)'), [(6,)]),  # sizes nobody tells
    (Rule.of('x', 'a', 't d -> t 1 d'), [(4, 2, 7)]),  # no axis of one
])
def test_a_rule_that_cannot_have_made_ours_is_an_error(rule, ours):
  with pytest.raises(ValueError, match=r'a has the shape .* Mend the rule'):
    rule.their_shape(ours)


@pytest.mark.parametrize('layout, ours', [
    ('(n f) m -> n m f', [(7, 5), (7, 4)]), ('v m -> v m', [(5, 7), (2, 6)])])
def test_fused_leaves_of_unlike_shapes_are_an_error(layout, ours):
  with pytest.raises(ValueError, match=r"shapes must agree.*'b': \(.*\)"):
    Rule.of('x', ('a', 'b'), layout).their_shape(ours)


# A file of a tiny model, and the rules for it.

RULES = [
    Rule.of('embed.weight', ('embed/embedding', 'new'), 'v m -> v m'),
    Rule.of('0.qkv', ('0/q', '0/k', '0/v'), '(n h d) m -> n m h d'),
    Rule.of('0.out', '0/out', 'm (h d) -> h d m'),
    Rule.of('gate', 'gate', '1 -> '),
    Rule.of('norm', 'norm/scale', 'm -> m'),
]
SHAPES = {
    'embed': {'embedding': (11, 7)}, 'new': (2, 7), 'norm': {'scale': (7,)},
    'gate': (),
    '0': {'q': (7, 3, 5), 'k': (7, 3, 5), 'v': (7, 3, 5), 'out': (3, 5, 7)}}
EXPECTED = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, np.float32), SHAPES,
    is_leaf=lambda x: isinstance(x, tuple))


def tensors(**changes):
  """The file; a change to None leaves a tensor out."""
  rng = np.random.default_rng(0)
  shapes = {
      'embed.weight': (13, 7), '0.qkv': (45, 7), '0.out': (7, 15),
      'norm': (7,), 'gate': (1,)}
  arrays = {
      name: rng.normal(size=shape).astype(np.float32)
      for name, shape in shapes.items()} | changes
  return {
      name: Stored.of(array) for name, array in arrays.items()
      if array is not None}


def read(stored, **kwargs):
  kwargs = dict(rules=RULES, expected=EXPECTED, what='toy file') | kwargs
  return layouts.read_params(stored, **kwargs)


def test_every_parameter_is_read_and_written_back():
  stored = tensors()
  params, report = read(stored)
  params_lib.check_same(EXPECTED, params, 'toy file')
  assert sum(report.loaded.values()) == params_lib.count(EXPECTED)
  assert not report.unused and not report.absent
  written = dict(layouts.write_params(params, RULES))
  assert written.keys() == stored.keys()
  for name, tensor in written.items():
    assert (tensor.shape, tensor.dtype) == (
        stored[name].shape, stored[name].dtype)
    np.testing.assert_array_equal(tensor.read(), stored[name].read())


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
def test_arrays_of_jax_are_written_bit_for_bit(dtype):
  params, _ = read(tensors(), place=lambda _, array: jnp.array(array, dtype))
  for name, tensor in layouts.write_params(params, RULES):
    array = tensor.read()
    assert type(array) is np.ndarray and array.flags.c_contiguous
    assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, tensors()[name].read().astype(dtype))


def test_rows_of_two_types_are_written_in_the_wider_one():
  params, _ = read(tensors())
  params['embed'] = {'embedding': jnp.ones((11, 7), jnp.bfloat16)}
  tensor = dict(layouts.write_params(params, RULES))['embed.weight']
  assert tensor.dtype == tensor.read().dtype == np.float32
  np.testing.assert_array_equal(tensor.read()[11:], params['new'])


def test_what_is_written_is_a_copy():
  params, _ = read(tensors())
  tensor = dict(layouts.write_params(params, RULES))['norm']
  tensor.read()[:] = 0
  assert params['norm']['scale'].all()


def test_writing_holds_one_tensor_at_a_time(tmp_path):
  rules = [
      Rule.of(f'{i}.qkv', (f'{i}/q', f'{i}/k', f'{i}/v'), '(n f) m -> n m f')
      for i in range(20)]
  size = 3 * 50 * 500 * 4
  params = {
      str(i): {part: np.full((50, 500), i, np.float32) for part in 'qkv'}
      for i in range(20)}
  tracemalloc.start()
  formats.write_safetensors(
      tmp_path / 'file.safetensors', layouts.write_params(params, rules))
  assert tracemalloc.get_traced_memory()[1] < 4 * size
  tracemalloc.stop()
  written = formats.open_safetensors(tmp_path / 'file.safetensors')
  assert written['7.qkv'].shape == (1500, 50)
  assert (written['7.qkv'].read() == 7).all()


def test_each_leaf_is_placed_as_soon_as_it_is_read():
  events = []
  stored = {
      name: Stored(
          s.shape, s.dtype, lambda name=name, s=s: (
              events.append(name), s.read())[1], s.file)
      for name, s in tensors().items()}

  def place(path, array):
    events.append('/'.join(path))
    return array.astype(np.float16)

  params, _ = read(stored, place=place)
  assert events == [
      'embed.weight', 'embed/embedding', 'new', '0.qkv', '0/q', '0/k', '0/v',
      '0.out', '0/out', 'gate', 'gate', 'norm', 'norm/scale']
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
      np.dtype(np.float16)}


def test_one_tensor_is_held_at_a_time():
  held = []

  def keep_track(stored):
    assert not any(tensor() is not None for tensor in held)
    array = stored.read()
    held.append(weakref.ref(array))
    return array

  read({
      name: Stored(s.shape, s.dtype, functools.partial(keep_track, s), s.file)
      for name, s in tensors().items()},
      place=lambda path, array: array.astype(np.float16))
  assert len(held) == len(RULES)


def test_a_shape_that_differs_is_named_with_both_shapes():
  with pytest.raises(ValueError, match=(
      r'toy file does not fit .*\n *0\.out: expected \(7, 15\), '
      r'came \(7, 16\)')):
    read(tensors(**{'0.out': np.ones((7, 16), np.float32)}))


def test_nothing_is_read_before_all_fits():
  def fail():
    raise AssertionError('read')

  stored = {
      name: Stored(s.shape, s.dtype, fail, s.file)
      for name, s in tensors(norm=None).items()}
  with pytest.raises(ValueError, match='1 tensors are missing: norm'):
    read(stored)


def test_a_tensor_without_a_use_is_an_error_unless_there_is_a_reason():
  stored = tensors(**{'0.mask': np.ones((3, 3), bool)})
  with pytest.raises(ValueError, match=r'1 tensors have no use: 0\.mask'):
    read(stored)
  _, report = read(stored, ignored={r'\d+\.mask': 'a causal mask is computed'})
  assert report.unused == {'0.mask': 'a causal mask is computed'}


def test_a_reason_for_ignoring_does_not_hide_what_is_read():
  _, report = read(tensors(), ignored={'.*': 'of no use'})
  assert report.unused == {} and len(report.loaded) == len(RULES)


def test_parameters_may_be_absent_by_design_alone():
  stored = tensors(norm=None)
  params, report = read(stored, absent={'norm/.*': 'it stays as it is'})
  assert report.absent == {'norm/scale': 'it stays as it is'}
  assert 'norm' not in params
  with pytest.raises(ValueError, match=r'come from no tensor: norm/scale'):
    read(stored, rules=RULES[:-1])


def test_a_tensor_of_what_is_absent_by_design_is_an_error():
  with pytest.raises(ValueError, match='have no use: norm'):
    read(tensors(), absent={'norm/.*': 'it stays as it is'})


def test_rules_for_what_the_model_lacks_are_an_error():
  rules = [*RULES, Rule.of('norm.bias', 'norm/bias', 'm -> m')]
  with pytest.raises(ValueError, match=r'not in the model: norm/bias'):
    read(tensors(**{'norm.bias': np.ones(7, np.float32)}), rules=rules)


def test_a_parameter_comes_from_one_tensor_only():
  rules = [*RULES, Rule.of('norm.again', 'norm/scale', 'm -> m')]
  with pytest.raises(ValueError, match=r'several tensors: norm/scale'):
    read(tensors(**{'norm.again': np.ones(7, np.float32)}), rules=rules)


def test_integers_are_no_weights():
  with pytest.raises(ValueError, match=r'floating point: norm \(int8\)'):
    read(tensors(norm=np.ones(7, np.int8)))


def test_no_parameter_is_lost_when_writing():
  params, _ = read(tensors())
  with pytest.raises(ValueError, match='1 parameters have no place.*0/gate'):
    dict(layouts.write_params(
        params | {'0': params['0'] | {'gate': np.ones(1)}}, RULES))
  # A fused tensor of which a part is lacking would lose the others.
  del params['0']['k']
  with pytest.raises(ValueError, match='2 parameters have no place.*0/q, 0/v'):
    dict(layouts.write_params(params, RULES))


def test_what_was_absent_is_not_written():
  params, _ = read(tensors(norm=None), absent={'norm/.*': 'as it is'})
  assert 'norm' not in dict(layouts.write_params(params, RULES))


def test_reports_add_up():
  report = layouts.Report({'a': 1}, {'b': 'why'}) + layouts.Report(
      {'c': 2}, absent={'d': 'so'})
  assert report == layouts.Report({'a': 1, 'c': 2}, {'b': 'why'}, {'d': 'so'})
