"""A model without some of its parts: what is left of it."""

from experiments.without import in_order, leave_out
from flamingo.model.induction import InductionPath
import jax
import numpy as np
import pytest


def test_without_gates_a_model_is_what_it_is_with_them_shut(tiny):
  shut = leave_out(tiny.params, {}, ['gates'])
  inputs = tiny.images, tiny.tokens, tiny.image_index
  np.testing.assert_array_equal(
      tiny.forward(shut, *inputs), tiny.forward(tiny.closed, *inputs))
  moved = tiny.forward(shut, tiny.images + 1, *inputs[1:])
  np.testing.assert_array_equal(moved, tiny.forward(shut, *inputs))


def test_without_its_path_a_model_is_as_if_it_never_had_one(
    tiny, random_params, quick_jit
):
  small = tiny.model
  small = small.clone(
      resampler=small.resampler.clone(width=23, project_input=False),
      xattn=tuple(b.clone(visual_width=23) for b in small.xattn))
  model = small.clone(induction=InductionPath(
      visual_width=23, width=7, heads=((1, 0), (3, 1)), tag=259))
  inputs = tiny.images, tiny.tokens, tiny.image_index
  params = random_params(model, *inputs)
  less = leave_out(params, {}, ['path'])
  run = quick_jit(
      lambda model, params: model.apply({'params': params}, *inputs),
      static_argnums=0)
  never = {k: v for k, v in params.items() if k != 'induction'}
  np.testing.assert_array_equal(run(model, less), run(small, never))
  assert params['induction']['asked'].any()  # nothing is changed in place


def test_without_training_parts_are_as_they_were_at_first():
  trained = _parts(gate=0.7, other=2.0, path=3.0)
  first = _parts(gate=0.1, other=1.0, path=0.5)
  assert leave_out(trained, first, []) == trained
  assert leave_out(trained, first, ['training']) == first
  assert leave_out(trained, first, ['gates', 'training', 'path']) == _parts(
      gate=0.0, other=1.0, path=0.0)
  assert leave_out(trained, first, ['gates', 'path']) == _parts(
      gate=0.0, other=2.0, path=0.0)


def test_what_a_model_does_not_have_cannot_be_left_out():
  parts = _parts(gate=0.7, other=2.0, path=3.0)
  del parts['induction'], parts['xattn_1']['attn_gate']
  with pytest.raises(ValueError, match='without an induction path'):
    leave_out(parts, parts, ['path'])
  with pytest.raises(ValueError, match='xattn_1 has none'):
    leave_out(parts, parts, ['gates'])
  with pytest.raises(ValueError, match=r"'gate'; what can be .*'gates'"):
    in_order(['path', 'gate'])
  assert in_order(['path', 'training']) == ('training', 'path')


def _parts(*, gate, other, path):
  return jax.tree.map(np.float32, {
      'xattn_0': {'attn_gate': gate, 'ff_gate': gate, 'query': other},
      'xattn_1': {'attn_gate': gate, 'query': other},
      'resampler': {'latents': other},
      'induction': {'asked': path, 'answered': path}})
