"""The notebook runs, on a checkpoint of real parts trained for two steps."""

import os
import pathlib
import subprocess
import sys

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module', autouse=True)
def optimised():
  """Real parts compute for longer than they compile: see conftest.py."""
  with pytest.MonkeyPatch.context() as patch:
    patch.delenv('JAX_DISABLE_MOST_OPTIMIZATIONS')
    patch.delenv('XLA_FLAGS', raising=False)
    yield


@pytest.fixture(scope='module')
def checkpoint(optimised, tmp_path_factory):
  """A workdir that `experiments.train` has written, as a user would run it.

  Features land in the repository's `data/`, where a quickstart finds them.
  """
  workdir = tmp_path_factory.mktemp('run')
  subprocess.run(
      [sys.executable, '-m', 'experiments.train',
       '--config=experiments/configs/quickstart.py', f'--workdir={workdir}',
       '--config.steps=2', '--config.data.views.train=1',
       '--config.data.views.validation=1', '--config.data.views.test=2',
       '--config.data.questions.train=10', '--config.data.questions.test=10',
       '--config.held_out_every=1000', '--config.log_every=1'],
      cwd=ROOT, check=True)
  return workdir


def test_the_few_shot_demo_runs_from_top_to_bottom(checkpoint, monkeypatch):
  monkeypatch.setenv('FLAMINGO_CHECKPOINT', str(checkpoint))
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(ROOT)]))
  path = ROOT / 'colabs' / 'few_shot_demo.ipynb'
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
      notebook, timeout=300, kernel_name='python3',
      resources={'metadata': {'path': str(path.parent)}})
  client.execute()
  said = ''.join(
      output.get('text', '') for cell in notebook.cells
      for output in cell.get('outputs', []))
  assert 'The model says:' in said
  pictures = [
      output for cell in notebook.cells for output in cell.get('outputs', [])
      if 'image/png' in output.get('data', {})]
  assert len(pictures) == 2
