"""A tree of prompts: every one of them is in it, and sees nothing else."""

from flamingo.data import encode
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.trie import Branch, Trie
from flamingo.types import Chunk
import numpy as np
import pytest

TOKENIZER = Tokenizer.bytes()


def prompt(*shots, query=None):
  """Pictures with their names, then a query, as in (4, 'a'), (5, 'b'), 6."""
  chunks = [Chunk(text=name, image=np.int64(row)) for row, name in shots]
  if query is not None:
    chunks.append(Chunk(text='', image=np.int64(query), close=False))
  return encode.encode(chunks, TOKENIZER, max_images=9)


def path(trie, end):
  """What the token `end` sees, as rows of the store: (token, row or None)."""
  seen = np.flatnonzero(trie.mask(len(trie))[end])
  rows = [None, *trie.images]
  return [(trie.tokens[i], rows[trie.image_index[i]]) for i in seen], seen


def written(example, extra=()):
  """The same of a prompt, with tokens behind it."""
  rows = [None, *example.images]
  pairs = [
      (int(t), rows[i]) for t, i in zip(example.tokens, example.image_index)]
  return pairs + [(t, pairs[-1][1]) for t in extra]


EPISODE = [(4, 'ab'), (5, 'xy'), (4, 'ax'), (7, 'abab')]
PROMPTS = [
    prompt(*EPISODE[:k], query=row) for k in (0, 1, 2, 4) for row in (6, 0)]


@pytest.fixture
def trie():
  trie = Trie()
  for one in PROMPTS:
    trie.add(one)
  return trie


def test_every_prompt_is_there_word_for_word(trie):
  for one in PROMPTS:
    end = trie.add(one)
    came, seen = path(trie, end)
    assert came == written(one)
    np.testing.assert_array_equal(
        np.asarray(trie.positions)[seen], np.arange(len(one.tokens)))


def test_what_is_alike_is_there_once(trie):
  longest = max(len(one.tokens) for one in PROMPTS)
  # Of eight prompts, each query's tag but none of the demonstrations repeats.
  assert len(trie) == longest + len(PROMPTS) - 1
  before = len(trie)
  for one in PROMPTS:
    trie.add(one)
  assert len(trie) == before


def test_the_order_of_adding_changes_nothing_that_a_prompt_sees():
  for order in PROMPTS, PROMPTS[::-1]:
    trie = Trie()
    ends = [trie.add(one) for one in order]
    for one, end in zip(order, ends):
      assert path(trie, end)[0] == written(one)


def test_the_same_words_behind_another_picture_are_others():
  trie = Trie()
  one = trie.add(prompt((4, 'ab'), query=6))
  other = trie.add(prompt((5, 'ab'), query=6))
  shared = set(path(trie, one)[1]) & set(path(trie, other)[1])
  assert [trie.tokens[i] for i in shared] == [TOKENIZER.bos_id]


def test_a_picture_that_comes_twice_has_one_number():
  trie = Trie()
  trie.add(prompt((4, 'a'), (8, 'b'), (4, 'c'), query=8))
  assert trie.images == [4, 8]


def test_a_text_without_pictures_sees_none():
  trie = Trie()
  trie.add(encode.encode([Chunk(text='dogs:', close=False)], TOKENIZER,
                         max_images=0))
  assert trie.images == [] and set(trie.image_index) == {0}


def test_candidates_see_the_prompt_themselves_and_its_last_picture():
  trie = Trie()
  one = prompt((4, 'ab'), query=6)
  end = trie.add(one)
  candidates = [(1, 2, 3), (1, 2, 4, 5), (7,)]
  for ids, question in zip(candidates, trie.ask(end, candidates), strict=True):
    assert question.targets == ids
    for k, node in enumerate(question.nodes):
      assert path(trie, node)[0] == written(one, ids[:k])
      assert trie.positions[node] == len(one.tokens) - 1 + k


def test_a_candidates_last_token_is_not_read_and_a_common_beginning_once():
  trie = Trie()
  end = trie.add(prompt(query=6))
  before = len(trie)
  trie.ask(end, [(1, 2, 3), (1, 2, 4), (1, 5)])
  assert trie.tokens[before:] == [1, 2]


def test_the_mask_is_the_docstrings():
  trie = Trie()
  end = trie.add(encode.encode([Chunk(text='a', close=False)], TOKENIZER,
                               max_images=0))
  trie.ask(end, [(1, 2, 9), (3, 4, 9)])
  np.testing.assert_array_equal(trie.mask(6), [
      [1, 0, 0, 0, 0, 0],
      [1, 1, 0, 0, 0, 0],
      [1, 1, 1, 0, 0, 0],
      [1, 1, 1, 1, 0, 0],
      [1, 1, 0, 0, 1, 0],
      [1, 1, 0, 0, 1, 1]])


def test_rows_behind_the_end_see_nothing(trie):
  mask = trie.mask(len(trie) + 5)
  np.testing.assert_array_equal(
      mask[: len(trie), : len(trie)], trie.mask(len(trie)))
  assert not mask[len(trie) :].any() and not mask[:, len(trie) :].any()


def test_a_branch_sees_its_prompt_and_itself_alone():
  stem = Trie()
  prompts = [prompt((4, 'ab'), query=6), prompt((4, 'ab'), query=0)]
  ends = [stem.add(one) for one in prompts]
  branch = Branch(stem)
  asked = [
      (one, ids, question) for one, end in zip(prompts, ends)
      for ids in [(1, 2, 3), (1, 4)]
      for question in branch.ask(branch.begin(end), [ids])]
  rows = [None, *branch.images]
  size = len(stem) + 3  # of the cache, with padding
  sees = branch.mask(len(branch) + 2, size)
  for one, ids, question in asked:
    assert question.targets == ids
    for k, node in enumerate(question.nodes):
      seen = np.flatnonzero(sees[node])
      came = [
          (stem.tokens[i], [None, *stem.images][stem.image_index[i]])
          if i < size else (
              branch.tokens[i - size], rows[branch.image_index[i - size]])
          for i in seen]
      assert came == written(one, ids[:k])
      assert branch.positions[node] == len(one.tokens) - 1 + k
  # What begins alike behind one prompt is there once, behind two twice.
  assert branch.tokens.count(1) == 2
  assert not sees[len(branch) :].any()
