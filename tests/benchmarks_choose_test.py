"""Which examples demonstrate, and what that must not depend on."""

import collections
import dataclasses

from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import BENCHMARKS, Choice, Item
import numpy as np
import pytest

CLASSES = ('wren', 'tit', 'jay')


def items(prefix, n):
  return [
      Item(id=f'{prefix}{i:03d}', image=(f'{prefix}{i}.png',),
           answer=CLASSES[i % 3], references=(CLASSES[i % 3],))
      for i in range(n)]


SUPPORT = items('s', 41)
QUERIES = items('q', 17)
RNG = np.random.default_rng(5)
SUPPORT_FEATURES = RNG.normal(size=(41, 13))
QUERY_FEATURES = RNG.normal(size=(17, 13))
SIMILARITY = benchmarks.cosine(QUERY_FEATURES, SUPPORT_FEATURES)


def ids(choices):
  return [tuple(item.id for item in choice.items) for choice in choices]


def drawn(queries=QUERIES, support=SUPPORT, shots=5, seed=1, **more):
  return ids(benchmarks.at_random(
      queries, support, shots=shots, seed=seed, task='birds', **more))


def similar(queries=QUERIES, support=SUPPORT, shots=5, **more):
  """By the features of these items, wherever they stand."""
  q = [int(item.id[1:]) for item in queries]
  s = [int(item.id[1:]) for item in support]
  return ids(benchmarks.most_similar(
      queries, support, shots=shots,
      similarity=benchmarks.cosine(QUERY_FEATURES[q], SUPPORT_FEATURES[s]),
      **more))


# At random.


def test_each_query_has_demonstrations_of_its_own_none_twice():
  choices = drawn()
  assert all(len(set(choice)) == 5 for choice in choices)
  assert len(set(choices)) == len(choices)


def test_a_choice_is_one_of_the_seed_the_task_and_the_query():
  assert drawn() == drawn()
  other_task = ids(benchmarks.at_random(
      QUERIES, SUPPORT, shots=5, seed=1, task='fish'))
  for other in (drawn(seed=2), other_task):
    assert sum(a == b for a, b in zip(drawn(), other)) == 0


@pytest.mark.parametrize('choose', [drawn, similar])
@pytest.mark.parametrize('batch', [1, 7, 17])
def test_a_choice_does_not_depend_on_the_batch(choose, batch):
  parts = [
      choice for start in range(0, len(QUERIES), batch)
      for choice in choose(QUERIES[start : start + batch])]
  assert parts == choose()


@pytest.mark.parametrize('choose', [drawn, similar])
def test_a_choice_does_not_depend_on_the_order_of_anything(choose):
  queries = [QUERIES[i] for i in RNG.permutation(17)]
  support = [SUPPORT[i] for i in RNG.permutation(41)]
  again = dict(zip([q.id for q in queries], choose(queries, support)))
  assert [again[query.id] for query in QUERIES] == choose()


def test_more_shots_add_demonstrations_and_take_none_away():
  few, many = drawn(shots=4), drawn(shots=32)
  assert [choice[:4] for choice in many] == few


def test_every_example_is_as_likely_to_demonstrate():
  counts = collections.Counter(
      one for choice in drawn(items('q', 2000), shots=4) for one in choice)
  expected = 2000 * 4 / 41
  assert len(counts) == 41
  # Chi-squared with 40 degrees of freedom: 80 is beyond 1 - 2e-4.
  assert sum((n - expected) ** 2 / expected for n in counts.values()) < 80


def test_no_shots_are_no_demonstrations():
  assert set(drawn(shots=0)) == {()} == set(similar(shots=0))


# The same image.


