"""Our own layout: what is saved is loaded, bit for bit."""

import json

from flamingo import params as params_lib
from flamingo import sharding
from flamingo.data.tags import OPENFLAMINGO
from flamingo.data.tokenizer import Tokenizer
from flamingo.model.lm import LM
from flamingo.model.positions import RopeScaling
from flamingo.model.stack import stack
from flamingo.model.vision.vit import ViT
from flamingo.model.whitening import Whitening
from flamingo.pretrained import native
from flamingo.pretrained.load import load
from flamingo.pretrained.vision import VisionInfo
import jax
import jax.numpy as jnp
import numpy as np
import pytest

TOKENIZER = Tokenizer.bytes()
INFO = VisionInfo(
    name='toy', image_size=9, features=9, width=14, fingerprint='abc',
    fit='crop')


@pytest.fixture(scope='module')
def seeing(tiny, random_params):
  """A Flamingo with a vision encoder, and its parameters."""
  model = tiny.model.clone(
      vision=ViT(
          patch=3, width=14, layers=2, heads=2, hidden=17, image_size=9,
          class_token=False),
      lm=tiny.model.lm.clone(
          tied=False, rope_scaling=RopeScaling('linear', 2.0)),
      resampler=tiny.model.resampler.clone(visual_width=14))
  pixels = jnp.zeros((1, 1, 1, 9, 9, 3), jnp.uint8)
  tokens = jnp.zeros((1, 2), jnp.int32)
  return model, random_params(model, pixels, tokens, tokens)


@pytest.fixture(scope='module')
def saved(seeing, tmp_path_factory):
  path = tmp_path_factory.mktemp('native') / 'model'
  native.save(path, *seeing, TOKENIZER, INFO)
  return path


def test_what_is_saved_is_loaded_bit_for_bit(seeing, saved):
  model, params = seeing
  loaded = load(saved, progress=False)
  assert native.describe(loaded.model) == native.describe(model)
  params_lib.check_same(params, loaded.params, 'directory')
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
  assert loaded.vision == INFO
  assert sum(loaded.report.loaded.values()) == params_lib.count(params)
  assert not loaded.report.unused and not loaded.report.absent


def test_a_model_that_scans_is_saved_as_one_that_does_not(
    seeing, saved, tmp_path
):
  model, params = seeing
  scanned = model.clone(scan=True, remat='full')
  native.save(
      tmp_path, scanned, stack(params, scanned.groups), TOKENIZER, INFO)
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
      path.name: path.read_bytes() for path in saved.iterdir()}


def test_the_tokenizer_comes_back(saved):
  loaded = load(saved, progress=False).tokenizer
  assert loaded.tags == TOKENIZER.tags
  for name in ('vocab_size', 'bos_id', 'eos_id', 'pad_id', 'image_ids'):
    assert getattr(loaded, name) == getattr(TOKENIZER, name)
  text = 'A pug, <s> und ein Mops: é\n'
  assert loaded.encode(text) == TOKENIZER.encode(text)


def test_a_model_of_features_needs_no_vision_encoder(tmp_path, tiny):
  whitening = Whitening(23, 23)
  model = tiny.model.clone(whitening=whitening)
  params = tiny.params | {'whitening': {
      'mean': np.ones(23, np.float32), 'kernel': np.eye(23, dtype=np.float32)}}
  info = VisionInfo(
      name='toy', image_size=9, features=7, width=23, fingerprint='abc')
  native.save(tmp_path, model, params, TOKENIZER.tagged(OPENFLAMINGO), info)
  loaded = load(tmp_path, progress=False)
  assert loaded.model.vision is None
  assert loaded.model.whitening == whitening
  assert loaded.tokenizer.tags == OPENFLAMINGO
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_parameters_come_in_the_type_and_on_the_devices_one_asks_for(saved):
  mesh = sharding.make_mesh()
  loaded = load(saved, dtype=jnp.bfloat16, mesh=mesh, progress=False)
  assert loaded.model.lm.dtype == loaded.model.vision.dtype == jnp.bfloat16
  for path, leaf in params_lib.flatten(loaded.params):
    assert leaf.dtype == jnp.bfloat16
    assert leaf.sharding == sharding.over_largest_axis(leaf.shape, mesh), path
  kernel = loaded.params['lm']['layer_0']['mlp']['up']['kernel']
  assert kernel.shape == (11, 17) and len(kernel.sharding.device_set) == 2


def test_types_of_the_file_can_be_kept(tmp_path, seeing):
  model, params = seeing
  frozen = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params['lm'])
  native.save(tmp_path, model, params | {'lm': frozen}, TOKENIZER, INFO)
  loaded = load(tmp_path, dtype=None, progress=False)
  assert loaded.model.lm.dtype == jnp.float32
  for path, leaf in params_lib.flatten(loaded.params):
    assert leaf.dtype == (jnp.bfloat16 if path[0] == 'lm' else jnp.float32)


def test_a_bar_shows_how_far_it_is(saved, capsys):
  load(saved)
  assert f'Flamingo in {saved}' in capsys.readouterr().err
  load(saved, progress=False)
  assert not capsys.readouterr().err


def _rewrite(path, **changes):
  config = json.loads((path / 'config.json').read_text())
  (path / 'config.json').write_text(json.dumps(config | changes))


@pytest.mark.parametrize('changes, message', [
    (dict(version=2), 'is of version 2, and this is a reader of 1'),
    (dict(model={'class': 'Popen'}), "builds a 'Popen'; a model is made of"),
    (dict(model_type='bert'), "model_type = 'bert'; expected flamingo-jax"),
])
def test_a_config_of_something_else_is_refused(
    tmp_path, tiny, changes, message
):
  native.save(tmp_path, tiny.model, tiny.params, TOKENIZER, INFO)
  _rewrite(tmp_path, **changes)
  with pytest.raises(ValueError, match=message):
    load(tmp_path, progress=False)


def test_a_config_of_another_size_is_found_out(tmp_path, seeing):
  model, params = seeing
  native.save(tmp_path, model, params, TOKENIZER, INFO)
  other = model.clone(lm=model.lm.clone(hidden=19))
  _rewrite(tmp_path, model=native.describe(other))
  with pytest.raises(
      ValueError,
      match=r'lm/layer_0/mlp/down/kernel: expected \(19, 11\), came \(17, 11'):
    load(tmp_path, progress=False)


def test_what_a_layout_cannot_express_is_named():
  lm = LM(vocab_size=7, width=8, layers=1, heads=2, kv_heads=2, head_dim=4,
          hidden=9)
  with pytest.raises(
      ValueError,
      match="has model.activation = 'silu', the model 'gelu'; it has "
      'model.layers = 1, the model 2'):
    native.check_expressed(lm.clone(activation='gelu', layers=2), lm, 'A file')
  native.check_expressed(lm, lm.clone(), 'A file')


def test_how_a_model_was_initialised_need_not_be_expressed(tiny):
  model = tiny.model.clone(
      new_token_scale=0.1,
      xattn=tuple(x.clone(gate_init=0.3) for x in tiny.model.xattn),
      resampler=tiny.model.resampler.clone(ff_hidden=76))
  plain = tiny.model.clone(
      resampler=tiny.model.resampler.clone(ff_hidden=None))  # 4 x 19
  native.check_expressed(model, plain, 'A file')
