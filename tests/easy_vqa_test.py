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


def test_a_picture_is_described_by_what_is_asked_and_answered_about_it():
  def ask(number, text, answer):
    return easy_vqa.Question(b'', number, text, answer)

  asked = [
      ask(7, 'what color is the shape?', 'teal'),
      ask(7, 'is there a circle?', 'no'),
      ask(7, 'what shape is present?', 'triangle'),
      ask(5, 'what shape is present?', 'circle'),  # of no known colour
      ask(3, 'what is the red shape?', 'circle'),
      ask(3, 'is there a blue triangle?', 'no'),
  ]
  assert easy_vqa.describe(asked) == {7: 'teal triangle', 3: 'red circle'}


def test_descriptions_agree_with_all_that_is_answered(questions):
  told = easy_vqa.describe(questions)
  assert len(told) == 791  # of 1,000
  checked = 0
  for asked in questions:
    if asked.image_id not in told:
      continue
    colour, shape = told[asked.image_id].split()
    if asked.question == f'is there a {colour} shape?':
      assert asked.answer == 'yes'
      checked += 1
    elif asked.answer not in ('yes', 'no'):
      assert asked.answer in (colour, shape)
      checked += 1
  assert checked > 2000


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
