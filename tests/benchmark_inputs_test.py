"""What `experiments.benchmark` says of inputs that it cannot use."""

import json
import os
import pathlib
import subprocess
import sys
import types

import benchmark_models as models
from experiments import benchmark
from experiments import start
import jax
import ml_collections
import pytest

HOME = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def loaded(tiny, random_params):
  return models.seeing(tiny, random_params)


def line(split, number, **changes):
  """Changes a line of a split; None takes a field away."""
  def spoil(root, config):
    del config
    path = root / f'birds/{split}.jsonl'
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    lines[number] = {
        k: v for k, v in (lines[number] | changes).items() if v is not None}
    path.write_text(''.join(json.dumps(each) + '\n' for each in lines))
  return spoil


def content(path, data):
  """Changes what a file holds: to bytes, or cuts so many off its end."""
  def spoil(root, config):
    del config
    path_ = root / path
    held = path_.read_bytes()
    path_.write_bytes(held[:-data] if isinstance(data, int) else data)
  return spoil


def setting(**changes):
  """Changes the config; `{root}` in a text is the data root."""
  def spoil(root, config):
    config.update({
        k: v.format(root=root) if isinstance(v, str) else v
        for k, v in changes.items()})
  return spoil


def kind(template):
  def spoil(root, config):
    del root
    config['own'] = ({**config['own'][0], 'template': template},)
  return spoil


# What is spoilt; what was expected, what came, what to do.
CASES = {
    'truncated JSON': (
        content('birds/query.jsonl', 20),
        r'query\.jsonl, line 11: expected JSON .*Unterminated.* Fetch the file '
        'again: it may be cut short'),
    'no examples': (
        content('birds/support.jsonl', b'\n'),
        r'birds \(support\): expected examples; .*support\.jsonl.* none\. F'),
    'an image that does not decode': (
        content('birds/support/2.png', b'<html>log in</html>'),
        r'encoded picture for birds/support/2\.png of example support 2; 19 '
        r'bytes came that do not decode \(cannot identify image file\)\. Fetch '
        'the file again, or leave the example out'),
    'a lacking field': (
        line('query', 2, answer=None),
        r"query\.jsonl, line 3: expected the field 'answer'; it has .*'id'.*"
        'rename its fields'),
    'a field that the template lacks': (
        line('query', 0, question=None),
        r"Example query 0: expected the fields \['question'\]; .* are not among"
        r' \[\]\. Add them, or choose a template'),
    'an id that comes twice': (
        line('support', 3, id='support 1'),
        r"\(support\): expected every id once; 'support 1' comes twice.*leave "
        'one of the two out'),
    'no candidates': (
        line('query', 1, candidates=[]),
        r"example query 1: expected the answer among the candidates; came "
        r"'robin' and \(\)\. Correct them, or make the task open-ended"),
    'an answer that is no candidate': (
        line('query', 2, answer='eagle'),
        r"query 2: expected the answer among .* came 'eagle' and \('wren', "),
    'more shots than the support has': (
        setting(shots=(0, 14)),
        'Expected 14 demonstrations for example query 0; of 13 examples only 12'
        ' do not show its own image. Ask for fewer shots, or give more'),
    'a prompt that is too long': (
        setting(max_length=20),
        r'Example query 0 alone has \d+ tokens, and \d+ more are needed for an '
        'answer; a prompt may have 20. Raise config.max_length if the model'),
    'a control without demonstrations to change': (
        setting(shots=(0,), controls=('no_images', 'blank_query')),
        r"controls \['no_images'\] change demonstrations .* came shots=\[0\].* "
        'Add a number of shots, or leave these controls out'),
    'an unknown template': (
        kind('quiz'),
        r"birds has the template 'quiz'; of config\.template='flamingo' there "
        r"are \[.*'qa'.*\]\. Choose one"),
    'an unknown similarity': (
        setting(similarity='cosine'),
        r"config\.similarity is 'cosine'; there are \['auto', 'embed', "),
    'an embedding that the encoder has not': (
        setting(similarity='embed'),
        r"similarity='embed' .* this ViT has none.* Set it to 'pooled'"),
    'an output that is a file': (
        setting(output='{root}/birds/query.jsonl'),
        'Expected --output to be a folder that can be written to; came '
        r'.*query\.jsonl: File exists\. Name another'),
    'an output below a file': (
        setting(output='{root}/birds/query.jsonl/out'),
        r'Expected --output .*jsonl/out: Not a directory\. Name another'),
    'a cache that cannot be written to': (
        setting(cache='/proc/nowhere'),
        'Expected config.cache to be .* came /proc/nowhere: No such file'),
}


@pytest.mark.parametrize('case', CASES)
def test_a_wrong_input_is_told_and_nothing_is_traced(
    loaded, tmp_path, monkeypatch, quick_jit, case):
  spoil, said = CASES[case]
  models.birds(tmp_path, ranked=True)
  config = models.config_of(tmp_path / 'cache', shots=(0, 1), baselines=())
  spoil(tmp_path, config)
  output = config.pop('output', str(tmp_path / 'out'))
  flags = types.SimpleNamespace(
      config=ml_collections.ConfigDict(config), model='a model',
      root=str(tmp_path), output=output, processes=1, process=0, rescore=False,
      list=False)
  monkeypatch.setattr(benchmark, 'FLAGS', flags)
  monkeypatch.setattr(benchmark, 'load_model', lambda config: loaded)
  monkeypatch.setattr(jax, 'jit', quick_jit)
  with pytest.raises(SystemExit, match=said) as error:
    benchmark.main(['benchmark'])
  assert '0x' not in str(error.value)  # no address of anything


def test_what_nobody_has_explained_keeps_its_traceback():
  for wrong in (lambda: int('one'), lambda: json.loads('{')):
    with pytest.raises(ValueError):
      with start.plain_errors():
        wrong()


def test_the_program_ends_with_one_line_and_a_code(tmp_path):
  process = subprocess.run(
      [sys.executable, '-m', 'experiments.benchmark', '--model=nowhere',
       f'--root={tmp_path}', f'--output={tmp_path / "out"}',
       "--config.tasks=('bird',)"],
      cwd=HOME, env=os.environ | {'JAX_PLATFORMS': 'cpu'}, timeout=300,
      capture_output=True, text=True)
  assert process.returncode == 1
  last = process.stderr.strip().splitlines()
  assert last[-1].startswith("There is no benchmark 'bird'. There are ['aro_")
  assert 'Traceback' not in process.stderr
