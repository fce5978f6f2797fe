"""Checkpoints: what is restored is what was saved, or an error says why."""

from flamingo import params as params_lib
from flamingo import sharding
from flamingo.data.pipeline import Dataset, Layout, make_pipeline
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.stack import Groups, stack
from flamingo.train.checkpoint import Checkpointer, read_meta
from flamingo.train.optimizer import make_optimizer
from flamingo.train.step import make_train_step
from flamingo.types import Chunk, TrainState
import jax
import jax.numpy as jnp
import numpy as np
import pytest

FINGERPRINTS = {'lm': 'abc', 'vision': 'xyz'}
OPTIMIZER = make_optimizer(steps=9, learning_rate=0.05, warmup=1)


def make_state(seed=0, width=3):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  trainable = {
      'new_embedding': draw(2, width),
      'resampler': {'layer_0': {'kernel': draw(5, width)}},
      'xattn_0': {'attn_gate': draw(), 'out': {'kernel': draw(width, 2)}}}
  opt_state = OPTIMIZER.init(trainable)
  updates, opt_state = OPTIMIZER.update(trainable, opt_state, trainable)
  del updates  # its moments are no longer zero
  return TrainState(
      step=jnp.int32(4), trainable=trainable, opt_state=opt_state,
      frozen={'lm': {'embed': draw(1000, 7)}})


def open_(directory, fingerprints=FINGERPRINTS, **kwargs):
  return Checkpointer(
      directory, config={'steps': 9, 'seed': 0}, fingerprints=fingerprints,
      **kwargs)


@pytest.fixture
def saved(tmp_path):
  """A folder that holds `make_state()` at step 4."""
  checkpointer = open_(tmp_path / 'run')
  checkpointer.save(make_state(), {'next_index': 4}, wait=True)
  checkpointer.close()
  return tmp_path / 'run'


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


def restore(directory, state, **kwargs):
  checkpointer = open_(directory, **kwargs)
  try:
    restored = checkpointer.restore(state)
    return restored and (restored.state, restored.data)
  finally:
    checkpointer.close()


def test_what_is_restored_is_what_was_saved(saved):
  fresh = make_state(seed=1).replace(step=jnp.int32(0))
  state, data_state = restore(saved, fresh)
  expected = make_state()
  assert_same(
      (state.step, state.trainable, state.opt_state),
      (expected.step, expected.trainable, expected.opt_state))
  assert data_state == {'next_index': 4}


def test_the_frozen_part_is_the_one_at_hand_and_not_in_the_checkpoint(saved):
  fresh = make_state(seed=1)
  state, _ = restore(saved, fresh)
  assert state.frozen is fresh.frozen
  size = sum(p.stat().st_size for p in saved.rglob('*') if p.is_file())
  assert size < params_lib.count(fresh.frozen) * 4
  metadata = (saved / '4/state/_METADATA').read_text()
  assert 'new_embedding' in metadata and 'embed\'' not in metadata


def test_parameters_come_back_where_they_were(saved):
  mesh = sharding.make_mesh()
  assert mesh.size == 2
  fresh = jax.device_put(make_state(seed=1), sharding.replicated(mesh))
  state, _ = restore(saved, fresh)
  for leaf in jax.tree.leaves((state.trainable, state.opt_state)):
    assert leaf.sharding == sharding.replicated(mesh)


@pytest.mark.parametrize('first', [False, True])
def test_stacked_layers_go_on_unrolled_and_the_other_way_round(tmp_path, first):
  """Moments and the average too, and two blocks that fill no group."""
  def state_of(seed, stacked):
    state = make_state(seed)
    block = state.trainable['xattn_0']
    trainable = state.trainable | {
        f'xattn_{i}': jax.tree.map(lambda leaf, i=i: leaf + i, block)
        for i in range(5)}
    _, opt_state = OPTIMIZER.update(
        trainable, OPTIMIZER.init(trainable), trainable)
    state = state.replace(
        trainable=trainable, opt_state=opt_state,
        ema=jax.tree.map(lambda leaf: leaf / 2, trainable))
    return stack(state, Groups(0, 1, 3)) if stacked else state

  checkpointer = open_(tmp_path)
  checkpointer.save(state_of(0, first), {}, wait=True)
  checkpointer.close()
  state, _ = restore(tmp_path, state_of(1, not first))
  expected = state_of(0, not first)
  assert ('xattn_groups' in state.trainable) != first
  assert_same(
      (state.trainable, state.opt_state, state.ema),
      (expected.trainable, expected.opt_state, expected.ema))


