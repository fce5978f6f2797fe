"""Episodes: what may be learnt, and trials that only their numbers decide."""

import collections
import dataclasses

from flamingo.data import encode, episodes, sources
from flamingo.data.easy_vqa import Question
from flamingo.data.episodes import Episode, Gallery, Picture
from flamingo.data.openmoji import Emoji
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.tasks import CaptionTask, EpisodeTask, QuestionTask
from flamingo.types import Chunk
import numpy as np
import pytest

POOL = ('dax', 'wug', 'blick', 'toma', 'fep', 'zup', 'kiki')
VIEWS = 4


def make_gallery(views=VIEWS, neighbours=None) -> Gallery:
  """Six subgroups of seven emoji; the last is of symbols, all of one line art.

  Rows of the store are numbered in an order that says nothing.
  """
  emoji = []
  for g in range(6):
    for i in range(7):
      name = f'{"abcdef"[g]}{i}'
      emoji.append(Emoji(
          hexcode=name, name=f'emoji {name}', subgroup=f'subgroup {g}',
          group='Symbols' if g == 5 else 'Objects', colour=name.encode(),
          line=b'heart' if g == 5 else name.encode()))
  size = len(emoji) * 2 * views
  rows = np.random.default_rng(5).permutation(size)
  return Gallery(emoji, rows.reshape(-1, 2, views), neighbours)


@pytest.fixture(scope='module')
def gallery():
  return make_gallery()


@pytest.fixture(scope='module')
def whose(gallery):
  """Maps a row of the store to its emoji, style and view."""
  return {int(row): place for place, row in np.ndenumerate(gallery.rows)}


TASKS = {
    'binding': {},
    'subgroup': dict(alike=True),
    'category': dict(category=True)}


@pytest.fixture(params=TASKS)
def task(request, gallery):
  return EpisodeTask(
      name=request.param, gallery=gallery, names={'single': POOL},
      **TASKS[request.param])


def draw(task, *, seed=3, n=12, ways=3, shots=2, style='same'):
  return task.trials(seed=seed, n=n, ways=ways, shots=shots, style=style)


# Trials.


@pytest.mark.parametrize('style', ['same', 'colour_to_line'])
def test_fewer_shots_are_the_beginning_of_more_and_ask_the_same(task, style):
  ways = 3
  for k in 0, 1, 2, 4, 8:
    few = draw(task, ways=ways, shots=k, style=style)
    many = draw(task, ways=ways, shots=2 * k, style=style)
    for one, other in zip(few, many, strict=True):
      assert len(one.support) == k * ways
      assert len(other.support) == 2 * k * ways
      assert other.support[: k * ways] == one.support
      assert other.query == one.query
      assert other.candidates == one.candidates


def test_every_round_shows_every_class_once(task):
  for trial in draw(task, ways=4, shots=3):
    for start in 0, 4, 8:
      shown = [shot.answer for shot in trial.support[start : start + 4]]
      assert sorted(shown) == sorted(trial.candidates)


def test_a_query_is_any_class_and_stands_anywhere_in_the_rounds(task):
  asked, first = collections.Counter(), collections.Counter()
  for trial in draw(task, n=300, shots=1):
    asked[trial.candidates.index(trial.query.answer)] += 1
    first[[shot.answer for shot in trial.support].index(
        trial.query.answer)] += 1
  for counts in asked, first:
    assert min(counts[i] for i in range(3)) > 60  # 100 expected, 8 a deviation


@pytest.mark.parametrize('style', ['same', 'colour_to_line'])
def test_the_querys_picture_is_never_among_its_demonstrations(task, style):
  # 8 shots are more than there are views of an emoji, or emoji of a subgroup.
  for trial in draw(task, n=40, shots=8, style=style):
    assert trial.query.image not in {shot.image for shot in trial.support}


def test_classes_of_a_binding_trial_are_single_emoji(gallery, whose):
  task = EpisodeTask(name='t', gallery=gallery, names={'single': POOL})
  for trial in draw(task, n=40, shots=2):
    shown = collections.defaultdict(list)
    for shot in (*trial.support, trial.query):
      shown[shot.answer].append(whose[shot.image])
    for places in shown.values():
      assert len({emoji for emoji, _, _ in places}) == 1
      assert len({view for _, _, view in places}) == len(places)


def test_alike_classes_come_out_of_one_subgroup(gallery, whose):
  task = EpisodeTask(
      name='t', gallery=gallery, names={'single': POOL}, alike=True)
  for trial in draw(task, n=40):
    assert len({
        gallery.emoji[whose[shot.image][0]].subgroup
        for shot in trial.support}) == 1


