"""Every config builds, and what is wrong in one is said before any work."""

import functools
import importlib
import pathlib
import re
import types

from experiments import build
from experiments import data as data_lib
from experiments.configs import flamingo, quickstart
import few_pictures
from few_pictures import FEATURES
from flamingo import params as params_lib
from flamingo import sharding
from flamingo.data import pipeline
from flamingo.model import stack
import jax
import jax.numpy as jnp
import numpy as np
import pytest

SMOLLM2 = dict(
    vocab_size=49152, width=576, layers=30, heads=9, kv_heads=3, head_dim=64,
    hidden=1536)


@pytest.fixture(scope='module')
def pictures():
  return few_pictures.make_pictures()


@pytest.fixture(scope='module')
def tokenizer():
  return few_pictures.make_tokenizer()


@pytest.fixture
def names(monkeypatch):
  """Names that any tokenizer can spell, instead of those of a real one."""
  monkeypatch.setattr(data_lib, 'name_pools', few_pictures.name_pools)


def test_there_are_no_configs_but_those_tested_here():
  folder = pathlib.Path(quickstart.__file__).parent
  found = {path.stem for path in folder.glob('*.py')} - {'__init__'}
  assert found == {'quickstart', 'fewshot', 'flamingo', 'benchmarks',
                   'benchmarks_quickstart'}
  for name in found:
    module = importlib.import_module(f'experiments.configs.{name}')
    assert 'Command: ' in module.__doc__ and 'Cost' in module.__doc__


# Models.


def shapes(model, features):
  images = jnp.zeros((1, 1, 1) + features)
  tokens = jnp.zeros((1, 2), jnp.int32)
  return jax.eval_shape(
      lambda: model.init(jax.random.key(0), images, tokens, tokens))['params']


def test_the_quickstart_builds():
  config = quickstart.get_config()
  rms = np.linspace(1, 100, 30)
  places = range(config.model.offset, 30, config.model.every)
  model = build.build_model(config, SMOLLM2, FEATURES[1], residual_rms=rms)
  trainable, frozen = params_lib.split(shapes(model, FEATURES))
  assert params_lib.count(frozen) == 134_515_008  # SmolLM2-135M, as published
  assert set(trainable) == {
      'new_embedding', 'resampler', 'whitening', 'induction',
      *(f'xattn_{i}' for i in range(len(places)))}
  assert model.lm.dtype == model.resampler.dtype == jnp.bfloat16
  # A branch is as large as the stream before its layer.
  np.testing.assert_allclose(
      [block.branch_scale for block in model.xattn], rms[places])
  first, *others = [
      (block.gate_init, block.out_scale) for block in model.xattn]
  assert first == (config.model.first_gate, 1.0)
  assert set(others) == {(config.xattn.gate_init, config.xattn.out_scale)}
  assert config.xattn.out_scale == 0
  path = model.induction
  assert path.heads == tuple(map(tuple, config.induction.heads))
  assert path.visual_width == config.whitening.width and path.tag == 49152
  optimizer = build.build_optimizer(config)
  jax.eval_shape(optimizer.init, trainable)


def test_gates_of_zero_are_the_papers():
  config = _with(
      quickstart.get_config(), scale_branches=False, first_gate=0.0)
  config.xattn.gate_init, config.xattn.out_scale = 0.0, 1.0
  model = build.build_model(config, SMOLLM2, FEATURES[1])
  assert {(b.gate_init, b.out_scale) for b in model.xattn} == {(0.0, 1.0)}


@pytest.mark.parametrize('size', flamingo.SIZES)
def test_the_papers_sizes_build(size):
  config = flamingo.get_config(size)
  model = build.build_model(config, dict(config.lm), config.visual.width)
  assert model.whitening is None
  assert all(block.gate_init == 0 and block.branch_scale == 1
             for block in model.xattn)
  build.build_optimizer(config)


def _with(config, **model):
  config.unlock()
  config.model.update(model)
  return config


@pytest.mark.parametrize('layers, platform, scanned', [
    ('auto', 'cpu', False), ('auto', 'gpu', True), ('auto', 'tpu', True),
    ('auto', None, False),  # tests run on a CPU
    ('unrolled', 'tpu', False), ('scanned', 'cpu', True)])
def test_auto_scans_over_layers_on_accelerators(layers, platform, scanned):
  config = _with(quickstart.get_config(), layers=layers, remat='dots')
  config.induction.strength = 0.0
  # Its gated blocks differ in the scale of their branches and the first gate.
  model = build.build_model(
      config, SMOLLM2, 1280, residual_rms=np.arange(30), platform=platform)
  assert model.scan is scanned and model.remat == 'dots'


