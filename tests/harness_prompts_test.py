"""What a model is shown: demonstrations, controls, and never too much."""

import dataclasses

import benchmark_models as models
from flamingo.data.encode import Example
from flamingo.data.images import blank, Preprocess
from flamingo.eval import benchmarks
from flamingo.eval import harness
from flamingo.eval.benchmarks import Choice, TEMPLATES
from flamingo.eval.harness import Asked
from flamingo.eval.harness.controls import controlled
from flamingo.eval.harness.prompts import Writer
from flamingo.eval.harness.ask import _without_content
import numpy as np
import pytest

ROW = benchmarks.own(
    'birds', query='birds/query.jsonl', support='birds/support.jsonl',
    template='qa', metric='top1', open_ended=False)


@pytest.fixture(scope='module')
def loaded(tiny, random_params):
  return models.seeing(tiny, random_params)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  path = tmp_path_factory.mktemp('root')
  models.birds(path, ranked=True)
  return path


@pytest.fixture(scope='module')
def task(root):
  return harness.load_task(ROW, root)


@pytest.fixture(scope='module')
def pictures(loaded, root, task, tmp_path_factory):
  found = harness.Pictures(
      loaded.model, loaded.params, Preprocess(models.SIZE, 'squash'), root,
      task.hashes, tmp_path_factory.mktemp('latents'))
  found.fill((*task.queries, *task.support))
  return found


@pytest.fixture(scope='module')
def demonstrator(loaded, task, pictures):
  table = np.asarray(loaded.params['lm']['embed']['embedding'])
  return harness.Demonstrator(task, {
      'image': pictures.embed,
      'text': harness.text_embedding(table, loaded.tokenizer)})


@pytest.fixture
def writer(pictures):
  return _writer(pictures)


def _writer(pictures, template='flamingo', max_length=2048):
  return Writer(
      TEMPLATES[template]['qa'], models.TOKENIZER, pictures,
      max_length=max_length)


def cell(**changes):
  return harness.Cell(**dict(
      task='birds', split='query', data='', missing=0, template='flamingo',
      metric='top1', open_ended=False, shots=5, max_length=2048, frames=8,
      permutations=1) | changes)


def ask(demonstrator, task, i=0, **changes):
  (asked,) = demonstrator.ask(cell(**changes), task.queries[i : i + 1])
  return asked


def answers(asked):
  return [item.answer for item in asked.choice.items]


def images(asked):
  return [item.image for item in asked.choice.items]


# Demonstrations.


@pytest.mark.parametrize('choice', harness.CHOICES)
def test_demonstrations_never_show_the_querys_image(
    demonstrator, task, choice):
  # Query i and support i are one picture under two names.
  for shots in (1, 12):
    for i, query in enumerate(task.queries):
      asked = ask(demonstrator, task, i, choice=choice, shots=shots)
      assert len(asked.choice.items) == shots
      held = {task.hashes[item.image[0]] for item in asked.choice.items}
      assert task.hashes[query.image[0]] not in held


def test_a_query_gets_its_demonstrations_whoever_else_is_asked(
    demonstrator, task):
  for choice in harness.CHOICES:
    together = demonstrator.ask(cell(choice=choice), task.queries)
    for i in range(len(task.queries)):
      assert ask(demonstrator, task, i, choice=choice) == together[i]


def test_the_most_similar_image_stands_last(demonstrator, task, pictures):
  asked = ask(demonstrator, task, choice='rices_image')
  items = (*asked.choice.items, asked.query)
  unit = np.asarray(pictures.embed(items), np.float64)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  similar = unit[:-1] @ unit[-1]
  assert (np.diff(similar) >= -1e-6).all()
  others = [s for s in task.support if s not in items and (
      task.hashes[s.image[0]] != task.hashes[asked.query.image[0]])]
  unit = np.asarray(pictures.embed((*others, asked.query)), np.float64)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  assert (unit[:-1] @ unit[-1]).max() <= similar.min() + 1e-6


