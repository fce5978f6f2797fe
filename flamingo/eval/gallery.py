"""Prompts with their pictures and answers, and where their words looked."""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import io
import math

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image

from flamingo.eval.markup import figure, grid, join, Markup, tag

# Where most attention is, RGB; as `.ramp` in the style sheet.
_HEAT = np.array([194, 65, 12], np.float32)
_LONG = 16  # characters that still fit under a picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exhibit:
  """A prompt with its pictures and what the model answered.

  Attributes:
    title: of the task.
    shots: demonstrations: picture, and the text behind it.
    query: the picture asked about.
    question: text behind it; it may be empty.
    answer: the truth.
    scores: log-likelihood of each candidate. The model's choice is the best.
  """

  title: str
  shots: Sequence[tuple[UInt8[np.ndarray, 'h w 3'], str]]
  query: UInt8[np.ndarray, 'h w 3']
  question: str
  answer: str
  scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
  """Where the words of a prompt looked in its picture.

  Attributes:
    picture: what they looked at.
    words: as many as maps.
    maps: weight of each place of a grid over the picture, not negative:
      attention mass, or what the word loses when the place is hidden.
  """

  picture: UInt8[np.ndarray, 'h w 3']
  words: Sequence[str]
  maps: Float[np.ndarray, 'words grid grid']

  def __post_init__(self):
    if len(self.words) != len(self.maps):
      raise ValueError(
          f'Expected a map for each word; {len(self.words)} words and '
          f'{len(self.maps)} maps came. Slice the maps to the words shown.')


def show_exhibits(exhibits: Sequence[Exhibit]) -> Markup:
  """A card for each prompt: pictures, question, candidates, verdict."""
  right = sum(_choice(exhibit)[1] == 'right' for exhibit in exhibits)
  return join([
      tag('p', f'{right} of these {len(exhibits)} are right; they are '
          'examples, not a measure. Pictures stand in the order of the prompt, '
          'each with the text behind it; the framed one is asked about. Bars '
          'are shares of the probability among the candidates.'),
      grid(map(_exhibit, exhibits), 'grid wide')])


def _exhibit(exhibit: Exhibit) -> Markup:
  chosen, verdict = _choice(exhibit)
  sign = {'right': '✓ right', 'wrong': '✗ wrong', 'tied': '≈ tied',
          'open': '○ no candidates'}[verdict]
  about = join([
      tag('span', sign, class_=f'verdict {verdict}'),
      f' — the truth is “{exhibit.answer}”'])
  shots = [_shot(picture, text) for picture, text in exhibit.shots]
  shots.append(_shot(exhibit.query, exhibit.question, asked=True))
  bars = []
  for name, share in shares(exhibit.scores).items():
    true = name == exhibit.answer
    marks = ['model'] * (name in chosen) + ['truth'] * true
    colored = ('right' if true else 'wrong') if name in chosen else None
    bars += [
        tag('span', name),
        tag('i', tag('span', style=f'width:{100 * share:.1f}%'), class_=colored,
            title=f'log-likelihood {exhibit.scores[name]:.2f}'),
        tag('span', f'{100 * share:.0f} %',
            tag('b', ' ◂ ' + ', '.join(marks)) if marks else None)]
  return figure(
      exhibit.title, about, tag('div', *shots, class_='prompt'),
      tag('div', *bars, class_='bars'))


def _shot(picture, text, asked=False):
  class_ = 'shot query' if asked else 'shot'
  if len(text) > _LONG:
    class_ += ' long'
  behind = tag('span', text, tag('b', ' ?') if asked else None)
  image = thumbnail(picture, text or 'asked about')
  return tag('div', image, behind, class_=class_)


def _choice(exhibit: Exhibit) -> tuple[list[str], str]:
  """The best candidates, and 'right', 'wrong', 'tied' or 'open'."""
  if not exhibit.scores:
    return [], 'open'
  best = max(exhibit.scores.values())
  chosen = [name for name, score in exhibit.scores.items() if score == best]
  if exhibit.answer not in chosen:
    return chosen, 'wrong'
  return chosen, 'right' if len(chosen) == 1 else 'tied'


def shares(scores: Mapping[str, float]) -> dict[str, float]:
  """Softmax: probabilities if one of the candidates is the answer."""
  best = max(scores.values(), default=0.0)
  parts = {name: math.exp(score - best) for name, score in scores.items()}
  return {name: part / sum(parts.values()) for name, part in parts.items()}


def show_looks(looks: Sequence[Look]) -> Markup:
  """The picture beside a heat map over it for each word."""
  return join([
      tag('p', 'The redder a place, the more of the word comes from it: the '
          'attention it gets, or what hiding it costs. One scale for all words '
          'of a picture, smoothed between places; the peak is the share of the '
          'strongest.'),
      grid(map(_look, looks))])


def _look(look: Look) -> Markup:
  most = float(look.maps.max(initial=0.0))
  views = [tag('div', thumbnail(look.picture, 'the picture'), 'the picture')]
  for word, mass in zip(look.words, look.maps):
    peak = float(mass.max() / (mass.sum() or 1.0))
    views.append(tag(
        'div',
        thumbnail(_overlay(look.picture, mass, most), f'{word}: heat map'),
        word, tag('small', f'peak {100 * peak:.0f} %')))
  _, high, wide = look.maps.shape
  scale = tag(
      'small', '0', tag('span', class_='ramp'), f'{most:.2g} a place. '
      f'Spread evenly over {high} × {wide}, a peak is '
      f'{100 / max(high * wide, 1):.1f} %.', class_='note')
  words = ' '.join(word.strip() for word in look.words)
  return figure(f'“{words}”', '', tag('div', *views, class_='look'), scale)


def _overlay(picture, mass, most):
  """The picture in pale grey, the warmer the more mass."""
  grey = Image.fromarray(picture).convert('L')
  ratio = 160 / max(grey.size)
  grey = grey.resize([max(round(ratio * side), 1) for side in grey.size])
  pale = 255 - 0.45 * (255 - np.asarray(grey, np.float32))[..., None]
  heat = Image.fromarray((mass / (most or 1.0)).clip(0, 1).astype(np.float32))
  heat = np.asarray(heat.resize(grey.size, Image.Resampling.BILINEAR))
  return (pale + 0.85 * heat[..., None] * (_HEAT - pale)).astype(np.uint8)


def thumbnail(
    picture: UInt8[np.ndarray, 'h w 3'], alt: str, kind: str = 'png'
) -> Markup:
  """A picture in the page, twice as fine as it is shown.

  Args:
    picture: of any size.
    alt: what it shows, for those who hear it.
    kind: 'png' for drawings, 'jpeg' for photographs.
  """
  image = Image.fromarray(picture)
  image.thumbnail((208, 208), Image.Resampling.LANCZOS)
  data = io.BytesIO()
  image.save(data, kind, optimize=True)
  code = base64.b64encode(data.getvalue()).decode()
  return tag('img', src=f'data:image/{kind};base64,{code}', alt=alt)
