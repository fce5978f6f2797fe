"""Episodes to train on: what is shown, and what may be learnt."""

import dataclasses

from flamingo.data import encode, episodes, sources
from flamingo.data.episodes import Episode, Picture
from flamingo.data.tokenizer import Tokenizer
from flamingo.types import Chunk
import numpy as np
import pytest
from toy_gallery import make_gallery, places_of, POOL


@pytest.fixture(scope='module')
def gallery():
  return make_gallery()


@pytest.fixture(scope='module')
def whose(gallery):
  return places_of(gallery)


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