def test_rices_by_text_finds_the_same_question(demonstrator, task):
  for i, query in enumerate(task.queries):
    asked = ask(demonstrator, task, i, choice='rices_text', shots=1)
    assert asked.choice.items[0].fields == query.fields


def test_balanced_rices_shows_every_answer_alike(demonstrator, task):
  asked = ask(
      demonstrator, task, choice='rices_image', balanced=True, shots=6)
  assert sorted(answers(asked)) == sorted(models.BIRDS * 2)


def test_text_is_needed_to_choose_by_it(task, loaded):
  table = np.asarray(loaded.params['lm']['embed']['embedding'])
  embed = harness.text_embedding(table, loaded.tokenizer)
  silent = dataclasses.replace(task.queries[0], fields={})
  with pytest.raises(ValueError, match='query 0: expected a text'):
    embed([silent])


def test_orders_are_of_the_same_demonstrations(demonstrator, task):
  c = cell(permutations=6)
  (asked,) = demonstrator.ask(c, task.queries[:1])
  orders = demonstrator.orders(c, asked)
  assert orders[0] == asked
  ids = [tuple(item.id for item in order.choice.items) for order in orders]
  assert len(set(ids)) == 6
  assert {tuple(sorted(order)) for order in ids} == {tuple(sorted(ids[0]))}


# Controls.


@pytest.mark.parametrize('control', harness.CONTROLS)
def test_a_control_changes_what_it_says_and_nothing_else(
    demonstrator, task, control):
  plain = ask(demonstrator, task, shots=12)
  found = ask(demonstrator, task, shots=12, control=control)
  changed = {
      'images': images(found) != images(plain),
      'labels': answers(found) != answers(plain),
      'query': found.query != plain.query,
      'text_only': found.choice.text_only}
  expected = {
      'blank_images': {'images'}, 'shuffled_images': {'images'},
      'no_images': {'text_only'}, 'shuffled_labels': {'labels'},
      'random_labels': {'labels'}, 'blank_query': {'query'}}
  assert {name for name, did in changed.items() if did} == expected[control]
  same = lambda item: (item.id, item.fields, item.candidates)
  assert list(map(same, found.choice.items)) == list(
      map(same, plain.choice.items))
  assert same(found.query) == same(plain.query)
  assert found.query.answer == plain.query.answer


def test_shuffles_are_permutations(demonstrator, task):
  plain = ask(demonstrator, task, shots=12)
  labels = ask(demonstrator, task, shots=12, control='shuffled_labels')
  pixels = ask(demonstrator, task, shots=12, control='shuffled_images')
  assert sorted(answers(labels)) == sorted(answers(plain))
  assert sorted(images(pixels)) == sorted(images(plain))


def test_random_labels_are_candidates_or_answers_of_the_support(
    demonstrator, task):
  found = ask(demonstrator, task, shots=12, control='random_labels')
  assert set(answers(found)) <= set(models.BIRDS)
  plain = ask(demonstrator, task, shots=12)
  bare = dataclasses.replace(plain, choice=Choice(items=tuple(
      dataclasses.replace(item, candidates=())
      for item in plain.choice.items)))
  found = controlled(cell(control='random_labels'), bare, task.support)
  assert set(answers(found)) <= set(models.BIRDS)
  assert answers(found) != answers(plain)


@pytest.mark.parametrize('control, seen', [
    (None, ['support'] * 2 + ['query']), ('no_images', ['query']),
    ('blank_images', ['blank'] * 2 + ['query']),
    ('blank_query', ['support'] * 2 + ['blank'])])
