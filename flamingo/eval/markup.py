"""HTML and SVG as nested calls: text is escaped unless it is markup already."""

from collections.abc import Iterable
import html

_VOID = ('img', 'meta')


class Markup(str):
  """Text that is HTML already. `tag` escapes all other text."""


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
  """An element.

  Args:
    name: of the element.
    *children: markup, or text and numbers, which are escaped; None is skipped.
    **attributes: `class_` is written `class`, `stroke_width` `stroke-width`;
      floats, which are coordinates, get two decimals; None is skipped.
  """
  opening = [name]
  for key, value in attributes.items():
    if value is not None:
      if isinstance(value, float):
        value = f'{value:.2f}'.rstrip('0').rstrip('.')
      key = key.rstrip('_').replace('_', '-')
      opening.append(f'{key}="{html.escape(str(value))}"')
  start = f'<{" ".join(opening)}>'
  if name in _VOID:
    return Markup(start)
  return Markup(f'{start}{join(children)}</{name}>')


def join(children: Iterable[object]) -> Markup:
  """Markup and escaped text behind each other; None is skipped."""
  return Markup(''.join(
      child if isinstance(child, Markup) else html.escape(str(child))
      for child in children if child is not None))


def page(title: str, *body: object) -> Markup:
  """A whole document that loads nothing."""
  head = tag(
      'head',
      tag('meta', charset='utf-8'),
      tag('meta', name='viewport', content='width=device-width'),
      tag('title', title),
      tag('style', Markup(_STYLE)))
  document = tag('html', head, tag('body', tag('main', *body)), lang='en')
  return Markup(f'<!doctype html>\n{document}\n')


def figure(title: str, about: str, *body: object) -> Markup:
  """A card: title, a line about it, and what it shows."""
  caption = tag('figcaption', tag('h3', title), tag('small', about))
  return tag('figure', caption, *body)


def grid(figures: Iterable[Markup], class_: str = 'grid') -> Markup:
  """Cards side by side, as many as there is room for."""
  return tag('div', *figures, class_=class_)


def missing(text: str) -> Markup:
  """Says what is not there."""
  return tag('p', text, class_='note')


_STYLE = """
:root {
  color-scheme: light;
  --ink: #1f2730; --soft: #5d6875; --line: #dfe3e8; --ground: #fbfaf8;
  --right: #22703f; --wrong: #a8322a;
  --serif: Charter, 'Bitstream Charter', 'Sitka Text', Cambria, Georgia, serif;
  --sans: system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue',
    'Liberation Sans', Arial, sans-serif;
}
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 var(--sans); -webkit-text-size-adjust: 100% }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem }
h1, h2, .lead p { font-family: var(--serif) }
h1 { font-size: clamp(1.7rem, 4.5vw, 2.5rem); line-height: 1.15;
  letter-spacing: -.01em; margin: 0 0 1rem; max-width: 26em }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 3.25rem 0 .35rem;
  padding-top: .9rem; border-top: 1px solid var(--line) }
h3 { font-size: .95rem; line-height: 1.35; margin: 0; font-weight: 600 }
p { margin: .35rem 0 .9rem; max-width: 44rem }
.lead p { font-size: 1.16rem; line-height: 1.55 }
.note, figcaption small, dt, th, .legend { color: var(--soft) }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1.25rem 0 0 }
a { color: #1d5b8f; text-underline-offset: .2em }
figure { margin: 0; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; padding: .9rem 1rem .8rem; min-width: 0;
  display: flex; flex-direction: column }
figcaption { margin-bottom: .5rem; line-height: 1.35 }
figcaption small { display: block; font-size: .82rem }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21.5rem), 1fr)) }
.wide { grid-template-columns:
  repeat(auto-fill, minmax(min(100%, 31rem), 1fr)) }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; font-size: .85rem;
  margin: 0 0 1rem; padding: 0; list-style: none }
.legend svg { width: 26px; height: 14px; vertical-align: -2px;
  margin-right: .35rem }
svg.chart { display: block; width: 100%; height: auto; overflow: visible;
  margin-top: auto }
svg text { font: 11px var(--sans); fill: var(--soft);
  font-variant-numeric: tabular-nums }
svg text.strong { fill: var(--ink); font-weight: 600 }
.scroll { overflow-x: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 8px }
table { border-collapse: collapse; width: 100%; font-size: .86rem;
  font-variant-numeric: tabular-nums }
th, td { padding: .32rem .6rem; text-align: left; white-space: nowrap }
th { font-weight: 600; border-bottom: 1px solid var(--line) }
tbody tr + tr td { border-top: 1px solid #eef0f3 }
.number { text-align: right }
td.text { white-space: normal; min-width: 11rem }
td.meter { width: 34%; min-width: 9rem }
summary { cursor: pointer; color: #1d5b8f; margin: .5rem 0 .8rem }
.verdict { font-weight: 650; white-space: nowrap }
.right, .met { color: var(--right) }
.wrong, .missed { color: var(--wrong) }
rect.met { fill: var(--right) } rect.missed { fill: var(--wrong) }
.open, .tied { color: var(--soft) }
.prompt { display: flex; flex-wrap: wrap; gap: .6rem; margin: .2rem 0 .8rem }
.shot { width: 76px; font-size: .8rem; line-height: 1.25; text-align: center;
  overflow-wrap: anywhere }
.shot img, .look img { display: block; width: 100%; border-radius: 5px;
  outline: 1px solid var(--line); outline-offset: -1px; margin-bottom: .25rem }
.long { width: 17rem; display: flex; gap: .6rem; text-align: left }
.long img { width: 76px; align-self: start }
.query img { outline: 2.5px solid var(--ink); outline-offset: 0 }
.query b { color: var(--ink) }
.bars { display: grid; gap: .3rem .6rem; align-items: center; margin: 0;
  grid-template-columns: minmax(3rem, max-content) 1fr max-content;
  font-size: .86rem; font-variant-numeric: tabular-nums }
.bars i { display: block; background: #eef0f3; border-radius: 3px }
.bars i span { display: block; height: .72rem; border-radius: 3px;
  background: #aab3bd; min-width: 1px }
.bars .right span { background: var(--right) }
.bars .wrong span { background: var(--wrong) }
.bars > span { overflow-wrap: anywhere }
.look { display: grid; gap: .7rem; margin-bottom: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(5.2rem, 1fr)) }
.look > div { font-size: .84rem; line-height: 1.3; overflow-wrap: anywhere }
.look small { color: var(--soft); display: block }
.ramp { display: inline-block; width: 90px; height: .7rem; border-radius: 3px;
  vertical-align: -1px; margin: 0 .4rem;
  background: linear-gradient(90deg, #f1f1ef, #c2410c) }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr;
  gap: .3rem 1.5rem; margin: .6rem 0; max-width: 60rem }
dd { margin: 0; overflow-wrap: anywhere }
pre { background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .9rem; overflow-x: auto; margin: .3rem 0 1.2rem;
  font: .84rem/1.5 ui-monospace, 'SF Mono', Menlo, Consolas, monospace }
@media (max-width: 34rem) {
  main { padding: 1.5rem .9rem 3rem }
  dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .6rem }
  figure { padding: .75rem .75rem .7rem }
  th, td { padding: .35rem .45rem } td.text { min-width: 6rem }
  table { font-size: .8rem } .verdict { white-space: normal }
  td.meter { display: none }
}
@media print { figure, tr { break-inside: avoid } body { background: #fff } }
"""