def test_an_average_is_restored_where_none_is_asked_for(tmp_path):
  checkpointer = open_(tmp_path)
  saved = make_state()
  average = jax.tree.map(lambda leaf: leaf / 3, saved.trainable)
  checkpointer.save(saved.replace(ema=average), {}, wait=True)
  checkpointer.close()
  state, _ = restore(tmp_path, make_state(seed=1))
  assert_same(state.ema, average)


def test_an_average_that_was_not_kept_begins_where_the_training_is(saved):
  fresh = make_state(seed=1)
  state, _ = restore(saved, fresh.replace(ema=fresh.trainable))
  assert_same(state.ema, make_state().trainable)
  assert state.ema['new_embedding'] is not state.trainable['new_embedding']


def test_what_is_restored_lies_on_devices_that_are_here(saved):
  """Also what is given as bare shapes, as to evaluate."""
  fresh = make_state(seed=1)
  state, _ = restore(saved, fresh.replace(opt_state=jax.eval_shape(
      OPTIMIZER.init, fresh.trainable)))
  for leaf in jax.tree.leaves(state.opt_state):
    assert leaf.sharding == fresh.step.sharding


def test_a_changed_config_is_named_by_its_keys(saved, capsys):
  def restore_with(config, may_change=()):
    checkpointer = Checkpointer(
        saved, config=config, fingerprints=FINGERPRINTS, may_change=may_change)
    try:
      return checkpointer.restore(make_state(seed=1))
    finally:
      checkpointer.close()

  changed = {'steps': 20, 'seed': 0, 'optimizer': {'clip': (1, 2)}}
  with pytest.raises(ValueError) as error:
    restore_with(changed)
  lines = str(error.value).splitlines()
  assert lines[1:3] == [
      '  optimizer.clip: nothing -> [1, 2]', '  steps: 9 -> 20']
  with pytest.raises(ValueError) as error:
    restore_with(changed, ['steps'])
  assert 'steps: 9' not in str(error.value)
  capsys.readouterr()
  assert restore_with(changed, ['steps', 'optimizer.*']).data == {
      'next_index': 4}
  assert 'steps: 9 -> 20' in capsys.readouterr().out
  assert restore_with(changed, ['*']) is not None


def test_a_folder_without_a_checkpoint_restores_nothing(tmp_path):
  assert restore(tmp_path / 'new', make_state()) is None


def test_the_newest_are_kept(tmp_path):
  checkpointer = open_(tmp_path, keep=2)
  for step in 1, 2, 3:
    checkpointer.save(
        make_state().replace(step=jnp.int32(step)), {'next_index': step})
  checkpointer.close()
  steps = {p.name for p in tmp_path.iterdir() if p.name.isdigit()}
  assert steps == {'2', '3'} and open_(tmp_path).latest_step == 3


def test_a_step_that_is_saved_is_not_saved_again(saved):
  checkpointer = open_(saved)
  checkpointer.save(make_state(seed=1), {'next_index': 9}, wait=True)
  checkpointer.close()
  state, data_state = restore(saved, make_state(seed=2))
  assert_same(state.trainable, make_state().trainable)
  assert data_state == {'next_index': 4}


def test_a_save_that_was_cut_short_is_passed_over(saved):
  """As a killed process leaves it: another name until it is whole."""
  unfinished = saved / '7.orbax-checkpoint-tmp-0'
  unfinished.mkdir()
  (unfinished / 'state').write_bytes(b'half')
  state, _ = restore(saved, make_state(seed=1))
  assert state.step == 4


# Errors.


def test_another_architecture_is_named_by_its_first_leaf_and_both_shapes(saved):
  with pytest.raises(ValueError) as error:
    restore(saved, make_state(width=8))
  first, second, *_ = str(error.value).splitlines()
  assert 'of another architecture' in first and str(saved) in first
  assert second == '  new_embedding: expected (2, 8), came (2, 3)'


