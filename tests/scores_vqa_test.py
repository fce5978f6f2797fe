"""VQA accuracy equals the official script's.

The expected values are what vqaEval.py of GT-Vision-Lab/VQA, commit a013f00,
gave for these strings.
"""

import pytest

from flamingo.eval.scores import vqa


@pytest.mark.parametrize('answer, normalized', [
    ('', ''),
    ('  ', ''),
    ('Yes.', 'yes'),
    ('The Cat', 'cat'),
    ('a', ''),
    ('an apple a day', 'apple day'),
    ('THE', ''),
    ('two', '2'),
    ('Ten.', '10'),
    ('none', '0'),
    ('None', '0'),
    ('twenty', 'twenty'),
    ('1,000', '1000'),
    ('1,000 - 2', '1000 2'),
    ('10, 20', '10 20'),
    ('a,b', 'b'),
    ('3.5', '3.5'),
    ('3.', '3'),
    ('.5', '.5'),
    ('v1.2.', 'v1.2'),
    ('U.S.', 'us'),
    ('p.m.', 'pm'),
    ('...', ''),
    ('a...b', 'ab'),
    ('red/blue', 'red blue'),
    ('red / blue', 'red blue'),
    ('t-shirt', 't shirt'),
    ('t - shirt', 't shirt'),
    ('(left)', 'left'),
    ('left (', 'left'),
    ('what?!', 'what'),
    ('"stop"', 'stop'),
    ('dont', "don't"),
    ('Dont', "don't"),
    ('cant', "can't"),
    ('im', 'im'),
    ('Im', 'im'),
    ('IVE', 'ive'),
    ("somebody'd", 'somebodyd'),
    ("couldn'tve", "couldn't've"),
    ("yall'd've", "y'all'd've"),
    ('oclock', "o'clock"),
    ("let's", "let's"),
    ('lets', 'lets'),
    ('its', 'its'),
    ('50%', '50%'),
    ('$5.00', '$5.00'),
    ('#1', '#1'),
    ('A&B', 'a&b'),
    ('5+5=10', '5 5 10'),
    ('under_score', 'under score'),
    ('caf\xe9', 'caf\xe9'),
    ('\xbfque?', '\xbfque'),
    ('\uff15', '\uff15'),
    ('\u0663.\u0663', '\u0663.\u0663'),
    ('\u0661,\u0662', '\u0661\u0662'),
    ('\U0001f600!', '\U0001f600'),
    ('\u2018hi\u2019', '\u2018hi\u2019'),
    ('no-one,', 'no 1'),
    ('6;30', '6 30'),
    ('6:30', '6:30'),
    ('1,2,3!', '123'),
    ('a.5.b', 'a.5b'),
])
def test_answers_are_normalized_as_the_script_does(answer, normalized):
  assert vqa.normalize(answer) == normalized


def test_only_the_first_32_full_stops_go():
  # The script passes a flag of value 32 as the number of replacements.
  assert vqa.normalize('x ' + 34 * '.' + 'y') == 'x ..y'


@pytest.mark.parametrize('prediction, answers, accuracy', [
    ('yes', 10 * ['yes'], 1), ('yes\n', 10 * ['yes'], 1),
    # Where all agree nothing is normalised,
    ('Yes', 10 * ['yes'], 0), ('yes.', 10 * ['yes'], 0), ('2', 10 * ['two'], 0),
    # and where one does not, everything is.
    ('Yes.', 9 * ['yes'] + ['no'], 1), ('2', 9 * ['two'] + ['three'], 1),
    ('the dog', 5 * ['dog'] + 5 * ['a dog'], 1),
    ('red, blue', 3 * ['red blue'] + 7 * ['red,blue'], 1),
    ('', 9 * [''] + ['x'], 1), ('', 5 * ['a'] + 5 * ['the'], 1),
    ('cat', ['cat', 'dog'], 1 / 6),
])
def test_accuracy_is_the_script_s(prediction, answers, accuracy):
  found = vqa.vqa_accuracy([prediction], [answers]).value
  assert found == pytest.approx(accuracy, abs=1e-12)


@pytest.mark.parametrize('same, accuracy', [
    (0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_each_annotator_is_left_out_once(same, accuracy):
  answers = same * ['no'] + (10 - same) * ['yes']
  found = vqa.vqa_accuracy(['no'], [answers]).value
  assert found == pytest.approx(accuracy, abs=1e-12)


def test_the_value_is_the_mean_over_questions():
  found = vqa.vqa_accuracy(
      ['a b', 'no'], [['b', 'a b', 'c'], 8 * ['yes'] + 2 * ['no']])
  assert found.examples.tolist() == pytest.approx([4 / 9, 0.6])
  assert found.value == pytest.approx((4 / 9 + 0.6) / 2)


def test_what_cannot_be_scored_is_told():
  with pytest.raises(ValueError, match='1 predictions and 2 references'):
    vqa.vqa_accuracy(['a'], [['a'], ['b']])
  with pytest.raises(ValueError, match='question 1'):
    vqa.vqa_accuracy(['a', 'b'], [['a'], []])
  with pytest.raises(ValueError, match="'yes'"):
    vqa.vqa_accuracy(['yes'], ['yes'])
