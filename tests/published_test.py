"""Figures of papers stand here as they were printed."""

import collections

from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import published_tables
from flamingo.eval.benchmarks.published import FIGURES, markdown, published
import pytest


def _printed(model, task, shots, choice='random', note=''):
  (figure,) = [
      f for f in published(task, shots=shots, choice=choice)
      if (f.model, f.note) == (model, note)]
  return round(100 * figure.value, 2)


# Read off the papers' tables by hand: corners, and a cell inside each.
@pytest.mark.parametrize('value, cell', [
    (41.2, ('Flamingo-3B', 'okvqa', 0)),
    (58.4, ('Flamingo-3B', 'rareact', 0)),
    (54.7, ('Flamingo-3B', 'hateful_memes', 8)),
    (28.8, ('Flamingo-9B', 'vizwiz', 0)),
    (106.3, ('Flamingo-9B', 'coco', 32)),
    (51.3, ('Flamingo-9B', 'visdial', 16)),
    (113.8, ('Flamingo-80B', 'coco', 32)),
    (37.9, ('Flamingo-80B', 'textvqa', 32)),
    (84.2, ('Flamingo-80B', 'youcook2', 16)),
    (32.9, ('Flamingo-80B', 'nextqa', 16)),
    (42.4, ('Flamingo-80B', 'star', 4)),
    (74.9, ('OpenFlamingo-3B', 'coco', 0)),
    (47.8, ('OpenFlamingo-3B (I)', 'hateful_memes', 32)),
    (14.1, ('OpenFlamingo-4B', 'textvqa', 32)),
    (59.0, ('OpenFlamingo-4B (I)', 'flickr30k', 8)),
    (42.5, ('OpenFlamingo-9B', 'vizwiz', 16)),
    (17.93, ('OpenFlamingo-4B', 'textvqa', 32, 'rices_image')),
    (73.6, ('OpenFlamingo-9B', 'hateful_memes', 32, 'rices_image')),
    (38.3, ('OpenFlamingo-9B', 'okvqa', 0, 'rices_image')),
    (46.0, ('IDEFICS-9B', 'coco', 0)),
    (47.6, ('IDEFICS-9B', 'visdial', 8)),
    (52.5, ('IDEFICS-80B', 'hateful_memes', 32)),
    (65.9, ('IDEFICS-80B', 'vqav2', 32)),
    (66.4, ('Flamingo-80B', 'imagenet', 16)),
    (60.9, ('Flamingo-9B', 'kinetics700', 16, 'rices_image',
            'from 5 a class')),
    (77.3, ('Flamingo-80B', 'imagenet', 16, 'rices_image',
            'from 5 a class in 6 orders')),
    (118.6, ('Flamingo-80B', 'youcook2', None)),
    (90.9, ('best before Flamingo', 'imagenet', None)),
])
def test_a_cell_is_as_printed(value, cell):
  assert _printed(*cell) == value


def test_there_are_as_many_figures_as_cells_in_the_papers():
  few = [f for f in FIGURES if f.shots is not None and not f.note]
  of = collections.Counter((f.model, f.choice) for f in few)
  # 16 benchmarks x 5, less VisDial at 32 and RareAct with demonstrations.
  assert {of[f'Flamingo-{size}', 'random'] for size in ('3B', '9B')} == {75}
  assert of['Flamingo-80B', 'random'] == 75 + 2  # and two of classes
  for name in ('3B', '3B (I)', '4B', '4B (I)', '9B'):
    for choice in ('random', 'rices_image'):
      assert of[f'OpenFlamingo-{name}', choice] == 7 * 5
  # VisDial stops at 8 shots.
  assert of['IDEFICS-9B', 'random'] == of['IDEFICS-80B', 'random'] == 38


def test_the_readme_of_openflamingo_says_the_same_of_four_shots():
  names = ('3B', '3B (I)', '4B', '4B (I)', '9B')
  for task, values in (
      ('coco', (77.3, 82.7, 81.8, 85.8, 89.0)),
      ('vqav2', (45.8, 45.7, 49.0, 49.0, 54.8))):
    assert values == tuple(
        _printed(f'OpenFlamingo-{name}', task, 4) for name in names)


# The one average that the paper prints: its ablations' mean of scores over the
# best fine-tuned ones.
@pytest.mark.parametrize('overall, scores', [
    (70.7, (86.5, 42.1, 55.8, 36.3, 53.4)),  # as it is
    (53.4, (54.1, 36.5, 52.7, 31.4, 23.5)),  # without M3W
    (62.7, (81.2, 33.7, 47.4, 31.0, 53.9)),  # the language model unfrozen
])
def test_the_papers_averages_come_out_of_the_best_fine_tuned_scores(
    overall, scores):
  tasks = ('coco', 'okvqa', 'vqav2', 'msvdqa', 'vatex')
  shares = [
      score / _printed('best before Flamingo', task, None)
      for task, score in zip(tasks, scores)]
  # All that goes in is rounded to 0.1, and so is what comes out.
  assert 100 * sum(shares) / len(shares) == pytest.approx(overall, abs=0.15)


def test_larger_models_are_better_at_sixteen_shots_of_questions():
  for task in ('okvqa', 'vqav2', 'msvdqa', 'msrvttqa', 'ivqa', 'nextqa'):
    values = [
        _printed(f'Flamingo-{size}', task, 16) for size in ('3B', '9B', '80B')]
    assert values == sorted(values)


def test_every_figure_is_of_a_benchmark_and_a_number_of_shots_of_ours():
  for figure in FIGURES:
    row = benchmarks.benchmark(figure.task)
    assert figure.shots is None or figure.shots in row.shots
    assert figure.choice in ('random', 'rices_image')


def test_no_cell_stands_twice():
  cells = collections.Counter(
      (f.model, f.task, f.shots, f.choice, f.note) for f in FIGURES)
  assert set(cells.values()) == {1}


def test_what_no_paper_reports_has_no_figures():
  assert published('winoground', shots=0) == []
  assert published('coco', shots=5) == []
  assert published('coco', shots=4, choice='rices_text') == []


def test_a_line_with_a_figure_too_few_is_an_error():
  from flamingo.eval.benchmarks.published import _parse
  with pytest.raises(ValueError, match='expected 2 figures'):
    list(_parse('Flamingo-3B\n   coco okvqa\n  4 1.0\n', 'nowhere'))
  assert len(list(_parse(published_tables.IDEFICS, 'x'))) == 76


def test_a_table_has_a_row_a_benchmark_with_dashes_for_what_is_not_there():
  lines = markdown(['Flamingo-3B', 'IDEFICS-9B']).splitlines()
  assert len(lines) == 2 + 16
  (visdial,) = [line for line in lines if line.startswith('| visdial')]
  assert visdial == (
      '| visdial | 46.1 / 47.3 / 47.6 / 47.5 / – | 48.7 / 47.9 / 47.6 / – / – '
      '|')
