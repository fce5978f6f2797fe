"""Tokenizers of published language models, from their files and tables."""

import json
import random
import struct

from flamingo.data import spelling
from flamingo.data import tags as tags_lib
from flamingo.data.tokenizer import Tokenizer
from flamingo.pretrained.tokenizer import (
    check_fits, from_pieces, load_tokenizer)
import pytest
import tokenizers

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6  # types of pieces
WORDS = ['▁the', '▁a', 'the', '▁t', 'th', 'he', 'at', '▁cat', 'ca', 'cat', '▁c']
LETTERS = list('▁tehac<>/s')
PIECES = [
    '<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256)), '<user>',
    *WORDS, *LETTERS]
TYPES = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, USER] + [NORMAL] * (
    len(WORDS) + len(LETTERS))
# SentencePiece's scores fall with the rank of a merge; letters are last.
SCORES = [0.0] * 260 + [
    -float(i) for i in range(len(WORDS) + len(LETTERS))]


def pieces(**kwargs) -> Tokenizer:
  kwargs = dict(bos='<s>', eos='</s>', pad='</s>', unk='<unk>') | kwargs
  return from_pieces(PIECES, SCORES, TYPES, **kwargs)


def spell(text, prefix='▁'):
  """What SentencePiece does, the slow way: the best pair merges, to the end."""
  symbols = list((prefix + text).replace(' ', '▁')) if text else []
  score = dict(zip(PIECES, SCORES))
  while True:
    pairs = [
        (score[a + b], -i) for i, (a, b) in enumerate(zip(symbols, symbols[1:]))
        if a + b in score and '<' not in a + b]
    if not pairs:
      break
    at = -max(pairs)[1]
    symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
  ids = []
  for symbol in symbols:
    if symbol in score:
      ids.append(PIECES.index(symbol))
    else:
      ids += [3 + byte for byte in symbol.encode()]
  return ids


def message(number, value):
  """A field of a protocol buffer."""
  if isinstance(value, float):
    return varint(number << 3 | 5) + struct.pack('<f', value)
  if isinstance(value, int):
    return varint(number << 3) + varint(value)
  return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
  out = b''
  while value >= 128:
    out, value = out + bytes([value & 127 | 128]), value >> 7
  return out + bytes([value])


def sentencepiece(kind=2, charsmap=b'', prefix=1, extra=0):
  """A file tokenizer.model."""
  data = b''
  for piece, score, type_ in zip(PIECES, SCORES, TYPES):
    data += message(
        1, message(1, piece.encode()) + message(2, score) + message(3, type_))
  data += message(2, message(3, kind) + message(45, b'<unk>'))
  return data + message(
      3, message(2, charsmap) + message(3, prefix) + message(4, extra))


def texts():
  rng = random.Random(0)
  parts = [
      'the', ' ', 'cat', ' a', 'é', 't', '日', '\n', '</s>', '<0x41>', 'hat']
  for _ in range(300):
    yield ''.join(rng.choice(parts) for _ in range(rng.randrange(9)))


# SentencePiece.


def test_pieces_merge_in_the_order_of_their_scores():
  tokenizer = pieces()
  several = 0
  for text in texts():
    ids = tokenizer.encode(text)
    assert ids == spell(text)
    assert tokenizer.decode(ids) == text
    several += len(ids) < len(text)
  assert several > 50


def test_pieces_may_have_no_space_in_front():
  tokenizer = pieces(prefix_space=False)
  for text in texts():
    ids = tokenizer.encode(text)
    assert ids == spell(text, prefix='')
    assert tokenizer.decode(ids) == text


def test_a_tab_that_is_a_byte_merges_like_any_letter():
  types = [*TYPES, NORMAL]
  tokenizer = from_pieces(
      [*PIECES, '\t\t'], [*SCORES, -1.0], types, bos=None, eos='</s>',
      pad='</s>', unk='<unk>', prefix_space=False)
  assert tokenizer.encode('\t\t\t') == [len(PIECES), 3 + 9]
  assert tokenizer.decode(tokenizer.encode('\t\tat\té')) == '\t\tat\té'


def test_user_defined_pieces_are_text_and_control_pieces_are_not():
  tokenizer = pieces()
  assert PIECES.index('<user>') in tokenizer.encode('the<user>at')
  assert 2 not in tokenizer.encode('the</s>')
  assert tokenizer.encode('the</s>', allow_special=True)[-1] == 2
  assert tokenizer.special == ('<unk>', '<s>', '</s>')


