"""The table of metrics: how what was said to a task's queries is scored.

They are computed in `flamingo.eval.scores`; here queries and what was said
become their arguments.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import numpy as np

from flamingo.eval.benchmarks import Item
from flamingo.eval.scores import answers
from flamingo.eval.scores import captions
from flamingo.eval.scores import pairs
from flamingo.eval.scores import ranking
from flamingo.eval.scores import rareact
from flamingo.eval.scores import vqa
from flamingo.eval.scores import wordnet
from flamingo.eval.scores import wups
from flamingo.eval.scores.score import Score


@dataclasses.dataclass(frozen=True)
class Said:
  """What was said to a query: a text, or a score of each candidate."""

  text: str | None
  scores: Sequence[float] | None


Scores = dict[str, Score]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
  """How what was said is scored.

  Attributes:
    of: from queries and what was said to scores by name, the main one first.
    takes: 'text', 'scores' or either.
    alone: whether an example's score depends on no other example.
    resampled: whether intervals are those of the whole metric on resampled
      examples, as where examples have no score of their own.
    grouped: whether examples of one `group` are scored together.
  """

  of: Callable[[Sequence[Item], Sequence[Said]], Scores]
  takes: tuple[str, ...]
  alone: bool = True
  resampled: bool = False
  grouped: bool = False


def _texts(said):
  return [each.text for each in said]


def _scores(said):
  return [each.scores for each in said]


def _references(items):
  return [item.references for item in items]


def _places(items):
  return [item.candidates.index(item.answer) for item in items]


def _of_text(name: str, function: Callable) -> Metric:
  return Metric(
      of=lambda items, said: {name: function(_texts(said), _references(items))},
      takes=('text',))


def _of_ranks(name: str, function: Callable) -> Metric:
  return Metric(
      of=lambda items, said: {name: function(_scores(said), _places(items))},
      takes=('scores',))


def _top1(items, said):
  if said[0].scores is None:
    return {'top1': answers.exact_match(_texts(said), _references(items))}
  return {'top1': ranking.top_k(_scores(said), _places(items))}


def _captions(items, said):
  found = captions.caption_scores(_texts(said), _references(items))
  return {
      name.lower().replace('-', '_'): score for name, score in found.items()}


@functools.cache
def _wordnet():
  return wordnet.WordNet(wordnet.find_wordnet())


def _wups(items, said):
  # Kinds of question that only the same words answer: counting, yes or no.
  exact = [item.group in ('DC', 'DB') for item in items]
  return {'wups': wups.next_qa_wups(
      _texts(said), _references(items), wordnet=_wordnet(), exact=exact)}


def _ndcg(items, said):
  return {'ndcg': ranking.ndcg(_scores(said), _references(items))}


def _roc_auc(items, said):
  margins = [scores[1] - scores[0] for scores in _scores(said)]
  return {'roc_auc': ranking.roc_auc(
      margins, [item.references[0] for item in items])}


def _mwap(items, said):
  clips = [
      rareact.Clip(
          item.group, item.fields['verb'], item.fields['noun'],
          item.references[1]) for item in items]
  # A class without a clip has no name but its number, and no precision.
  actions = [('', str(i)) for i in range(len(items[0].candidates))]
  for item in items:
    actions[item.references[0]] = (item.fields['verb'], item.fields['noun'])
  return {'mwap': rareact.mwap(np.asarray(_scores(said)), clips, actions)}


def _winoground(items, said):
  # [example, caption, image]: the image of an item belongs to its answer.
  table: dict[str, np.ndarray] = {}
  for item, scores, image in zip(items, _scores(said), _places(items)):
    table.setdefault(item.group, np.full((2, 2), np.nan))[:, image] = scores
  found = pairs.winoground(np.stack(list(table.values())))
  return {
      f'winoground_{name}': getattr(found, name)
      for name in ('group', 'text', 'image')}


def _pope(items, said):
  yes = []
  for item, each in zip(items, said):
    if each.scores is None:
      yes.append(each.text)
    else:
      scores = dict(zip(item.candidates, each.scores))
      margin = scores['yes'] - scores['no']
      yes.append(0.5 + 0.5 * float(np.sign(margin)))
  found = pairs.pope(yes, [item.answer == 'yes' for item in items])
  whole = lambda value: Score(value, np.empty(0))
  return {
      'pope_accuracy': found.accuracy, 'pope_f1': whole(found.f1),
      'pope_precision': whole(found.precision),
      'pope_recall': whole(found.recall),
      'pope_yes_ratio': whole(found.yes_ratio)}


METRICS: dict[str, Metric] = {
    'top1': Metric(of=_top1, takes=('text', 'scores')),
    'mean_top1_top5': _of_ranks(
        'mean_top1_top5', ranking.mean_of_top_1_and_top_5),
    'vqa_accuracy': _of_text('vqa_accuracy', vqa.vqa_accuracy),
    'ivqa_accuracy': _of_text('ivqa_accuracy', answers.ivqa_accuracy),
    'wups': Metric(of=_wups, takes=('text',)),
    'cider': Metric(of=_captions, takes=('text',), alone=False),
    'ndcg': Metric(of=_ndcg, takes=('scores',)),
    'roc_auc': Metric(
        of=_roc_auc, takes=('scores',), alone=False, resampled=True),
    'mwap': Metric(of=_mwap, takes=('scores',), alone=False),
    'winoground': Metric(
        of=_winoground, takes=('scores',), alone=False, grouped=True),
    'pope': Metric(of=_pope, takes=('text', 'scores'), resampled=True),
}
