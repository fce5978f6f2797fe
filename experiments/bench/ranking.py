"""Ranking a thousand classes: behind one prompt, or one by one."""

from collections.abc import Sequence

import numpy as np

from experiments.bench import clock
from experiments.bench.quickstart import Quickstart
from experiments.bench.result import Ratio, result
from flamingo.data import sources
from flamingo.data.encode import Example
from flamingo.eval.decode import Predictor
from flamingo.eval.fewshot import candidate_tokens, Shot, to_prompt, Trial

ABOUT = 'Ranking 1,000 classes at 8 shots, against one by one'
COST = 114


def run(quickstart: Quickstart, classes: int = 1000, shots: int = 8) -> dict:
  """Names of emoji behind pictures of emoji, written as captions."""
  model, params = quickstart.model_and_params
  pictures, tokenizer = quickstart.pictures, quickstart.frozen.tokenizer
  gallery = pictures.galleries['train']
  names = list(dict.fromkeys(
      one.name for gallery in pictures.galleries.values()
      for one in gallery.emoji))[:classes]
  shown = [
      Shot(image=int(gallery.rows[i, 0, 0]), text=sources.CAPTION,
           answer=gallery.emoji[i].name)
      for i in range(shots + 1)]
  trial = Trial(
      id=0, support=tuple(shown[:-1]), query=shown[-1], candidates=tuple(names))
  predictor = Predictor(
      model, params, pictures.features, never=tokenizer.unsaid_ids,
      pad_id=tokenizer.pad_id)
  return measure(
      predictor, to_prompt(trial, tokenizer),
      candidate_tokens(names, tokenizer))


def measure(
    predictor: Predictor, prompt: Example, candidates: Sequence[Sequence[int]],
    *, some: int = 56, rounds: int = 3,
) -> dict:
  """Times one ranking of all, and of some candidates with the full prompt.

  Args:
    predictor: the model.
    prompt: what is asked.
    candidates: token ids.
    some: candidates that are scored one by one; the time of all follows.
    rounds: of each.
  """
  some = min(some, len(candidates))
  chosen = np.linspace(0, len(candidates) - 1, some).astype(int)
  whole = lambda: predictor.rank([[(prompt, candidates)]])[0][0]
  alone = lambda: np.array([
      predictor.rank([[(prompt, [candidates[i]])]])[0][0][0] for i in chosen])
  batched = lambda: predictor.rank(
      [[(prompt, [candidates[i]])] for i in chosen])
  difference = float(np.abs(whole()[chosen] - alone()).max())
  times = clock.medians(
      {'all behind one prompt': whole, f'{some} one by one': alone,
       f'{some} full prompts in batches': batched}, rounds=rounds)
  scale = len(candidates) / some
  for name in ('one by one', 'full prompts in batches'):
    times[f'all {name}'] = times[f'{some} {name}'] * scale
  return result(
      times,
      [Ratio('one by one', 'all one by one', 'all behind one prompt', 20.0),
       Ratio('full prompts in batches', 'all full prompts in batches',
             'all behind one prompt')],
      {'candidates': len(candidates), 'timed one by one': some,
       'prompt tokens': len(prompt.tokens),
       'candidate tokens': sum(map(len, candidates)),
       'largest difference of a log-likelihood': difference,
       'threads': clock.cores()},
      [f'{some} candidates were scored one by one; the time of all '
       f'{len(candidates)} is theirs times {scale:g}. All is compiled, and the '
       "images' latents are known, on both sides."])
