"""Prompts as cards: their pictures and texts, what was said and what is so."""

from collections.abc import Sequence

from flamingo.eval.gallery import shares, thumbnail
from flamingo.eval.harness.shown import Part, Shown
from flamingo.eval.markup import figure, grid, join, Markup, tag

_LONG = 16  # characters that still fit under a picture


def show_prompts(
    shown: Sequence[Shown], *, task: str, metric: str, about: str
) -> Markup:
  """A card for each prompt, in the order given.

  Args:
    shown: prompts of one cell.
    task: its benchmark.
    metric: its main one.
    about: how the prompts were made.
  """
  return join([
      tag('h3', f'{task}, {about}'),
      grid((_card(one, metric) for one in shown), 'grid wide')])


def _card(one: Shown, metric: str) -> Markup:
  *demonstrations, query = one.parts
  about = [
      _verdict(one, metric),
      f' — right is “{"”, “".join(one.answers)}”']
  if one.said is not None:
    about.append(f'; the model says “{one.said}”')
  if one.earlier:
    about.append(f'; {one.earlier} more demonstrations come before these')
  if one.dropped:
    about.append(f'; {one.dropped} demonstrations did not fit')
  parts = [_part(part) for part in demonstrations] + [_part(query, asked=True)]
  body = [tag('div', *parts, class_='prompt')]
  if one.scores:
    body.append(_bars(one))
  return figure(f'Example {one.id}', join(about), *body)


def _verdict(one: Shown, metric: str) -> Markup:
  """In words: right, wrong, or how much."""
  text, class_ = f'{metric} {one.score:.2f}', 'open'
  if one.graded and one.score >= 1:
    text, class_ = '✓ right', 'right'
  elif one.graded and one.score <= 0:
    text, class_ = '✗ wrong', 'wrong'
  return tag('span', text, class_=f'verdict {class_}')


def _part(part: Part, asked: bool = False) -> Markup:
  pictures = [
      thumbnail(picture, part.text or 'asked about', 'jpeg')
      for picture in part.pictures]
  if part.absent:
    pictures = [tag('small', f'({part.absent})', class_='note')]
  class_ = 'shot query' if asked else 'shot'
  if len(part.text) > _LONG or part.absent:
    class_ += ' long'
  return tag(
      'div', *pictures,
      tag('span', part.text, tag('b', ' ?') if asked else None), class_=class_)


def _bars(one: Shown) -> Markup:
  """Shares of the probability among the candidates that are shown."""
  best = max(one.scores.values())
  bars = []
  for name, share in shares(one.scores).items():
    chosen, true = one.scores[name] == best, name in one.answers
    marks = ['model'] * chosen + ['right'] * true
    colored = ('right' if true else 'wrong') if chosen else None
    bars += [
        tag('span', name),
        tag('i', tag('span', style=f'width:{100 * share:.1f}%'), class_=colored,
            title=f'log-likelihood {one.scores[name]:.2f}'),
        tag('span', f'{100 * share:.0f} %',
            tag('b', ' ◂ ' + ', '.join(marks)) if marks else None)]
  return tag('div', *bars, class_='bars')