def test_prompts_show_the_images_of_their_control(
    demonstrator, task, pictures, writer, control, seen):
  asked = ask(demonstrator, task, shots=2, control=control)
  prompt = writer.write(asked, room=1)
  kinds = {int(pictures.row(item)): item.id.split()[0]
           for item in (*task.support, *task.queries)}
  # Pictures that both splits have are one row: name them by the prompt's own.
  kinds.update({
      int(pictures.row(item)): item.id.split()[0]
      for item in (*ask(demonstrator, task, shots=2).choice.items,
                   task.queries[0])})
  kinds[int(pictures.row(dataclasses.replace(task.queries[0], image=())))] = (
      'blank')
  assert [kinds[row] for row in prompt.example.images.tolist()] == seen
  tags = (prompt.example.tokens == models.TOKENIZER.image_id).sum()
  assert tags == len(seen)  # as many tags as images


def test_a_blind_prompt_has_the_same_words_and_no_image(
    demonstrator, task, writer):
  asked = ask(demonstrator, task, shots=2)
  seeing, blind = (
      writer.write(asked, room=1, blind=b) for b in (False, True))
  assert blind.example.images is None
  assert not blind.example.image_index.any()
  assert blind.text == seeing.text.replace('<image>', '')
  tags = seeing.example.tokens == models.TOKENIZER.image_id
  assert blind.example.tokens.tolist() == seeing.example.tokens[~tags].tolist()
  assert blind.digest != seeing.digest


def test_the_digest_tells_images_apart_but_not_their_names(
    demonstrator, task, writer):
  asked = ask(demonstrator, task, shots=2)
  other = ask(demonstrator, task, shots=2, control='blank_query')
  copy = dataclasses.replace(asked, query=dataclasses.replace(
      asked.query, image=('birds/support/0.png',)))  # the same picture
  digests = [writer.write(a, room=1).digest for a in (asked, other, copy)]
  assert digests[0] == digests[2] != digests[1]


def test_a_query_without_content_keeps_the_demonstrations(demonstrator, task):
  asked = ask(demonstrator, task)
  plain = _without_content(asked)
  assert plain.choice == asked.choice
  assert plain.query.image == ()
  assert plain.query.fields == {'question': 'N/A'}


# Lengths.


def test_too_long_prompts_drop_the_oldest_demonstrations(
    demonstrator, task, pictures):
  asked = ask(demonstrator, task, shots=5)
  ids = tuple(item.id for item in asked.choice.items)
  whole = _writer(pictures).write(asked, room=7)
  assert whole.demonstrations == ids and whole.dropped == 0
  length = len(whole.example.tokens)
  fits = _writer(pictures, max_length=length + 7).write(asked, room=7)
  assert fits.digest == whole.digest
  for limit in range(80, length + 7, 29):
    cut = _writer(pictures, max_length=limit).write(asked, room=7)
    assert cut.dropped == 5 - len(cut.demonstrations) > 0
    assert cut.demonstrations == ids[cut.dropped:]
    assert len(cut.example.tokens) + 7 <= limit
    assert whole.text.endswith(cut.text)
    one_more = Asked(
        Choice(items=asked.choice.items[cut.dropped - 1 :]), asked.query)
    more = _writer(pictures).write(one_more, room=7)
    assert len(more.example.tokens) + 7 > limit


def test_an_instruction_stays_when_demonstrations_go(
    demonstrator, task, pictures):
  asked = ask(demonstrator, task, shots=5)
  cut = _writer(pictures, 'idefics', max_length=300).write(asked, room=7)
  assert cut.dropped and cut.text.startswith('Instruction: provide')


def test_a_query_is_never_dropped(demonstrator, task, pictures):
  asked = ask(demonstrator, task, shots=5)
  with pytest.raises(ValueError, match='query 0 alone has .* tokens'):
    _writer(pictures, max_length=30).write(asked, room=7)


# Answers.


@pytest.mark.parametrize('template, said, answer', [
    ('flamingo', ' a wren Question: what', 'a wren'),
    ('flamingo', ' a wren', 'a wren'),
    ('flamingo', ' an Answer: ', 'an'),
    ('openflamingo', 'a wren Short answer:b', 'a wren'),
    ('openflamingo', 'a wren\nQuestion:', 'a wren'),
    ('idefics', ' a wren\nImage:Question: b', 'a wren'),
    ('flamingo', ' at 5 Main St: a wren', 'at 5 Main St: a wren'),
])
def test_answers_end_where_the_next_prompt_begins(
    pictures, template, said, answer):
  writer = _writer(pictures, template)
  ids = models.TOKENIZER.encode(said, follows='text')
  assert writer.answer(ids) == answer