def test_pictures_of_a_category_are_different_emoji_of_one_subgroup(
    gallery, whose
):
  task = EpisodeTask(
      name='t', gallery=gallery, names={'single': POOL}, category=True)
  for trial in draw(task, n=40, shots=6):
    shown = collections.defaultdict(list)
    for shot in (*trial.support, trial.query):
      shown[shot.answer].append(whose[shot.image][0])
    subgroups = []
    for emoji in shown.values():
      assert len(set(emoji)) == len(emoji)
      kinds = {gallery.emoji[e].subgroup for e in emoji}
      assert len(kinds) == 1
      subgroups += kinds
      assert gallery.emoji[emoji[0]].group != 'Symbols'
    assert len(set(subgroups)) == 3


def test_the_querys_emoji_does_not_come_again_in_its_category(gallery, whose):
  task = EpisodeTask(
      name='t', gallery=gallery, names={'single': POOL}, category=True)
  for trial in draw(task, n=40, shots=8):
    shown = {whose[shot.image][0] for shot in trial.support}
    assert whose[trial.query.image][0] not in shown


def test_no_two_classes_have_one_line_art(gallery, whose):
  task = EpisodeTask(name='t', gallery=gallery, names={'single': POOL})
  for trial in draw(task, n=100, ways=7, shots=1):
    lines = [gallery.emoji[whose[s.image][0]].line for s in trial.support]
    assert len(set(lines)) == 7


def test_more_classes_than_a_subgroup_has_are_refused(gallery):
  task = EpisodeTask(
      name='t', gallery=gallery, names={'single': POOL * 2}, alike=True)
  with pytest.raises(ValueError, match='No subgroup has 8 emoji'):
    draw(task, ways=8)


def test_only_the_query_is_line_art_and_only_if_asked(task, whose):
  for style, expected in ('same', 0), ('colour_to_line', 1):
    for trial in draw(task, style=style):
      assert whose[trial.query.image][1] == expected
      assert {whose[shot.image][1] for shot in trial.support} == {0}


def test_a_trial_is_a_function_of_seed_task_and_number(task, gallery):
  few, many = draw(task, n=3), draw(task, n=9)
  assert many[:3] == few and draw(task, n=3) == few
  assert [trial.id for trial in many] == list(range(9))
  assert len(set(many)) == 9
  assert draw(task, n=3, seed=4) != few
  renamed = EpisodeTask(
      name='another', gallery=gallery, names={'single': POOL},
      **TASKS[task.name])
  assert draw(renamed, n=3) != few


def test_names_of_a_trial_are_different_and_of_the_pool_asked_for(gallery):
  task = EpisodeTask(
      name='t', gallery=gallery, names={'single': POOL, 'multi': POOL[:3]})
  for trial in task.trials(
      seed=0, n=20, ways=3, shots=1, style='same', names='multi'):
    assert sorted(trial.candidates) == sorted(POOL[:3])


def test_an_unknown_style_is_refused(task):
  with pytest.raises(ValueError, match="'colour_to_line', but 'sketch' came"):
    draw(task, style='sketch')


def test_a_binding_task_needs_two_views_of_an_emoji():
  with pytest.raises(ValueError, match='at least 2 views.*1 came'):
    EpisodeTask(name='t', gallery=make_gallery(views=1), names={})


def test_captions_and_questions_do_not_depend_on_how_many_are_asked(gallery):
  asked = [Question(b'', i, f'what is {i}?', 'yes') for i in range(9)]
  tasks = (
      CaptionTask(name='captions', gallery=gallery),
      QuestionTask(
          name='q', questions=asked, rows=range(20, 29), answers=('yes', 'no')))
  for task in tasks:
    many = task.trials(seed=1, n=8)
    assert task.trials(seed=1, n=3) == many[:3]
    assert len({trial.query.image for trial in many}) == 8
    assert task.trials(seed=2, n=3) != many[:3]


def test_a_caption_asks_for_the_name_of_its_picture(gallery, whose):
  task = CaptionTask(name='captions', gallery=gallery)
  trials = task.trials(seed=0, n=5)
  for trial in trials:
    name = gallery.emoji[whose[trial.query.image][0]].name
    assert trial.candidates == (name,) and trial.query.answer == name
  others = task.with_images(trials, range(5))
  assert [t.query.image for t in others] == [0, 1, 2, 3, 4]
  assert [t.candidates for t in others] == [t.candidates for t in trials]


