"""Functions in processes of their own."""

import functools
import os
import pathlib

from experiments.bench.apart import apart
import pytest


def test_calls_happen_in_another_process(tmp_path):
  here = os.getcwd()
  with apart(functools.partial, os.chdir, tmp_path) as change:
    change()
  assert os.getcwd() == here
  with apart(functools.partial, pathlib.Path.mkdir, tmp_path / 'a') as make:
    assert not (tmp_path / 'a').exists()
    make()
    assert (tmp_path / 'a').is_dir()


def test_what_is_returned_there_is_returned_here():
  with apart(functools.partial, max, 3, 7) as largest:
    assert largest() == 7 and largest() == 7


def test_what_is_raised_there_is_told_here(tmp_path):
  with apart(functools.partial, os.mkdir, tmp_path) as again:
    with pytest.raises(RuntimeError, match='FileExistsError'):
      again()
  with pytest.raises(RuntimeError, match='partial failed(.|\n)*TypeError'):
    with apart(functools.partial, 3):
      pass


def test_a_process_that_ends_is_noticed():
  with apart(functools.partial, os._exit, 7) as end:
    with pytest.raises(RuntimeError, match='exit code 7'):
      end()
