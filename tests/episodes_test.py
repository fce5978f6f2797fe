"""Trials: what only their numbers decide."""

import collections

from flamingo.data.easy_vqa import Question
from flamingo.eval.tasks import CaptionTask, EpisodeTask, QuestionTask
import pytest
from toy_gallery import make_gallery, places_of, POOL


@pytest.fixture(scope='module')
def gallery():
  return make_gallery()


@pytest.fixture(scope='module')
def whose(gallery):
  return places_of(gallery)


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
