"""CIDEr, BLEU and ROUGE-L of captions, as COCO's evaluation computes them.

The scorers are pycocoevalcap's own (Chen et al. 2015,
https://arxiv.org/abs/1504.00325); the tokens are ptb.py's, equal to those of
its tokenizer, which is a Java program.
"""

from collections.abc import Callable, Sequence
import importlib
from typing import Any

import numpy as np

from flamingo.eval.scores import ptb
from flamingo.eval.scores import score


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
  counts over the corpus, so the mean of its examples is not its value. ROUGE-L
  is Lin's (2004).

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
  bleu, each_bleu = _scorer('bleu.bleu', 'Bleu')(4).compute_score(
      theirs, ours, verbose=0)
  rouge, each_rouge = _scorer('rouge.rouge', 'Rouge')().compute_score(
      theirs, ours)
  return {
      'CIDEr': score.Score(float(cider), np.asarray(each_cider)),
      **{f'BLEU-{n}': score.Score(float(b), np.asarray(each))
         for n, b, each in zip((1, 2, 3, 4), bleu, each_bleu)},
      'ROUGE-L': score.Score(float(rouge), np.asarray(each_rouge)),
  }