@pytest.mark.parametrize('choose', [drawn, similar])
def test_the_same_image_never_demonstrates_itself(choose):
  # All but six show the image of the query, three by another path.
  query = QUERIES[0]
  support = [
      dataclasses.replace(item, image=query.image) if i < 32 else
      dataclasses.replace(item, image=(f'copy{i}.png',)) if i < 35 else item
      for i, item in enumerate(SUPPORT)]
  hashes = {query.image[0]: 'h', 'copy32.png': 'h', 'copy33.png': 'h',
            'copy34.png': 'h', 's35.png': 'other'}
  choice, = choose([query], support, shots=6, hashes=hashes)
  assert sorted(choice) == [f's{i:03d}' for i in range(35, 41)]
  with pytest.raises(
      ValueError, match='7 demonstrations for example q000.*41.*only 6'):
    choose([query], support, shots=7, hashes=hashes)
  # By paths alone the copies are others.
  assert len(choose([query], support, shots=9)[0]) == 9


def test_what_must_not_demonstrate_moves_none_of_the_others():
  query = QUERIES[3]
  before, = drawn([query], shots=41)
  banned = before[2]
  support = [
      dataclasses.replace(item, image=query.image) if item.id == banned
      else item for item in SUPPORT]
  after, = drawn([query], support, shots=40)
  assert after == tuple(one for one in before if one != banned)


@pytest.mark.parametrize('choose', [drawn, similar])
def test_fewer_examples_than_shots_are_refused(choose):
  with pytest.raises(ValueError, match='42 demonstrations.*only 41'):
    choose(shots=42)


# The most similar.


def test_the_most_similar_come_last_in_increasing_similarity():
  place = {item.id: i for i, item in enumerate(SUPPORT)}
  for choice, row in zip(similar(), SIMILARITY):
    shown = [row[place[one]] for one in choice]
    assert shown == sorted(row)[-5:]


def test_fewer_shots_keep_the_most_similar():
  assert [choice[-2:] for choice in similar()] == similar(shots=2)


def test_equally_similar_are_chosen_by_id_not_by_place():
  same = np.full((1, 41), 0.5)
  for order in (range(41), reversed(range(41)), RNG.permutation(41)):
    support = [SUPPORT[i] for i in order]
    assert ids(benchmarks.most_similar(
        QUERIES[:1], support, shots=3, similarity=same)) == [
            ('s002', 's001', 's000')]


def test_errors_of_rounding_decide_nothing():
  noise = RNG.uniform(-1e-9, 1e-9, SIMILARITY.shape)
  tied = np.round(SIMILARITY, 1)
  first, second = (
      ids(benchmarks.most_similar(QUERIES, SUPPORT, shots=9, similarity=s))
      for s in (tied, tied + noise))
  assert first == second


def test_images_and_texts_together_are_the_sum_of_both():
  # The texts agree with example 7 alone, and outweigh any image.
  texts = np.zeros_like(SIMILARITY)
  texts[:, 7] = 2
  choices = ids(benchmarks.most_similar(
      QUERIES, SUPPORT, shots=2, similarity=SIMILARITY + texts))
  assert {choice[-1] for choice in choices} == {'s007'}
  expected = [
      [one for one in choice if one != 's007'][-1] for choice in similar()]
  assert [choice[0] for choice in choices] == expected


@pytest.mark.parametrize('shots, counts', [
    (3, [1, 1, 1]), (4, [1, 1, 2]), (6, [2, 2, 2]), (8, [2, 3, 3])])
def test_balanced_demonstrations_have_every_class_in_turn(shots, counts):
  answers = {item.id: item.answer for item in SUPPORT}
  place = {item.id: i for i, item in enumerate(SUPPORT)}
  for choice, row in zip(similar(shots=shots, balanced=True), SIMILARITY):
    seen = collections.Counter(answers[one] for one in choice)
    assert sorted(seen.values()) == counts
    shown = [row[place[one]] for one in choice]
    assert shown == sorted(shown)
    # Of each class, the most similar.
    for name, n in seen.items():
      of_class = sorted(row[i] for i in range(41) if answers[
          SUPPORT[i].id] == name)
      assert sorted(
          row[place[one]] for one in choice if answers[one] == name
      ) == of_class[-n:]


