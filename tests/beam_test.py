"""Beam search by itself: it finds what is likeliest, on tables of chance."""

from flamingo.eval.beam import Beam
import numpy as np
import pytest


def walk(log_p, beam, steps):
  """Runs a beam on log-probabilities of the next token, by what was said."""
  for _ in range(steps):
    if beam.open:
      beam.advance(np.stack([log_p(h.tokens) for h in beam.open]))
  return beam.best()


def test_a_beam_finds_what_greedy_misses():
  """Token 0 is likelier at first, but nothing good comes behind it."""
  def log_p(said):
    return np.log({
        (): [0.5, 0.4, 0.1], (0,): [0.3, 0.3, 0.4], (1,): [0.05, 0.05, 0.9],
    }.get(said, [0.1, 0.1, 0.8]))

  greedy = walk(log_p, Beam(1, stop=2), 3)
  assert greedy.tokens == (0,)
  assert np.exp(greedy.log_likelihood) == pytest.approx(0.5 * 0.4)
  wide = walk(log_p, Beam(2, stop=2), 3)
  assert wide.tokens == (1,)
  assert np.exp(wide.log_likelihood) == pytest.approx(0.4 * 0.9)


@pytest.mark.parametrize('seed', range(5))
def test_a_beam_wide_enough_finds_the_best_of_all(seed):
  """Of all texts over two letters that end, or are of four letters."""
  rng = np.random.default_rng(seed)
  table = {}

  def log_p(said):
    if said not in table:
      table[said] = np.log(rng.dirichlet([0.5, 0.5, 0.5]))
    return table[said]

  def everything(said=(), total=0.0):
    for token, value in enumerate(log_p(said)):
      if token == 2:
        yield total + value, said
      elif len(said) == 3:
        yield total + value, said + (token,)
      else:
        yield from everything(said + (token,), total + value)

  total, said = max(everything())
  best = walk(log_p, Beam(50, stop=2), 4)
  assert best.tokens == said
  assert best.log_likelihood == pytest.approx(total)


def test_a_length_penalty_favours_longer_texts():
  log_p = lambda said: np.log([0.4, 0.6] if len(said) < 2 else [1e-9, 1 - 1e-9])
  assert walk(log_p, Beam(2, stop=1), 4).tokens == ()
  long = walk(log_p, Beam(2, stop=1, length_penalty=2.0), 4)
  assert long.tokens == (0, 0)
