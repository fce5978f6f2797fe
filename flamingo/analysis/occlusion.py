"""Where in a picture an answer comes from: what hiding a place costs it.

Attention weights say where a layer looked; this says what came of it. One place
of the query's features at a time is replaced by that of a blank picture, and the
loss in log-likelihood of the true answer is its relevance.
"""

from jaxtyping import Float
import numpy as np

from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.decode import Predictor
from flamingo.eval.fewshot import candidate_tokens, to_prompt, Trial


def relevance(
    predictor: Predictor, trial: Trial, tokenizer: Tokenizer, *, blank: int
) -> Float[np.ndarray, 'side side']:
  """Relevance of each place of the query's grid to the true answer.

  Args:
    predictor: the model.
    trial: a prompt with candidates.
    tokenizer: of the language model.
    blank: row of the grey picture in the feature store.

  Returns:
    Nats that the answer loses among the candidates when the place is hidden;
    0 where it loses none.
  """
  seen, nothing = np.asarray(
      predictor.features(np.asarray([trial.query.image, blank])))
  prompt = to_prompt(trial, tokenizer)
  answer = trial.candidates.index(trial.query.answer)
  ids = candidate_tokens(trial.candidates, tokenizer)
  variants = [seen]
  for place in range(len(seen)):
    hidden = seen.copy()
    hidden[place] = nothing[place]
    variants.append(hidden)
  log_p = []
  for variant in variants:
    with predictor.replaced(trial.query.image, variant):
      scores = predictor.rank([[(prompt, ids)]])[0][0]
    log_p.append(scores[answer] - np.logaddexp.reduce(scores))
  lost = np.maximum(log_p[0] - np.asarray(log_p[1:]), 0)
  side = round(len(lost) ** 0.5)
  return lost.reshape(side, side)