def test_a_file_of_sentencepiece_is_its_pieces(tmp_path):
  (tmp_path / 'tokenizer.model').write_bytes(sentencepiece())
  (tmp_path / 'tokenizer_config.json').write_text(
      '{"tokenizer_class": "LlamaTokenizer"}')
  loaded = load_tokenizer(tmp_path)
  for text in texts():
    assert loaded.encode(text) == pieces().encode(text)
  assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (1, 2, 2)
  ids = loaded.encode('cat', follows='tag')
  assert ids == spell('cat')  # old ones put a space behind a tag too

  (tmp_path / 'tokenizer_config.json').write_text(
      '{"tokenizer_class": "LlamaTokenizer", "legacy": false}')
  loaded = load_tokenizer(tmp_path)
  assert loaded.encode('cat') == spell('cat')
  assert loaded.encode('cat', follows='tag') == spell('cat', prefix='')


@pytest.mark.parametrize('data, problem', [
    (sentencepiece()[:-7], 'no SentencePiece model'),
    (b'IQ== 0\nIg== 1\n', 'tiktoken'), (b'', 'no SentencePiece model'),
    (sentencepiece(kind=1), 'kind Unigram; expected a BPE'),
    (sentencepiece(charsmap=b'xx'), 'normalises text'),
    (sentencepiece(extra=1), 'normalises text')])
def test_another_file_of_sentencepiece_is_refused(tmp_path, data, problem):
  (tmp_path / 'tokenizer.model').write_bytes(data)
  with pytest.raises(ValueError, match=f'{problem}.*save_pretrained'):
    load_tokenizer(tmp_path)


def test_tables_that_contradict_each_other_are_refused():
  with pytest.raises(ValueError, match='2 pieces, 1 scores and 2 types'):
    from_pieces(
        ['a', 'b'], [0.0], [1, 1], bos=None, eos='a', pad='a', unk=None)
  with pytest.raises(ValueError, match=r"repeats \['a'\]"):
    from_pieces(
        ['a', 'a'], [0.0, 0.0], [1, 1], bos=None, eos='a', pad='a', unk=None)


# Directories.


@pytest.fixture
def directory(tmp_path):
  """A byte-level BPE of 259 tokens, and nothing that says what they are."""
  model = tokenizers.Tokenizer(tokenizers.models.BPE(
      vocab={s: i for i, s in enumerate(
          [*spelling.byte_symbols(), '<bos>', '<eos>', '<pad>'])}, merges=[]))
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  model.decoder = tokenizers.decoders.ByteLevel()
  model.save(str(tmp_path / 'tokenizer.json'))
  return tmp_path


def write(directory, name, **values):
  (directory / name).write_text(json.dumps(values))


def test_special_tokens_may_be_named_in_any_of_the_files(directory):
  write(directory, 'config.json', eos_token_id=[257, 3], pad_token_id=None)
  assert load_tokenizer(directory).eos_id == 257
  assert load_tokenizer(directory).pad_id == 257
  assert load_tokenizer(directory).bos_id is None
  write(directory, 'special_tokens_map.json', pad_token={'content': '<pad>'})
  assert load_tokenizer(directory).pad_id == 258
  write(directory, 'tokenizer_config.json', bos_token='<bos>',
        eos_token={'content': '<bos>'}, add_bos_token=True)
  tokenizer = load_tokenizer(directory)
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (
      256, 256, 258)
  assert load_tokenizer(directory, begin=False).bos_id is None


def test_without_an_end_or_a_beginning_it_says_so(directory):
  with pytest.raises(ValueError, match='"eos_token"'):
    load_tokenizer(directory)
  write(directory, 'config.json', eos_token_id=257)
  with pytest.raises(ValueError, match='"bos_token".*begin=False'):
    load_tokenizer(directory, begin=True)


def test_new_tokens_stand_behind_the_rows_of_the_embedding(directory):
  write(directory, 'config.json', eos_token_id=257)
  assert load_tokenizer(directory).image_id == 259
  padded = load_tokenizer(directory, vocab_size=264)
  assert (padded.vocab_size, padded.image_id) == (264, 264)
  assert padded.decode([97, 261, 98, 264]) == 'ab<image>'


