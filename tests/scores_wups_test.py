"""WordNet's files, Wu and Palmer's similarity, and WUPS."""

import pytest

from flamingo.eval.scores import wordnet as wordnets
from flamingo.eval.scores import wups
from wordnet_files import write_wordnet


@pytest.fixture(scope='module', params=['\n', '\r\n'], ids=['unix', 'windows'])
def wordnet(request, tmp_path_factory):
  return wordnets.WordNet(
      write_wordnet(tmp_path_factory.mktemp('wordnet'), request.param))


def _alike(wordnet, a, b):
  return wordnets.wu_palmer(wordnet.senses(a)[0], wordnet.senses(b)[0])


def test_senses_are_listed_the_most_frequent_first(wordnet):
  assert [s.name for s in wordnet.senses('dog')] == [
      'dog.n.01', 'sausage.n.01']
  assert [s.name for s in wordnet.senses('Puppies')] == ['puppy.n.01']
  assert [s.name for s in wordnet.senses('big')] == ['big.a.01']
  assert wordnet.senses('quark') == []


@pytest.mark.parametrize('form, base', [
    ('dogs', 'dog'), ('puppies', 'puppy'), ('playing', 'play'),
    ('walked', 'walk'), ('cup', 'cup'), ('quarks', 'quarks'),
    ('geese', 'geese')])  # its base form is not in the database
def test_words_have_base_forms(wordnet, form, base):
  assert wordnet.lemma(form) == base


def test_likeness_is_twice_the_shared_depth_over_the_depths(wordnet):
  # entity 1, animal 2, dog and cat 3, puppy 4.
  assert _alike(wordnet, 'dog', 'cat') == pytest.approx(2 * 2 / (3 + 3))
  assert _alike(wordnet, 'puppy', 'cat') == pytest.approx(2 * 2 / (4 + 3))
  assert _alike(wordnet, 'puppy', 'dog') == pytest.approx(2 * 3 / (4 + 3))
  assert _alike(wordnet, 'cup', 'dog') == pytest.approx(2 * 1 / (3 + 3))
  assert _alike(wordnet, 'dog', 'dog') == 1


def test_verbs_have_a_root_above_them_all(wordnet):
  # As in NLTK, that root is as deep as the roots below it, and comes first.
  assert _alike(wordnet, 'play', 'walk') == pytest.approx(2 / (2 + 3))
  assert _alike(wordnet, 'play', 'big') == pytest.approx(2 / (2 + 2))


def test_next_qa_takes_first_senses_and_the_worse_direction(wordnet):
  found = wups.next_qa_wups(
      ['the dogs', 'puppy', 'a cup and a dog', 'quark'],
      [['a dog'], ['cat'], ['dog'], ['dog']], wordnet=wordnet)
  assert found.examples.tolist() == pytest.approx(
      [1, 4 / 7, 1 / 3, 0])


def test_next_qa_passes_over_words_that_are_like_nothing(wordnet):
  found = wups.next_qa_wups(['quark dog'], [['dog']], wordnet=wordnet)
  assert found.value == 1


def test_next_qa_takes_the_best_reference_and_equality_where_it_must(wordnet):
  found = wups.next_qa_wups(
      ['puppy', 'puppy', 'puppies'],
      [['cup', 'dog'], ['dog'], ['cat', 'puppy']],
      wordnet=wordnet, exact=[False, True, True])
  assert found.examples.tolist() == pytest.approx([6 / 7, 0, 1])


def test_below_the_threshold_a_likeness_counts_a_tenth(wordnet):
  low = wups.next_qa_wups(['cat'], [['dog']], wordnet=wordnet, threshold=0.9)
  assert low.value == pytest.approx(0.1 * 4 / 6)
  low = wups.malinowski_wups(['cat'], ['dog'], wordnet=wordnet, threshold=0.9)
  assert low.value == pytest.approx(0.1 * 4 / 6)


def test_malinowski_takes_the_nearest_senses_and_every_object(wordnet):
  found = wups.malinowski_wups(
      ['cup, dog', 'cup', 'quark', 'cup'],
      ['dog,cup', 'dog', 'dog', 'quark, cup'], wordnet=wordnet, threshold=0.0)
  # A sausage is a thing as a cup is.
  assert found.examples.tolist() == pytest.approx([1, 4 / 6, 0, 0])


def test_base_forms_may_come_from_elsewhere(wordnet):
  found = wups.next_qa_wups(
      ['hound'], [['dog']], wordnet=wordnet, words=lambda text: ['dog'])
  assert found.value == 1


def test_without_wordnet_the_error_says_how_to_get_it(monkeypatch, tmp_path):
  monkeypatch.setenv('WNSEARCHDIR', str(tmp_path))
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.delenv('NLTK_DATA', raising=False)
  monkeypatch.setattr(wordnets.pathlib.Path, 'exists', lambda self: False)
  with pytest.raises(FileNotFoundError, match='wordnet-base'):
    wordnets.find_wordnet()


def test_wordnet_is_found_where_its_own_programs_look(monkeypatch, tmp_path):
  monkeypatch.setenv('WNSEARCHDIR', str(write_wordnet(tmp_path)))
  assert wordnets.find_wordnet() == tmp_path


def _installed():
  try:
    return wordnets.find_wordnet()
  except FileNotFoundError:
    return None


@pytest.mark.original
@pytest.mark.skipif(_installed() is None, reason='WordNet 3.0 is not installed')
def test_likeness_in_the_real_wordnet_is_nltk_s():
  # Values of NLTK 3.10's wup_similarity between first senses.
  wordnet = wordnets.WordNet(_installed())
  for a, b, value in [
      ('dog', 'cat', 6 / 7), ('baby', 'child', 3 / 5), ('play', 'run', 2 / 9),
      ('happily', 'dog', 1 / 6), ('big', 'red', 2 / 11),
      ('table', 'chair', 1 / 8), ('smile', 'laugh', 6 / 13),
      ('water', 'boat', 4 / 17), ('hold', 'carry', 10 / 19),
      ('guitar', 'music', 2 / 15), ('man', 'woman', 2 / 3),
      ('toy', 'play', 2 / 13)]:
    assert _alike(wordnet, a, b) == pytest.approx(value, abs=1e-12), (a, b)
