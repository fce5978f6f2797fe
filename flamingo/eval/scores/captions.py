"""CIDEr, BLEU and ROUGE-L of captions, as COCO's evaluation computes them.

The scorers are pycocoevalcap's own (Chen et al. 2015,
https://arxiv.org/abs/1504.00325); the tokens are ptb.py's, equal to those of
its tokenizer, which is a Java program.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import importlib
from typing import Any

from jaxtyping import Float
import numpy as np

from flamingo.eval.scores import ptb
from flamingo.eval.scores import score

_LONGEST = 4  # words of an n-gram that BLEU counts


def _scorer(module: str, name: str) -> Callable[..., Any]:
  """A class of pycocoevalcap, without its others, which start Java."""
  try:
    return getattr(importlib.import_module(f'pycocoevalcap.{module}'), name)
  except ImportError as error:
    raise ImportError(
        'Scores of captions need pycocoevalcap 1.2. Install it with '
        '`pip install --no-deps pycocoevalcap==1.2`.') from error


def caption_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, score.Score]:
  """'CIDEr', 'BLEU-1' to 'BLEU-4' and 'ROUGE-L' of captions.

  CIDEr is CIDEr-D (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726), 0 to
  10, with document frequencies from these references: it depends on all
  examples together, and it is 0 for a single one. BLEU (Papineni et al. 2002)
  counts over the corpus, so the mean of its examples is not its value: that is
  a function of `sums`. ROUGE-L is Lin's (2004).

  Args:
    predictions: a caption for each example; may be empty.
    references: the captions of each example that people wrote.

  Raises:
    ImportError: if pycocoevalcap is not installed.
    ValueError: if the numbers differ, or an example has no reference.
  """
  score.check_aligned(predictions, references)
  for i, captions in enumerate(references):
    if isinstance(captions, str) or not len(captions):
      raise ValueError(
          'Expected a list of at least one caption for each example, got '
          f'{captions!r} for example {i}.')
  tokens = iter(ptb.tokenize([c for captions in references for c in captions]))
  theirs = {
      i: [next(tokens) for _ in captions]
      for i, captions in enumerate(references)}
  ours = {i: [line] for i, line in enumerate(ptb.tokenize(predictions))}
  cider, each_cider = _scorer('cider.cider', 'Cider')().compute_score(
      theirs, ours)
  rouge, each_rouge = _scorer('rouge.rouge', 'Rouge')().compute_score(
      theirs, ours)
  return {
      'CIDEr': score.Score(float(cider), np.asarray(each_cider)),
      **_bleu_scores(theirs, ours),
      'ROUGE-L': score.Score(float(rouge), np.asarray(each_rouge)),
  }


def _bleu_scores(
    theirs: Mapping[int, list[str]], ours: Mapping[int, list[str]]
) -> dict[str, score.Score]:
  scorer = _scorer('bleu.bleu_scorer', 'BleuScorer')(n=_LONGEST)
  for i, references in theirs.items():
    scorer += (ours[i][0], references)
  values, examples = scorer.compute_score(option='closest', verbose=0)
  parts = np.asarray([
      [*one['correct'], *one['guess'], one['testlen'],
       # Of two lengths that are as close, the shorter.
       min(one['reflen'], key=lambda n, m=one['testlen']: (abs(n - m), n))]
      for one in scorer.ctest], np.float64)
  return {
      f'BLEU-{n}': score.Score(
          float(values[n - 1]), np.asarray(examples[n - 1]),
          score.Sums(parts, functools.partial(_bleu, n)))
      for n in range(1, _LONGEST + 1)}


def _bleu(
    n: int, sums: Float[np.ndarray, '... k']
) -> Float[np.ndarray, '...']:
  """BLEU-n of a corpus, with the small numbers by which 0 / 0 is 0."""
  tiny, small = 1e-15, 1e-9
  correct, guessed = sums[..., :n], sums[..., _LONGEST:_LONGEST + n]
  precision = ((correct + tiny) / (guessed + small)).prod(axis=-1) ** (1 / n)
  ratio = (sums[..., -2] + tiny) / (sums[..., -1] + small)
  return precision * np.exp(np.minimum(0, 1 - 1 / ratio))