def test_new_tokens_of_a_published_flamingo_keep_their_ids(directory):
  write(directory, 'config.json', eos_token_id=257)
  write(directory, 'added_tokens.json', **{
      '<fake_token_around_image>': 259, '<image>': 260})
  tokenizer = load_tokenizer(directory, tags_lib.IDEFICS)
  assert tokenizer.vocab_size == 259
  assert tokenizer.image_ids == (259, 260, 259) and tokenizer.image_at == 1
  assert tokenizer.eoc_id is None
  with pytest.raises(ValueError, match='260 tokens before.* 259 rows'):
    load_tokenizer(directory, vocab_size=259)  # as if it were the paper's
  with pytest.raises(ValueError, match="it has {'<image>': 260}.*in their o"):
    load_tokenizer(directory, tags_lib.OPENFLAMINGO)
  with pytest.raises(ValueError, match='259 tokens before.* 300 rows'):
    load_tokenizer(directory, tags_lib.IDEFICS, vocab_size=300)


@pytest.mark.parametrize('tags', [
    tags_lib.FLAMINGO, tags_lib.OPENFLAMINGO, tags_lib.IDEFICS,
    tags_lib.FLAMINGO_MINI])
@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('model', [pieces, Tokenizer.bytes])
def test_what_is_saved_loads_the_same(tmp_path, model, tags, padding):
  plain = model(tags=tags)
  saved = Tokenizer(
      plain._model, plain.special, *plain._roles, tags,
      vocab_size=plain.vocab_size + padding)
  saved.save(tmp_path)
  loaded = load_tokenizer(tmp_path, tags, vocab_size=saved.vocab_size)
  for name in (
      'vocab_size', 'tags', 'bos_id', 'eos_id', 'pad_id',
      'image_ids', 'image_at', 'eoc_id', 'stop_id', 'unsaid_ids'):
    assert getattr(loaded, name) == getattr(saved, name)
  assert set(loaded.special) == set(saved.special)
  for text in texts():
    for allow_special in False, True:
      ids = saved.encode(text, allow_special=allow_special)
      assert loaded.encode(text, allow_special=allow_special) == ids
      assert loaded.decode(ids) == saved.decode(ids)


def test_a_directory_without_a_tokenizer_lists_what_there_is(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / 'vocab.json').write_text('{}')
  with pytest.raises(
      FileNotFoundError,
      match=r"tokenizer.json, or.*\['config.json', 'vocab.json'\]"):
    load_tokenizer(tmp_path)
  with pytest.raises(FileNotFoundError, match='came nothing'):
    load_tokenizer(tmp_path / 'absent')


def test_a_tokenizer_of_an_unknown_kind_is_refused(tmp_path):
  path = tmp_path / 'tokenizer.json'
  tokenizers.Tokenizer(tokenizers.models.WordPiece(
      {'[UNK]': 0, 'a': 1}, unk_token='[UNK]')).save(str(path))
  with pytest.raises(ValueError, match='kind WordPiece; expected BPE or'):
    load_tokenizer(tmp_path)
  path.write_text('{"version": "1.0"}')
  with pytest.raises(ValueError, match='tokenizer.json is no file of'):
    load_tokenizer(tmp_path)


def test_broken_files_are_named(directory):
  (directory / 'tokenizer_config.json').write_text('{"eos_token":')
  with pytest.raises(ValueError, match='tokenizer_config.json is no JSON'):
    load_tokenizer(directory)
  (directory / 'tokenizer_config.json').write_text('[]')
  with pytest.raises(ValueError, match='a list; expected an object'):
    load_tokenizer(directory)


def test_tables_of_two_models_are_refused(tmp_path):
  write(tmp_path, 'vocab.json', a=0, b=1)
  (tmp_path / 'merges.txt').write_text('#version: 0.2\na b\n')
  with pytest.raises(ValueError, match='do not go together'):
    load_tokenizer(tmp_path)


def test_added_tokens_of_another_model_are_refused(directory):
  write(directory, 'config.json', eos_token_id=257)
  write(directory, 'added_tokens.json', **{'<x>': 300})
  with pytest.raises(ValueError, match="'<x>' has the id 300, but.*gets 259"):
    load_tokenizer(directory)


def test_a_tokenizer_that_does_not_fit_the_embedding_is_refused(directory):
  write(directory, 'config.json', eos_token_id=257)
  tokenizer = load_tokenizer(directory)
  check_fits(tokenizer, 259)
  check_fits(tokenizer, 259, 2)
  with pytest.raises(ValueError, match='lm/embed has 300 rows.*259 tokens'):
    check_fits(tokenizer, 300, what='lm/embed')
  with pytest.raises(ValueError, match='259 and 3 new rows.*2 new ones'):
    check_fits(tokenizer, 259, 3)
  with pytest.raises(ValueError, match='259 tokens, but.*has 100 rows'):
    load_tokenizer(directory, vocab_size=100)
