"""`python -m experiments.convert` says all; what is not explained fails.

The files are in our own layout; those of others have their parity tests.
"""

from absl import flags
from absl.testing import flagsaver
from experiments import convert
from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained import formats
from flamingo.pretrained import native
from flamingo.pretrained.layouts import Report
from flamingo.pretrained.load import load
from flamingo.pretrained.vision import VisionInfo
import jax
import numpy as np
import pytest

INFO = VisionInfo(
    name='toy', image_size=9, features=7, width=23, fingerprint='abc')


@pytest.fixture(autouse=True)
def parsed():
  # Other programs' flags are there too, which parsing would ask for.
  flags.FLAGS.mark_as_parsed()


@pytest.fixture
def source(tmp_path, tiny):
  path = tmp_path / 'source'
  native.save(path, tiny.model, tiny.params, Tokenizer.bytes(), INFO)
  return path


def test_a_converted_model_is_the_model(source, tmp_path, tiny, capsys):
  convert.main(['convert', str(source), str(tmp_path / 'target')])
  loaded = load(tmp_path / 'target', progress=False)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, tiny.params)
  said = capsys.readouterr().out
  assert 'Unexpected: none' in said and 'Peak memory' in said
  assert 'gated cross-attention' in said


def test_without_a_target_it_only_reports(source, tmp_path, capsys):
  before = sorted(tmp_path.iterdir())
  convert.main(['convert', str(source)])
  assert 'Missing by design: none' in capsys.readouterr().out
  assert sorted(tmp_path.iterdir()) == before


def test_a_tensor_that_is_not_explained_fails(source):
  tensors = {
      name: stored.read()
      for name, stored in formats.open_weights(source).items()}
  tensors['lm/layer_9/mystery'] = np.zeros(3, np.float32)
  (source / 'model.safetensors').unlink()
  formats.write_safetensors(source, tensors.items())
  with pytest.raises(SystemExit, match='lm/layer_9/mystery'):
    convert.main(['convert', str(source)])


def test_a_lacking_tensor_fails(source):
  tensors = {
      name: stored.read()
      for name, stored in formats.open_weights(source).items()
      if name != 'resampler/latent'}
  (source / 'model.safetensors').unlink()
  formats.write_safetensors(source, tensors.items())
  with pytest.raises(SystemExit, match='resampler/latent'):
    convert.main(['convert', str(source)])


def test_a_target_that_is_there_is_not_touched(source, tmp_path):
  target = tmp_path / 'target'
  target.mkdir()
  (target / 'thesis.txt').write_text('years of work')
  with pytest.raises(SystemExit, match='there already'):
    convert.main(['convert', str(source), str(target)])
  assert [file.name for file in target.iterdir()] == ['thesis.txt']


def test_a_layout_that_cannot_express_the_model_says_what_differs(
    source, tmp_path
):
  # The tiny model has a tied llama and no vision encoder: no IDEFICS.
  with flagsaver.flagsaver(layout='idefics'):
    with pytest.raises(SystemExit, match='not written.*(cannot|vision)'):
      convert.main(['convert', str(source), str(tmp_path / 'target')])


def test_openflamingos_layout_asks_for_the_family(source, tmp_path):
  with flagsaver.flagsaver(layout='openflamingo'):
    with pytest.raises(SystemExit, match='--family'):
      convert.main(['convert', str(source), str(tmp_path / 'a.safetensors')])


def test_a_source_that_is_not_there_says_so(tmp_path):
  with pytest.raises(SystemExit, match='nowhere'):
    convert.main(['convert', str(tmp_path / 'nowhere')])


def test_reasons_are_listed_once_with_what_they_explain():
  report = Report(unused={'a': 'a buffer', 'b': 'a buffer', 'c': 'an alias'})
  assert convert.reasons('Of no use:', report.unused) == [
      'Of no use:', '  a buffer: a, b', '  an alias: c']
