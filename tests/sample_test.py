"""Draws come from the distribution that they say, and from nothing else."""

from flamingo.eval.beam import Generation
from flamingo.eval.sample import Draws, Sampling
import numpy as np
import pytest

P = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
LOG_P = np.log(P)[None]
ALL = Sampling()


def kept(**changes):
  """Probability of each token, after narrowing."""
  return np.exp(Sampling(**changes).narrow(LOG_P))[0]


def test_nothing_is_left_out_unless_asked():
  np.testing.assert_allclose(kept(), P)
  np.testing.assert_allclose(kept(top_k=5), P)
  np.testing.assert_allclose(kept(top_k=99), P)


def test_temperature_sharpens_or_flattens():
  np.testing.assert_allclose(kept(temperature=0.5), P**2 / (P**2).sum())
  np.testing.assert_allclose(kept(temperature=1e9), np.full(5, 0.2))


def test_top_k_keeps_the_most_probable():
  np.testing.assert_allclose(kept(top_k=2), [0.4 / 0.65, 0.25 / 0.65, 0, 0, 0])


def test_top_p_keeps_the_fewest_that_have_the_share():
  np.testing.assert_allclose(kept(top_p=0.6), kept(top_k=2))
  np.testing.assert_allclose(kept(top_p=0.7), kept(top_k=3))
  np.testing.assert_allclose(kept(top_p=1e-9), [1, 0, 0, 0, 0])


def test_the_share_is_of_what_is_left_of_temperature_and_top_k():
  # 0.4 of the first two's 0.65 is more than 0.6; of all it is less.
  np.testing.assert_allclose(kept(top_k=2, top_p=0.6), [1, 0, 0, 0, 0])
  np.testing.assert_allclose(
      kept(temperature=0.5, top_p=0.6)[2:], [0, 0, 0], atol=1e-12)


def test_equals_are_kept_or_left_out_together():
  even = np.log(np.full((1, 4), 0.25))
  for sampling in Sampling(top_k=2), Sampling(top_p=0.3):
    np.testing.assert_allclose(np.exp(sampling.narrow(even)), 0.25)


def test_what_has_no_probability_never_gets_one():
  log_p = np.concatenate([LOG_P, [[-np.inf]]], axis=1)
  narrow = Sampling(temperature=5.0, top_p=0.999).narrow(log_p)
  assert narrow[0, -1] == -np.inf and np.isfinite(narrow[0, :3]).all()


def draw(n, *, sampling=ALL, name='a', steps=1, stop=-1):
  draws = Draws(n, stop=stop, sampling=sampling, name=name)
  for _ in range(steps):
    if draws.open:
      draws.advance(np.repeat(LOG_P, len(draws.open), axis=0))
  return draws.all()


def test_tokens_come_as_often_as_they_should():
  n = 20_000
  sampling = Sampling(temperature=0.8, top_k=4, seed=5)
  said = [one.tokens[0] for one in draw(n, sampling=sampling)]
  expected = kept(temperature=0.8, top_k=4)
  found = np.bincount(said, minlength=5) / n
  np.testing.assert_allclose(
      found, expected, atol=4 * np.sqrt(expected.max() / n))
  assert found[4] == 0


def test_a_draw_does_not_depend_on_how_many_there_are():
  few, many = draw(2, steps=9, stop=3), draw(7, steps=9, stop=3)
  assert few == many[:2]
  assert len(set(many)) == 7  # each is one of its own


def test_another_seed_or_name_draws_another_text():
  texts = {
      draw(1, steps=9, sampling=Sampling(seed=seed), name=name)[0].tokens
      for seed in (0, 1) for name in ('a', 'b')}
  assert len(texts) == 4


def test_a_text_ends_where_its_end_is_drawn():
  texts = draw(50, steps=6, stop=3)
  assert min(len(one.tokens) for one in texts) < 6
  for one in texts:
    assert 3 not in one.tokens
    total = LOG_P[0, list(one.tokens)].sum()
    ended = LOG_P[0, 3] * (len(one.tokens) < 6)
    assert one.log_likelihood == pytest.approx(total + ended)


def test_the_order_of_what_is_still_open_is_told():
  draws = Draws(9, stop=3, sampling=Sampling(), name='a')
  while len(draws.open) != 5:
    before = draws.open
    parents = draws.advance(np.repeat(LOG_P, len(before), axis=0))
    assert len(parents) == len(draws.open)
    for parent, one in zip(parents, draws.open):
      assert isinstance(one, Generation)
      assert one.tokens[:-1] == before[parent].tokens


@pytest.mark.parametrize('changes, match', [
    (dict(temperature=0.0), 'temperature=0.0; expected a positive number'),
    (dict(temperature=-1.0), 'temperature=-1.0'),
    (dict(temperature=float('nan')), 'temperature=nan'),
    (dict(top_k=-1), 'top_k=-1; expected at least 0'),
    (dict(top_p=0.0), 'top_p=0.0; expected more than 0'),
    (dict(top_p=1.1), 'top_p=1.1'),
    (dict(seed=-1), 'seed=-1'),
])
def test_a_bad_value_is_refused(changes, match):
  with pytest.raises(ValueError, match=match):
    Sampling(**changes)


def test_no_draws_are_refused():
  with pytest.raises(ValueError, match='at least one draw'):
    draw(0)
