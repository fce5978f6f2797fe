"""CIDEr, BLEU and ROUGE-L equal pycocoevalcap's, Java tokenizer included."""

import random
import shutil
import sys

import numpy as np
import pytest

from caption_grammar import captions
from flamingo.eval.scores.captions import caption_scores

pycocoevalcap = pytest.importorskip(
    'pycocoevalcap', reason="the scorers are pycocoevalcap's")
pytestmark = pytest.mark.original
needs_java = pytest.mark.skipif(
    shutil.which('java') is None,
    reason="pycocoevalcap's own tokenizer is a Java program")


def _examples(n, seed):
  """Captions of people, and predictions that share some of their words."""
  rng = random.Random(seed)
  references = [captions(5, seed=rng.randrange(10**9)) for _ in range(n)]
  predictions = []
  for each in references:
    words = rng.choice(each).split(' ')
    predictions.append(' '.join(w for w in words if rng.random() < 0.8))
  return predictions, references


def _official(predictions, references):
  from pycocoevalcap.bleu.bleu import Bleu
  from pycocoevalcap.cider.cider import Cider
  from pycocoevalcap.rouge.rouge import Rouge
  from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
  theirs = PTBTokenizer().tokenize(
      {i: [{'caption': c} for c in each] for i, each in enumerate(references)})
  ours = PTBTokenizer().tokenize(
      {i: [{'caption': each}] for i, each in enumerate(predictions)})
  bleu, each_bleu = Bleu(4).compute_score(theirs, ours, verbose=0)
  return {
      'CIDEr': Cider().compute_score(theirs, ours),
      **{f'BLEU-{n + 1}': (bleu[n], each_bleu[n]) for n in range(4)},
      'ROUGE-L': Rouge().compute_score(theirs, ours)}


@needs_java
@pytest.mark.parametrize('n, seed', [(300, 0), (17, 1), (1, 2)])
def test_scores_equal_the_official_pipeline_s(n, seed):
  predictions, references = _examples(n, seed)
  predictions[0] = ''  # a model may say nothing
  ours = caption_scores(predictions, references)
  theirs = _official(predictions, references)
  assert ours.keys() == theirs.keys()
  for name, (value, examples) in theirs.items():
    np.testing.assert_allclose(
        ours[name].value, value, rtol=0, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(
        ours[name].examples, examples, rtol=0, atol=1e-6, err_msg=name)


def test_a_caption_that_a_person_wrote_scores_full_marks():
  references = [['A red bus.'], ['two dogs on the grass'], ['the clock tower']]
  scores = caption_scores([each[0] for each in references], references)
  assert scores['BLEU-1'].value == pytest.approx(1)
  assert scores['ROUGE-L'].value == pytest.approx(1)
  # It alone has four words, and CIDEr is a mean over runs of one to four.
  assert scores['CIDEr'].examples[1] == pytest.approx(10)


def test_the_value_is_the_mean_of_examples_but_for_bleu():
  scores = caption_scores(*_examples(40, 3))
  for name in 'CIDEr', 'ROUGE-L':
    assert scores[name].value == pytest.approx(scores[name].examples.mean())
  assert abs(scores['BLEU-4'].value - scores['BLEU-4'].examples.mean()) > 1e-3


@pytest.mark.parametrize('n, seed', [(23, 4), (1, 5)])
def test_bleu_is_a_function_of_sums_over_examples(n, seed):
  predictions, references = _examples(n, seed)
  predictions[0] = ''
  scores = caption_scores(predictions, references)
  drawn = np.random.default_rng(seed).integers(n, size=n)
  for chosen in np.arange(n), drawn, drawn[:1]:
    again = caption_scores(
        [predictions[i] for i in chosen], [references[i] for i in chosen])
    for name in ('BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4'):
      sums = scores[name].sums
      np.testing.assert_allclose(
          sums.of(sums.parts[chosen].sum(axis=0)), again[name].value,
          rtol=1e-12, err_msg=name)


def test_of_two_lengths_as_near_the_shorter_counts_and_too_short_costs():
  (predictions, references) = ['a b c'], [['a b c d', 'a b', 'a b c d e f']]
  sums = caption_scores(predictions, references)['BLEU-1'].sums
  assert sums.parts[0, -2:].tolist() == [3, 2]
  assert sums.of(sums.parts[0]) == pytest.approx(1)
  longer = caption_scores(predictions, [['a b c d']])['BLEU-1']
  assert longer.value == pytest.approx(np.exp(1 - 4 / 3))


@pytest.mark.parametrize('predictions, references, message', [
    (['a'], [['a'], ['b']], '1 predictions and 2 references'),
    ([], [], 'at least one example'),
    (['a', 'b'], [['a'], []], 'example 1'),
    (['a'], ['a caption'], 'list of at least one caption'),
])
def test_what_cannot_be_scored_is_told(predictions, references, message):
  with pytest.raises(ValueError, match=message):
    caption_scores(predictions, references)


def test_without_pycocoevalcap_the_error_says_how_to_get_it(monkeypatch):
  # `None` is how Python remembers that a module can't be imported.
  monkeypatch.setitem(sys.modules, 'pycocoevalcap.cider.cider', None)
  with pytest.raises(ImportError, match='pip install'):
    caption_scores(['a'], [['a']])