# Training documents.


def test_a_name_is_learnt_only_where_its_class_was_shown_before(gallery):
  tokenizer = Tokenizer.bytes()
  classes = (0, 1, 0, 0, 1)
  episode = Episode(
      ('ab', 'xy'), tuple(Picture(c, 0, 0) for c in classes), classes)
  for learn_end in True, False:
    example = encode.encode(
        episodes.to_document(
            episode, gallery.find(episode.pictures), learn_end=learn_end),
        tokenizer, max_images=5)
    learnt = []
    for image in range(1, 6):
      here = example.image_index == image
      tokens = example.tokens[here & example.learn].tolist()
      learnt.append(tokenizer.decode(tokens))
    end = '<EOC>' if learn_end else ''
    assert learnt == ['', '', f' ab{end}', f' ab{end}', f' xy{end}']


def test_the_document_is_a_tag_a_name_and_an_end_for_each_picture(gallery):
  tokenizer = Tokenizer.bytes()
  episode = Episode(
      ('ab', 'xy'), (Picture(3, 0, 1), Picture(4, 1, 2)), (0, 1))
  example = encode.encode(
      episodes.to_document(episode, gallery.find(episode.pictures)), tokenizer,
      max_images=2)
  assert tokenizer.decode(example.tokens) == (
      '<bos><image> ab<EOC><image> xy<EOC>')
  np.testing.assert_array_equal(
      example.images, [gallery.rows[3, 0, 1], gallery.rows[4, 1, 2]])


@pytest.fixture(params=['emoji', 'subgroup', 'lookalikes'])
def source(request):
  rng = np.random.default_rng(0)
  neighbours = episodes.find_neighbours(rng.normal(size=(42, 9)), k=12)
  return sources.Episodes(
      gallery=make_gallery(neighbours=neighbours), images=11,
      kind=request.param,
      names={'single': POOL[:6], 'multi': [n + n for n in POOL]})


def test_a_source_draws_from_its_stream_of_chance_alone(source):
  once, again, other = (source(np.random.default_rng(s)) for s in (1, 1, 2))
  assert once == again and once != other


def test_every_kind_of_episode_learns_as_many_names_as_it_repeats(source):
  for seed in range(30):
    document = source(np.random.default_rng(seed))
    shown = [chunk for chunk in document if chunk.image is not None]
    assert len(shown) == 11
    seen = set()
    for chunk in shown:
      assert chunk.learn == (chunk.text in seen)
      seen.add(chunk.text)
    assert 1 <= len(seen) <= 5


def test_what_was_shown_first_of_a_class_never_comes_again(source, whose):
  for seed in range(30):
    first = {}
    for chunk in source(np.random.default_rng(seed)):
      if chunk.image is not None:
        place = whose[int(chunk.image)]
        assert first.setdefault(chunk.text, place) != place or not chunk.learn


def test_pictures_of_a_mixed_class_have_one_partner_and_one_share_of_it(
    source, whose
):
  source = dataclasses.replace(source, mix=1.0)
  for seed in range(30):
    shares, partners = {}, {}
    for chunk in source(np.random.default_rng(seed)):
      if chunk.image is None:
        continue
      own, other = (whose[int(row)] for row in chunk.image['rows'])
      weights = tuple(chunk.image['weights'])
      assert own[1] == other[1]  # the style
      assert sum(weights) == pytest.approx(1)
      assert 0.3 <= weights[1] <= 0.7
      shares.setdefault(chunk.text, set()).add(weights)
      partners.setdefault(chunk.text, set()).add(other[0])
    assert all(len(weights) == 1 for weights in shares.values())
    assert len({w for weights in shares.values() for w in weights}) > 1 or (
        len(shares) == 1)
    if source.kind == 'emoji':
      assert all(len(emoji) == 1 for emoji in partners.values())


def test_jitter_adds_what_two_views_of_one_emoji_differ_in(source, whose):
  plain = [c.image for c in source(np.random.default_rng(3))
           if c.image is not None]
  source = dataclasses.replace(source, jitter=0.8)
  shaken = [c.image for c in source(np.random.default_rng(3))
            if c.image is not None]
  strangers = set()
  for before, after in zip(plain, shaken, strict=True):
    own, one, other = after['rows']
    assert own == before
    np.testing.assert_allclose(after['weights'], [1, 0.8, -0.8])
    assert whose[int(one)][:2] == whose[int(other)][:2] and one != other
    assert whose[int(one)][1] == whose[int(own)][1]  # the style
    strangers.add(whose[int(one)][0])
  assert len(strangers) > 5