def test_auto_leaves_layers_unrolled_that_no_scan_can_read(capsys):
  config = _with(quickstart.get_config(), layers='auto', every=4)
  lm = SMOLLM2 | dict(window=5, global_every=6)
  build_on = lambda: build.build_model(
      config, lm, 1280, residual_rms=np.ones(30), platform='gpu')
  assert not build_on().scan
  assert 'An induction path tells heads of some' in capsys.readouterr().out
  config.induction.strength = 0.0
  assert not build_on().scan
  assert 'stay unrolled. Layers are scanned over in' in capsys.readouterr().out
  config.model.every = 6
  assert build_on().scan


def test_an_unknown_way_to_run_layers_is_refused():
  config = _with(quickstart.get_config(), layers='rolled')
  with pytest.raises(ValueError, match="layers is 'rolled'; choose unrolled"):
    build.build_model(config, SMOLLM2, 1280, residual_rms=np.ones(30))


def test_a_config_from_before_layers_were_scanned_still_builds():
  config = quickstart.get_config()
  del config.model.layers, config.model.remat
  model = build.build_model(
      config, SMOLLM2, 1280, residual_rms=np.ones(30), platform='tpu')
  assert not model.scan and model.remat == 'none'


def test_the_80b_scanned_has_the_parameters_of_the_80b_unrolled():
  config = _with(flamingo.get_config('80b'), layers='scanned')
  model = build.build_model(config, dict(config.lm), config.visual.width)
  features = (config.visual.places, config.visual.width)
  scanned = shapes(model, features)
  # Eleven groups of seven layers, and a twelfth block with the last three.
  assert scanned['xattn_groups']['attn_gate'].shape == (11,)
  assert {'xattn_11', 'resampler'} < scanned.keys()
  layers = {'layer_77', 'layer_78', 'layer_79', 'groups'}
  assert layers < scanned['lm'].keys() and 'layer_76' not in scanned['lm']
  params_lib.check_same(
      shapes(model.clone(scan=False), features), stack.unstack(scanned), '80B')


def test_a_size_that_the_paper_does_not_have_is_refused():
  with pytest.raises(ValueError, match=r"'7b'; there are \['3b', '9b', '80"):
    flamingo.get_config('7b')


def make_frozen(tokenizer):
  lm = dict(vocab_size=tokenizer.vocab_size, width=8, layers=3, heads=2,
            kv_heads=1, head_dim=4, hidden=8)
  return types.SimpleNamespace(
      lm=lm, tokenizer=tokenizer, fingerprints={'lm': 'a', 'vision': 'b'})


def test_the_residual_stream_is_measured_before_each_layer(
    tokenizer, random_params
):
  frozen = make_frozen(tokenizer)
  frozen.lm_params = random_params(
      build.LM(**frozen.lm), jnp.zeros((1, 2), jnp.int32))
  rms = build.measure_residual_rms(frozen)
  ids = tokenizer.encode(build._ORDINARY_TEXT)[1:]
  embedded = np.asarray(frozen.lm_params['embed']['embedding'])[ids]
  assert rms.shape == (3,)
  expected = np.sqrt((embedded**2).mean(1)).mean()
  assert rms[0] == pytest.approx(expected, rel=1e-5)


def test_new_tokens_begin_as_an_average_word_and_a_new_line(
    tokenizer, random_params
):
  frozen = make_frozen(tokenizer)
  table = np.random.default_rng(0).normal(size=(tokenizer.vocab_size, 8))
  frozen.lm_params = {'embed': {'embedding': table}}
  words = tokenizer.single_token_words(4, 9)
  ids = [tokenizer.encode(f' {word}')[0] for word in words]
  assert len(ids) == 75
  np.testing.assert_allclose(build.rows_like_words(frozen), [
      table[ids].mean(0), table[tokenizer.encode('\n')[0]]])


def test_frozen_parameters_are_held_in_the_models_type():
  frozen = types.SimpleNamespace(lm_params={'a': np.ones(3, np.float32)})
  for dtype in 'bfloat16', 'float32':
    assert build.frozen_params(frozen, dtype)['lm']['a'].dtype == dtype


def test_frozen_parameters_are_stacked_for_a_model_that_scans():
  frozen = types.SimpleNamespace(lm_params={
      f'layer_{i}': {'a': np.full(3, i, np.float32)} for i in range(5)})
  groups = stack.Groups(first=0, every=2, count=2)
  for mesh in None, sharding.make_mesh():
    lm = build.frozen_params(frozen, 'bfloat16', mesh, groups)['lm']
    np.testing.assert_array_equal(
        lm['groups']['layer_1']['a'][:, 0].astype('f'), [1, 3])
    assert lm.keys() == {'groups', 'layer_4'}


