"""VQA accuracy, equal to the official script, oddities included.

vqaEval.py of GT-Vision-Lab/VQA, for VQAv2, OK-VQA, TextVQA and VizWiz (Antol et
al. 2015, https://arxiv.org/abs/1505.00468).
"""

from collections.abc import Sequence
import re

from flamingo.eval.scores import score

_NUMBERS = {
    word: str(i) for i, word in enumerate(
        'zero one two three four five six seven eight nine ten'.split())
} | {'none': '0'}
_ARTICLES = ('a', 'an', 'the')
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r'\d,\d')
# Any full stop that no digit follows. The script would also spare one after a
# digit, but asks for '<=' and a digit after it instead, which never come.
_FULL_STOP = re.compile(r'\.(?!\d)')
# The script gives the flag re.UNICODE where the number of replacements goes.
_FULL_STOPS_REMOVED = 32

# Words with their apostrophes put back. "somebody'd" loses its own and "let's"
# and "she's" stay, as in the script. Lower case comes first, so that "im" and
# "ive", which the script writes with capitals, are not changed.
_CONTRACTIONS = {
    word.replace("'", ''): word for word in """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't
    haven't he'd he's how'd how'll how's isn't it'd it'll ma'am mightn't
    might've mustn't must've needn't not've o'clock oughtn't shan't should've
    shouldn't somebody'll somebody's someone'd someone'll someone's something'd
    something'll that's there'd there're there's they'd they'll they're they've
    'twas wasn't we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'll who's who've why'll why're why's won't
    would've wouldn't y'all you'd you'll you're you've""".split()
}
# Words with two apostrophes, of which one is missing.
for _word in """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've
    somebody'd've someone'd've something'd've there'd've they'd've we'd've
    who'd've wouldn't've you'd've""".split():
  _first, _second, _third = _word.split("'")
  _CONTRACTIONS[f"{_first}{_second}'{_third}"] = _word
  _CONTRACTIONS[f"{_first}'{_second}{_third}"] = _word
_CONTRACTIONS |= {
    "somebody'd": 'somebodyd', "ow's'at": "'ow's'at", "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at", "yall'll": "y'all'll", "y'allll": "y'all'll",
    "yall'd've": "y'all'd've", "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've"}


def _without_punctuation(text: str) -> str:
  """Punctuation becomes nothing where it stands at a space, else a space.

  In a text with a number like 1,000 all of it becomes nothing.
  """
  has_number = _COMMA_IN_NUMBER.search(text) is not None
  out = text
  for mark in _PUNCTUATION:
    at_space = mark + ' ' in text or ' ' + mark in text
    out = out.replace(mark, '' if at_space or has_number else ' ')
  return _FULL_STOP.sub('', out, count=_FULL_STOPS_REMOVED)


def normalize(answer: str) -> str:
  """An answer as the official script compares it where annotators disagree.

  Lower case, digits for the words from none to ten, no articles, apostrophes
  put back into contractions, little punctuation.
  """
  words = (_NUMBERS.get(word, word)
           for word in _without_punctuation(answer).lower().split())
  return ' '.join(
      _CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(answer: str) -> str:
  return answer.replace('\n', ' ').replace('\t', ' ').strip()


def vqa_accuracy(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> score.Score:
  """Mean VQA accuracy: how many of ten annotators gave the answer.

  Of each nine of the ten, min(number that gave the answer / 3, 1), averaged
  over the ten ways to leave one out. Answers are normalised only where the
  annotators' answers are not all the same: a prediction 'Yes.' is wrong where
  all ten wrote 'yes', and right where one of them wrote 'no'.

  Args:
    predictions: one for each question.
    references: the annotators' answers to each question; ten in the data sets.

  Raises:
    ValueError: if the numbers differ, or a question has no answer.
  """
  score.check_aligned(predictions, references)
  examples = []
  for i, (prediction, answers) in enumerate(zip(predictions, references)):
    if isinstance(answers, str) or not len(answers):
      raise ValueError(
          'Expected a list of at least one answer for each question, got '
          f'{answers!r} for question {i}.')
    prediction = _one_line(prediction)
    answers = [_one_line(each) for each in answers]
    if len(set(answers)) > 1:
      prediction = normalize(prediction)
      answers = [normalize(each) for each in answers]
    same = [each == prediction for each in answers]
    accuracies = [min(1.0, (sum(same) - left_out) / 3) for left_out in same]
    examples.append(sum(accuracies) / len(accuracies))
  return score.mean_score(examples)
