"""Sources without a gallery: questions, and captions of their pictures."""

from flamingo.data import encode, sources
from flamingo.data.easy_vqa import Question
from flamingo.data.tokenizer import Tokenizer
import numpy as np
import pytest


def test_of_a_question_only_the_answer_is_learnt():
  asked = [Question(b'', 7, 'is it red?', 'yes')]
  source = sources.Questions(questions=asked, rows=[31], images=2)
  example = encode.encode(
      source(np.random.default_rng(0)), Tokenizer.bytes(), max_images=2)
  text = Tokenizer.bytes().decode(example.tokens[example.learn])
  assert text == ' yes<EOC> yes<EOC>'
  np.testing.assert_array_equal(example.images, [31, 31])


@pytest.mark.parametrize('balanced, least, most', [
    (1.0, (190, 190, 190), (280, 280, 280)),
    (0.5, (290, 220, 95), (370, 290, 165)),  # expected: 322, 249, 129 of 700
    (0.0, (380, 220, 8), (465, 310, 45))])
def test_balanced_questions_have_each_answer_as_often_however_many_ask_it(
    balanced, least, most
):
  asked = [
      Question(b'', i, f'is it {i}?', answer)
      for i, answer in enumerate(['yes'] * 17 + ['no'] * 11 + ['teal'])]
  source = sources.Questions(
      questions=asked, rows=range(29), images=700, balanced=balanced)
  said = [c.text for c in source(np.random.default_rng(0)) if c.learn]
  for answer, low, high in zip((' yes', ' no', ' teal'), least, most):
    assert low < said.count(answer) < high


def test_captions_stand_behind_their_own_pictures():
  source = sources.Captions(
      captions=['teal circle', 'red triangle'], rows=[23, 31], images=(3, 5))
  sizes = set()
  for seed in range(30):
    page = source(np.random.default_rng(seed))
    sizes.add(len(page))
    for chunk in page:
      assert chunk.text == {
          23: 'Output: teal circle', 31: 'Output: red triangle'}[chunk.image]
  assert sizes == {3, 4, 5}


def test_captions_to_draw_from_are_needed():
  with pytest.raises(ValueError, match='captions to draw from; none came'):
    sources.Captions(captions=[], rows=[])