def test_balanced_with_fewer_shots_than_classes_takes_the_nearest_classes():
  for balanced, plain in zip(similar(shots=1, balanced=True), similar(shots=1)):
    assert balanced == plain


def test_similarities_of_other_items_are_refused():
  with pytest.raises(
      ValueError, match=r'17 queries and \[41\].* 41 rows of \[17\]'):
    benchmarks.most_similar(
        QUERIES, SUPPORT, shots=1, similarity=SIMILARITY.T)


def test_cosines_know_no_length():
  scaled = benchmarks.cosine(
      QUERY_FEATURES * 7, SUPPORT_FEATURES * RNG.uniform(1, 9, (41, 1)))
  np.testing.assert_allclose(scaled, SIMILARITY, atol=1e-12)
  np.testing.assert_allclose(
      np.diag(benchmarks.cosine(QUERY_FEATURES, QUERY_FEATURES)), 1)


@pytest.mark.parametrize('value', [0.0, np.nan, np.inf])
def test_an_embedding_without_direction_is_refused(value):
  features = SUPPORT_FEATURES.copy()
  features[6] = value
  with pytest.raises(ValueError, match='row 6 of the support'):
    benchmarks.cosine(QUERY_FEATURES, features)


# Zero shots, and ensembles.


def test_text_only_demonstrations_are_marked():
  plain = benchmarks.at_random(
      QUERIES, SUPPORT, shots=2, seed=1, task='birds')
  texts = benchmarks.at_random(
      QUERIES, SUPPORT, shots=2, seed=1, task='birds', text_only=True)
  assert ids(plain) == ids(texts)
  assert {choice.text_only for choice in texts} == {True}
  assert {choice.text_only for choice in plain} == {False}


@pytest.mark.parametrize('n, count', [
    (0, 1), (1, 1), (2, 2), (3, 6), (4, 6), (32, 6)])
def test_permutations_are_different_orders_of_the_same(n, count):
  choice = Choice(items=tuple(SUPPORT[:n]), text_only=True)
  orders = benchmarks.permutations(
      choice, seed=1, task='birds', example='q000')
  assert len(set(ids(orders))) == len(orders) == count
  assert orders[0] == choice
  assert {frozenset(order) for order in ids(orders)} == {
      frozenset(ids([choice])[0])}
  assert {order.text_only for order in orders} == {True}


def test_permutations_are_those_of_the_seed_the_task_and_the_query():
  choice = Choice(items=tuple(SUPPORT[:8]))
  def orders(seed=1, task='birds', example='q000'):
    return ids(benchmarks.permutations(
        choice, seed=seed, task=task, example=example))[1:]
  assert orders() == orders()
  assert not set(orders()) & set(orders(seed=2))
  assert not set(orders()) & set(orders(task='fish'))
  assert not set(orders()) & set(orders(example='q001'))


# Splits.


def row(**more):
  return dataclasses.replace(
      BENCHMARKS['coco'], **{'validation': 7, 'pool': 11, **more})


def test_the_three_parts_of_a_training_split_share_nothing():
  parts = benchmarks.subsets(row(), SUPPORT, seed=0)
  assert [len(part) for part in parts] == [7, 11, 11]
  assert len({item.id for part in parts for item in part}) == 29


def test_parts_do_not_depend_on_the_order_and_do_on_the_seed():
  shuffled = [SUPPORT[i] for i in RNG.permutation(41)]
  parts = benchmarks.subsets(row(), SUPPORT, seed=0)
  assert benchmarks.subsets(row(), shuffled, seed=0) == parts
  assert benchmarks.subsets(row(), SUPPORT, seed=1) != parts


def test_parts_by_class_have_so_many_of_each():
  parts = benchmarks.subsets(
      row(validation=2, pool=4, by_class=True), SUPPORT, seed=0)
  assert [collections.Counter(i.answer for i in part) for part in parts] == [
      dict.fromkeys(CLASSES, 2), dict.fromkeys(CLASSES, 4),
      dict.fromkeys(CLASSES, 4)]


