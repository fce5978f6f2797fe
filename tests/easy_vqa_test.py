"""easy-VQA: what its package holds."""

import importlib.util
import sys

from flamingo.data import easy_vqa, images
import pytest


@pytest.fixture(scope='module')
def questions():
  return easy_vqa.load_easy_vqa('test')


def test_both_splits_have_their_published_size(questions):
  train = easy_vqa.load_easy_vqa('train')
  assert len(train) == 38_575
  assert len(questions) == 9_673
  assert len({question.image_id for question in train}) == 4_000
  assert len({question.image_id for question in questions}) == 1_000


def test_answers_are_the_thirteen(questions):
  assert {question.answer for question in questions} == set(easy_vqa.ANSWERS)
  assert len(easy_vqa.ANSWERS) == 13


def test_a_question_has_its_picture(questions):
  question = questions[0]
  assert question == easy_vqa.Question(
      question.image, 0, 'what is the red shape?', 'triangle'
  )
  assert images.decode(question.image).shape == (64, 64, 3)


def test_questions_share_the_bytes_of_their_picture(questions):
  assert len({id(question.image) for question in questions}) == 1_000


def test_the_package_is_not_imported(questions):
  assert 'easy_vqa' not in sys.modules


def test_a_missing_package_is_named_with_the_command(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match='pip install --no-deps easy-vqa==1.0'):
    easy_vqa.load_easy_vqa('test')


def test_an_unknown_split_is_refused():
  with pytest.raises(ValueError, match='validation'):
    easy_vqa.load_easy_vqa('validation')