def test_where_there_is_one_view_jitter_adds_nothing():
  source = sources.Episodes(
      gallery=make_gallery(views=1), images=5, names={'single': POOL},
      multi=0.0, jitter=1.0)
  for chunk in source(np.random.default_rng(0)):
    if chunk.image is not None:
      _, one, other = chunk.image['rows']
      assert one == other


def test_a_mixed_class_may_be_shaken_and_still_says_its_share(source):
  source = dataclasses.replace(source, mix=1.0, jitter=0.5)
  for chunk in source(np.random.default_rng(1)):
    if chunk.image is not None:
      own, partner, one, other = chunk.image['weights']
      assert own + partner == pytest.approx(1)
      assert (one, other) == (0.5, -0.5)


def test_lookalikes_are_a_seed_and_what_is_nearer_to_it_than_to_the_others():
  features = np.repeat(np.eye(6), 7, axis=0)  # six heaps of seven
  features += 0.01 * np.random.default_rng(0).normal(size=features.shape)
  neighbours = episodes.find_neighbours(features, k=10)
  np.testing.assert_array_equal(neighbours[:, 0], np.arange(42))
  np.testing.assert_array_equal(
      neighbours[:, :7] // 7, np.repeat(np.arange(42) // 7, 7).reshape(42, 7))
  for seed in range(50):
    members = episodes.draw_lookalikes(
        np.random.default_rng(seed), neighbours, 3)
    everyone = sum(members, [])
    assert len(set(everyone)) == len(everyone)
    assert all(members)


def test_a_class_of_one_view_shows_it_again_and_again():
  """For training alone; a task refuses such a gallery."""
  pictures = episodes.draw_pictures(
      np.random.default_rng(0), [[5]], [0, 0, 0], [0, 1, 0], views=1)
  assert pictures == (Picture(5, 0, 0), Picture(5, 1, 0), Picture(5, 0, 0))


def test_an_unknown_kind_of_episode_is_refused(gallery):
  with pytest.raises(ValueError, match="'lookalikes', but 'hearts' came"):
    sources.Episodes(gallery=gallery, names={}, images=3, kind='hearts')


@pytest.mark.parametrize('option', ['alike', 'multi', 'learn_end', 'mix'])
def test_what_is_no_probability_is_refused(gallery, option):
  for value in 1.5, -0.1:
    with pytest.raises(ValueError, match=f'{option} is a prob.*but {value}'):
      sources.Episodes(gallery=gallery, names={}, images=3, **{option: value})


def test_styles_are_mixed_more_often_than_not():
  drawn = [sources._styles(np.random.default_rng(s), 11) for s in range(200)]
  one_style = sum(len(set(styles)) == 1 for styles in drawn)
  changes = [int(np.count_nonzero(np.diff(styles))) for styles in drawn]
  assert 30 < one_style < 70  # of 200: a quarter
  assert 30 < changes.count(1) < 80  # one and then the other
  assert {styles[0] for styles in drawn} == {0, 1}


def test_one_of_several_sources_draws_each_document():
  document = lambda text: lambda rng: [Chunk(text=f'{text}{rng.integers(9)}')]
  source = sources.OneOf(sources=(document('a'), document('b')))
  texts = [source(np.random.default_rng(s))[0].text for s in range(100)]
  assert 30 < sum(text[0] == 'a' for text in texts) < 70
  assert texts == [
      source(np.random.default_rng(s))[0].text for s in range(100)]
  assert len(set(texts)) > 15  # and the stream of chance goes on


def test_fewer_names_than_classes_are_refused(gallery):
  with pytest.raises(ValueError, match="up to 5 .* there are 4 of kind 'mul"):
    sources.Episodes(
        gallery=gallery, images=3,
        names={'single': POOL[:5], 'multi': POOL[:4]})


def test_pages_name_their_pictures(gallery, whose):
  pages = sources.Pages(gallery=gallery, images=(2, 4))
  lengths = set()
  for seed in range(20):
    document = pages(np.random.default_rng(seed))
    lengths.add(len(document))
    for chunk in document:
      emoji = gallery.emoji[whose[int(chunk.image)][0]]
      assert chunk.text == f'Output: {emoji.name}' and chunk.learn
  assert lengths == {2, 3, 4}