def test_only_what_is_trained_is_made(tiny):
  model = tiny.model.clone(lm=tiny.model.lm.clone(layers=2),
                           xattn=tiny.model.xattn[:1])
  made = jax.eval_shape(lambda: build.init_trainable(model, (7, 23), seed=0))
  assert set(made) == {'new_embedding', 'resampler', 'xattn_0'}


# What is misspelt.


@pytest.mark.parametrize('section, key, near', [
    ('resampler', 'layrs', 'layers'),
    ('xattn', 'head', 'heads'),
    ('whitening', 'widht', 'width'),
    ('model', 'evry', 'every'),
])
def test_a_misspelt_key_names_the_nearest(section, key, near):
  config = quickstart.get_config()
  config[section][key] = 1
  with pytest.raises(ValueError, match=re.escape(
      f'Nothing reads config key config.{section}.{key}. '
      f'Did you mean {near!r}? Known keys: ')):
    build.build_model(config, SMOLLM2, 1280, residual_rms=np.ones(30))


def test_a_misspelt_key_of_the_optimizer_names_the_nearest():
  config = quickstart.get_config()
  config.optimizer.learning_rat = 1e-3
  with pytest.raises(ValueError, match="Did you mean 'learning_rate'"):
    build.build_optimizer(config)


def test_a_key_like_no_other_is_refused_without_a_guess():
  with pytest.raises(ValueError, match=r'config.zzz. Known keys: a, b.$'):
    build.check_keys({'zzz': 1}, ('b', 'a'), 'config')


def test_what_is_known_otherwise_is_no_key():
  config = quickstart.get_config()
  config.resampler.visual_width = 7
  with pytest.raises(ValueError, match='config.resampler.visual_width'):
    build.build_model(config, SMOLLM2, 1280, residual_rms=np.ones(30))


def test_an_unknown_type_or_language_model_is_refused():
  config = quickstart.get_config()
  config.model.dtype = 'float8'
  with pytest.raises(ValueError, match="'float8', not one of.*bfloat16"):
    build.build_model(config, SMOLLM2, 1280, residual_rms=np.ones(30))
  config.frozen.lm = 'gpt2'
  with pytest.raises(ValueError, match="'gpt2'; the pretrained.*smollm2"):
    build.load_frozen(config)


# Mixtures.


def make_layout(config, pictures):
  return build.call(
      pipeline.Layout, config.layout, 'config.layout',
      image_shape=(1,) + pictures.store.shape, lookup=pictures.features)


def test_the_mixture_of_the_quickstart_draws(pictures, tokenizer, names):
  config = quickstart.get_config()
  datasets = data_lib.build_mixture(config, pictures, tokenizer)
  assert [d.name for d in datasets] == list(config.mixture)
  layout = make_layout(config, pictures)
  batches = next(pipeline.make_pipeline(
      datasets, tokenizer, layout, seed=0, steps=1))
  for dataset in datasets:
    batch = batches[dataset.name]
    assert batch.tokens.shape == (dataset.batch_size, config.layout.length)
    assert batch.loss_mask.any() and np.abs(batch.images).max() > 0


def test_an_unknown_source_is_refused(pictures, tokenizer):
  config = quickstart.get_config()
  config.mixture.category.source = 'laion'
  with pytest.raises(
      ValueError, match=r"category.source is 'laion'; there are \['epis"):
    data_lib.build_mixture(config, pictures, tokenizer)


@pytest.mark.parametrize('where, key, near', [
    (('binding',), 'batchsize', 'batch_size'),
    (('binding', 'options'), 'image', 'images'),
    (('shapes', 'options', 'captions'), 'option', 'options'),
    (('shapes', 'options', 'questions', 'options'), 'image', 'images'),
])
def test_a_misspelt_key_of_a_mixture_names_the_nearest(
    pictures, tokenizer, names, where, key, near
):
  config = quickstart.get_config()
  section = functools.reduce(lambda d, k: d[k], where, config.mixture)
  section[key] = 1
  name = re.escape('.'.join(('config.mixture', *where, key)))
  with pytest.raises(ValueError, match=f'{name}. Did you mean {near!r}'):
    data_lib.build_mixture(config, pictures, tokenizer)


def test_more_images_than_the_model_takes_are_an_error(
    pictures, tokenizer, names
):
  config = quickstart.get_config()
  config.mixture.binding.options.images = 21
  datasets = data_lib.build_mixture(config, pictures, tokenizer)
  batches = pipeline.make_pipeline(
      datasets, tokenizer, make_layout(config, pictures), seed=0, steps=1)
  with pytest.raises(ValueError, match='21 images but the model takes 20'):
    next(batches)
