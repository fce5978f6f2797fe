"""Where in a picture an answer comes from: what hiding a place costs it.

Attention weights say where a layer looked; this says what came of it. One place
of the query's features at a time is replaced by that of a blank picture, and
the loss in log-likelihood of the true answer is its relevance.
"""

from collections.abc import Sequence
import dataclasses

from jaxtyping import Float
import numpy as np

from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.decode import Predictor
from flamingo.eval.fewshot import candidate_tokens, to_prompt, Trial


def relevance(
    predictor: Predictor,
    trials: Sequence[Trial],
    tokenizer: Tokenizer,
    *,
    blank: int,
) -> list[Float[np.ndarray, 'side side']]:
  """Relevance of each place of a query's grid to the true answer.

  Args:
    predictor: the model.
    trials: prompts with candidates.
    tokenizer: of the language model.
    blank: row of the grey picture in the feature store.

  Returns:
    for each trial, nats that the answer loses among the candidates when the
    place is hidden; 0 where it loses none.
  """
  nothing = np.asarray(predictor.features(np.asarray([blank])))[0]
  groups = []
  for trial in trials:
    seen = np.asarray(
        predictor.features(np.asarray([trial.query.image])))[0]
    hidden = np.repeat(seen[None], len(seen), axis=0)
    places = np.arange(len(seen))
    hidden[places, places] = nothing
    ids = candidate_tokens(trial.candidates, tokenizer)
    rows = [trial.query.image] + predictor.introduce(hidden)
    for row in rows:
      query = dataclasses.replace(trial.query, image=row)
      prompt = to_prompt(dataclasses.replace(trial, query=query), tokenizer)
      groups.append([(prompt, ids)])
  scores = predictor.rank(groups)
  maps = []
  for k, trial in enumerate(trials):
    count = len(groups) // len(trials)
    answer = trial.candidates.index(trial.query.answer)
    log_p = np.asarray([
        s[answer] - np.logaddexp.reduce(s)
        for (s,) in scores[k * count : (k + 1) * count]])
    lost = np.maximum(log_p[0] - log_p[1:], 0)
    side = round(len(lost) ** 0.5)
    maps.append(lost.reshape(side, side))
  return maps
