"""Trees as paths: what is split is joined again, and what differs is named."""

from flamingo import params as params_lib
import jax
import numpy as np
import pytest


@pytest.fixture
def tree():
  return {
      'xattn_0': {
          'query': {'kernel': np.ones((3, 5))}, 'attn_gate': np.ones(())},
      'lm': {'embed': {'embedding': np.ones((7, 3))}},
      'vision': {'stem': np.ones(2)},
      'resampler': {'latent': np.ones((11, 3))},
      'new_embedding': np.ones((2, 3)),
  }


def _same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_paths_come_in_sorted_order(tree):
  paths = [path for path, _ in params_lib.flatten(tree)]
  assert paths == sorted(paths)
  assert ('xattn_0', 'query', 'kernel') in paths


def test_unflatten_is_the_inverse_of_flatten(tree):
  _same(params_lib.unflatten(params_lib.flatten(tree)), tree)


def test_vision_and_language_model_are_frozen_and_nothing_else(tree):
  trainable, frozen = params_lib.split(tree)
  assert trainable.keys() == {'xattn_0', 'resampler', 'new_embedding'}
  assert frozen.keys() == {'lm', 'vision'}


def test_a_trainable_called_like_a_frozen_part_is_trainable():
  assert params_lib.is_trainable(('new_unembedding',))
  assert params_lib.is_trainable(('resampler', 'lm', 'vision'))
  assert not params_lib.is_trainable(('lm', 'new_embedding'))


@pytest.mark.parametrize('chosen', [
    params_lib.is_trainable,
    lambda path: path[-1] == 'kernel',  # parts of one subtree on both sides
    lambda path: True,
    lambda path: False,
])
def test_merge_is_the_inverse_of_split(tree, chosen):
  first, second = params_lib.split(tree, chosen)
  _same(params_lib.merge(first, second), tree)
  _same(params_lib.merge(second, first), tree)
  count = params_lib.count
  assert count(first) + count(second) == count(tree)


def test_merge_changes_neither_of_its_trees(tree):
  first, second = params_lib.split(tree, lambda path: path[-1] == 'kernel')
  params_lib.merge(first, second)
  assert first.keys() == {'xattn_0'} and first['xattn_0'].keys() == {'query'}


@pytest.mark.parametrize('other', [
    {'a': {'b': 1}}, {'a': 1}, {'a': {'b': {'c': 1}}}])
def test_trees_with_a_common_leaf_are_not_merged(other):
  with pytest.raises(ValueError, match="Both trees hold '[ab]'"):
    params_lib.merge({'a': {'b': 0}}, other)


def test_shapes_count_as_arrays_do(tree):
  shapes = jax.eval_shape(lambda: tree)
  expected = 3 * 5 + 1 + 7 * 3 + 2 + 11 * 3 + 2 * 3
  assert params_lib.count(tree) == params_lib.count(shapes) == expected


def test_trees_of_one_architecture_are_the_same(tree):
  params_lib.check_same(tree, jax.eval_shape(lambda: tree), 'checkpoint')


def test_what_differs_is_named_with_both_shapes(tree):
  came = {**tree, 'resampler': {'latent': np.ones((13, 3))}, 'more': np.ones(2)}
  del came['vision']
  with pytest.raises(ValueError) as error:
    params_lib.check_same(tree, came, 'file')
  message = str(error.value)
  assert message.startswith('The file is of another architecture')
  assert 'resampler/latent: expected (11, 3), came (13, 3)' in message
  assert 'more: expected nothing, came (2,)' in message
  assert 'vision/stem: expected (2,), came nothing' in message
  assert 'lm/' not in message


def test_a_long_list_of_differences_is_cut():
  many = {f'layer_{i:02}': np.ones(i) for i in range(9)}
  with pytest.raises(ValueError, match='layer_04(.|\n)*and 4 more') as error:
    params_lib.check_same({}, many, 'checkpoint')
  assert 'layer_05' not in str(error.value)