def test_a_held_out_benchmark_has_demonstrations_alone():
  parts = benchmarks.subsets(row(development=False), SUPPORT, seed=0)
  assert [len(part) for part in parts] == [0, 0, 11]


def test_a_small_held_out_split_is_taken_whole():
  parts = benchmarks.subsets(
      row(development=False, pool=2048), SUPPORT, seed=0)
  assert parts.test_support == SUPPORT


def test_too_few_examples_to_divide_are_refused():
  with pytest.raises(ValueError, match=r'coco.*43 examples.*\(7, 18, 18\).*41'):
    benchmarks.subsets(row(pool=18), SUPPORT, seed=0)
  with pytest.raises(ValueError, match="16 examples of class '(wren|tit|jay)'"):
    benchmarks.subsets(
        row(validation=6, pool=5, by_class=True), SUPPORT, seed=0)


# Rounds, and queries with demonstrations of their own.


def with_own(query, k=4):
  """The query with 3 classes of its own, k examples each."""
  return dataclasses.replace(query, demonstrations=tuple(
      Item(id=f'{query.id}/{i}', image=(f'{query.id}/{i}.png',),
           answer=f'{query.id} {i % 3}', references=('?',))
      for i in range(3 * k)))


EPISODES = [with_own(query) for query in QUERIES]


def answers(choice):
  return [item.answer for item in choice.items]


def rounds_of(shots, **more):
  return benchmarks.at_random(
      EPISODES, (), shots=shots, seed=1, task='birds', rounds=True, **more)


def test_what_a_query_brings_along_demonstrates_for_it_alone():
  for query, choice in zip(EPISODES, rounds_of(4)):
    assert {item.id for item in choice.items} == {
        item.id for item in query.demonstrations}
  mixed = [*QUERIES[:3], *EPISODES[3:5]]
  for query, choice in zip(mixed, benchmarks.at_random(
      mixed, SUPPORT, shots=5, seed=1, task='birds')):
    assert all(
        item in (query.demonstrations or SUPPORT) for item in choice.items)


def test_a_round_shows_every_answer_once_in_an_order_of_its_own():
  orders = set()
  for choice in rounds_of(4):
    for at in range(0, 12, 3):
      order = tuple(name[-1] for name in answers(choice)[at : at + 3])
      assert sorted(order) == ['0', '1', '2']
      orders.add(order)
  assert len(orders) == 6


def test_the_first_rounds_are_those_of_fewer_shots():
  for few, many in zip(rounds_of(2), rounds_of(3)):
    assert many.items[:6] == few.items


def test_the_most_similar_of_each_answer_are_rounds_too():
  rng = np.random.default_rng(2)
  similarity = [rng.normal(size=12) for _ in EPISODES]
  choices = benchmarks.most_similar(
      EPISODES, (), shots=2, similarity=similarity, rounds=True)
  for query, row, choice in zip(EPISODES, similarity, choices):
    value = {item.id: row[i] for i, item in enumerate(query.demonstrations)}
    shown = [value[item.id] for item in choice.items]
    assert shown == sorted(shown)
    for c in range(3):
      mine = [one for one in query.demonstrations if one.answer[-1] == str(c)]
      best = sorted(mine, key=lambda one: -value[one.id])[:2]
      assert all(one in choice.items for one in best)


def test_too_few_of_an_answer_for_the_rounds_are_refused():
  with pytest.raises(ValueError, match='5 demonstrations of each of 3 answers'):
    rounds_of(5)
  short = dataclasses.replace(
      EPISODES[0], demonstrations=EPISODES[0].demonstrations[:-1])
  with pytest.raises(ValueError, match='there are 11'):
    benchmarks.at_random(
        [short], (), shots=4, seed=1, task='birds', rounds=True)