def test_candidates_end_where_one_begins_another(writer, task):
  encoded = writer.candidates(task.queries[0])
  stop = models.TOKENIZER.stop_id
  assert all(ids[-1] == stop for ids in encoded)  # 'wren', 'wren tit'
  apart = dataclasses.replace(task.queries[0], candidates=('wren', 'robin'))
  assert all(ids[-1] != stop for ids in writer.candidates(apart))


def test_a_prompt_of_nothing_begins_as_behind_a_document(pictures, task):
  class Bare:
    """A tokenizer without BOS."""
    def __getattr__(self, name):
      return getattr(models.TOKENIZER, name)
    bos_id = None

  writer = Writer(
      TEMPLATES['flamingo']['class'], Bare(), pictures, max_length=99)
  prompt = writer.write(
      Asked(Choice(items=()), task.queries[0]), room=1, blind=True)
  assert isinstance(prompt.example, Example)
  assert prompt.example.tokens.tolist() == [models.TOKENIZER.eos_id]


# Pictures.


def test_an_image_is_encoded_once_in_the_life_of_a_cache(
    loaded, root, task, tmp_path, monkeypatch):
  encoded = []
  make = lambda params: harness.Pictures(
      loaded.model, params, Preprocess(models.SIZE, 'squash'), root,
      task.hashes, tmp_path)
  read = harness.Pictures._strip
  monkeypatch.setattr(
      harness.Pictures, '_strip',
      lambda self, item: encoded.append(item) or read(self, item))
  first = make(loaded.params)
  for _ in range(2):
    first.fill((*task.queries, *task.support))
  different = len(set(task.hashes.values())) + 1  # and the blank one
  assert len(encoded) == different == 14
  again = make(loaded.params)
  again.fill((*task.queries, *task.support))
  assert len(encoded) == different
  rows = [first.row(item) for item in task.queries]
  assert rows == [again.row(item) for item in task.queries]
  np.testing.assert_array_equal(first.latents(rows), again.latents(rows))
  resampler = dict(loaded.params['resampler'])
  resampler['latent'] = resampler['latent'] + 1
  make({**loaded.params, 'resampler': resampler}).fill(task.queries[:1])
  assert len(encoded) == different + 2  # another resampler, another cache


@pytest.fixture(scope='module')
def see(loaded, quick_jit):
  """Pixels [T H W 3] of an image to its latents, by the model itself."""
  run = quick_jit(lambda pixels: loaded.model.apply(
      {'params': loaded.params}, pixels[None, None], method='see')[0])
  return lambda pixels: np.asarray(run(pixels))


def test_latents_are_the_models_own(see, pictures, task, root):
  item = task.queries[3]
  pixels = Preprocess(models.SIZE, 'squash')(
      *benchmarks.read_images(root, item))
  np.testing.assert_allclose(
      pictures.latents([pictures.row(item)]), see(pixels[None]), atol=1e-5)


def test_a_clip_is_seen_frame_by_frame(see, pictures, task, root):
  paths = tuple(item.image[0] for item in task.queries[:3])
  clip = dataclasses.replace(task.queries[0], image=paths)
  pictures.fill([clip])
  prepare = Preprocess(models.SIZE, 'squash')
  frames = np.stack(list(map(prepare, benchmarks.read_images(root, clip))))
  np.testing.assert_allclose(
      pictures.latents([pictures.row(clip)]), see(frames), atol=1e-5)


def test_the_blank_picture_is_grey(see, pictures, task):
  nothing = dataclasses.replace(task.queries[0], image=())
  grey = blank(models.SIZE)
  np.testing.assert_allclose(
      pictures.latents([pictures.row(nothing)]), see(grey[None]), atol=1e-5)