def test_a_leaf_too_many_or_too_few_is_named(saved):
  state = make_state()
  more = state.replace(trainable=state.trainable | {'b': jnp.zeros(6)})
  with pytest.raises(ValueError, match=r'b: expected \(6,\), came nothing'):
    restore(saved, more)
  fewer = state.replace(trainable={
      k: v for k, v in state.trainable.items() if k != 'new_embedding'})
  with pytest.raises(ValueError, match=r'expected nothing, came \(2, 3\)'):
    restore(saved, fewer)


@pytest.mark.parametrize('other, message', [
    ({'lm': 'abc', 'vision': 'new'}, 'vision of fingerprint xyz, but new'),
    ({'lm': 'abc'}, 'vision of fingerprint xyz, but None'),
])
def test_other_frozen_parts_are_refused(saved, other, message):
  with pytest.raises(ValueError, match=message):
    restore(saved, make_state(), fingerprints=other)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
  # Permissions do not hold for root, so the question is answered for it.
  monkeypatch.setattr('os.access', lambda *_: False)
  with pytest.raises(PermissionError, match='Choose another --workdir'):
    open_(tmp_path)


def test_meta_is_what_the_run_was(saved):
  meta = read_meta(saved)
  assert meta['config'] == {'steps': 9, 'seed': 0}
  assert meta['fingerprints'] == FINGERPRINTS


@pytest.mark.parametrize('made', [True, False])
def test_no_checkpoint_is_said_so(tmp_path, made):
  directory = tmp_path / 'run'
  if made:
    directory.mkdir()
  with pytest.raises(FileNotFoundError, match='holds no checkpoint.*--workdir'):
    read_meta(directory)
  assert directory.exists() == made


# Training that goes on.


@pytest.fixture(scope='module')
def training(tiny, random_params):
  """A small model's first state, its step, and the data."""
  model = tiny.model.clone(
      lm=tiny.model.lm.clone(layers=1), xattn=tiny.model.xattn[:1],
      resampler=tiny.model.resampler.clone(layers=1), every=1, offset=0)
  store = np.random.default_rng(0).normal(size=(9, 7, 23)).astype(np.float32)

  def source(rng):
    return [
        Chunk(text=rng.choice(['ab', 'c', 'abc']),
              image=np.int64(rng.integers(9)))
        for _ in range(2)]

  layout = Layout(
      length=9, images=2, image_shape=(1, 7, 23), lookup=store.__getitem__)
  data = lambda: make_pipeline(
      [Dataset(name='pairs', source=source, batch_size=2)], Tokenizer.bytes(),
      layout, seed=0, steps=9)
  params = random_params(
      model, tiny.images[:, :2, :1], tiny.tokens[:, :9],
      tiny.image_index[:, :9])

  def fresh():
    trainable, frozen = params_lib.split(jax.tree.map(jnp.copy, params))
    state = TrainState(
        step=jnp.int32(0), trainable=trainable, frozen=frozen,
        opt_state=OPTIMIZER.init(trainable))
    # As restored arrays are: else the step would be compiled twice.
    return jax.device_put(state, jax.devices()[0])

  step = jax.jit(
      make_train_step(model, OPTIMIZER, {'pairs': 1.0}), donate_argnums=0,
      compiler_options={'xla_backend_optimization_level': 0})
  return fresh, step, data


def advance(step, state, batches, steps):
  losses = []
  for _ in range(steps):
    state, metrics = step(state, next(batches))
    losses.append(float(metrics['loss']))
  return state, losses


def test_resumed_training_is_uninterrupted_training_bit_for_bit(
    training, tmp_path
):
  fresh, step, data = training
  expected, losses = advance(step, fresh(), data(), 6)

  batches = data()
  state, before = advance(step, fresh(), batches, 3)
  checkpointer = open_(tmp_path)
  checkpointer.save(state, batches.get_state())
  # The next step overwrites the state's arrays: a copy is being saved.
  advance(step, state, batches, 1)
  checkpointer.close()

  state, data_state = restore(tmp_path, fresh())
  batches = data()
  batches.set_state(data_state)
  state, after = advance(step, state, batches, 3)
  assert_same(state, expected)
  assert before + after == losses and len(set(losses)) == 6
