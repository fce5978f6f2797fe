"""Made-up names: of known length, and each of one split on every machine."""

from flamingo.data import names


class Spelling:
  """A tokenizer to which words of four letters are one token."""

  def single_token_words(self, least, most):
    del least, most
    return [a + b + 'le' for a in 'bcdfghjklmnp' for b in 'aeiou']

  def encode(self, text):
    return [0] * (len(text) // 3)


def test_names_of_the_splits_are_disjoint_and_cover_all():
  for kind in names.words, names.nonsense:
    pools = {
        split: kind(Spelling(), split)
        for split in ('train', 'validation', 'test')}
    everyone = sum(pools.values(), ())
    assert len(set(everyone)) == len(everyone)
    assert all(pools.values())
    assert len(pools['train']) > len(pools['test'])
  assert sum(len(names.words(Spelling(), s)) for s in pools) == 60


def test_nonsense_is_of_two_or_three_tokens():
  for name in names.nonsense(Spelling(), 'test'):
    assert 2 <= len(Spelling().encode(' ' + name)) <= 3


def test_the_split_of_a_name_does_not_change_with_the_machine():
  assert [names.split_of(n) for n in ('dax', 'blick', 'kiki', 'mouse')] == [
      'train', 'test', 'test', 'validation']
