"""What every report is made of: sections, tables, facts and commands."""

from collections.abc import Collection, Iterable, Mapping, Sequence
import os
import pathlib

from flamingo.eval.markup import join, Markup, page, tag


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Sequence[str],
    sections: Mapping[str, Markup],
) -> None:
  """Writes a page with a table of contents, whole or not at all.

  Args:
    path: of the HTML file.
    title: of the page.
    summary: paragraphs in front of all.
    sections: by their headings; empty ones are left out.
  """
  sections = {name: body for name, body in sections.items() if body}
  document = page(
      title,
      tag('h1', title),
      tag('div', *(tag('p', text) for text in summary), class_='lead'),
      tag('nav', *(tag('a', name, href=f'#{_anchor(name)}')
                   for name in sections)),
      *(tag('section', tag('h2', name), body, id=_anchor(name))
        for name, body in sections.items()))
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + '.partial')
  partial.write_text(document, encoding='utf-8')
  partial.replace(path)


def _anchor(name: str) -> str:
  return name.lower().replace(' ', '-')


def introduced(text: str, body: Markup) -> Markup:
  """A paragraph, and what it is about."""
  return join([tag('p', text), body])


def scrolling(
    names: Iterable[str], rows: Iterable[Markup], numbers: Collection[int]
) -> Markup:
  """A table that scrolls sideways where it is too wide.

  Args:
    names: of the columns.
    rows: elements 'tr'.
    numbers: columns that are aligned as numbers.
  """
  head = [tag('th', name, class_='number' if i in numbers else None)
          for i, name in enumerate(names)]
  return tag('div', tag(
      'table', tag('thead', tag('tr', *head)), tag('tbody', *rows)),
      class_='scroll')


def facts(pairs: Mapping[str, str]) -> Markup:
  """Names and what is to be said of each."""
  return tag('dl', *(
      tag(name, text) for pair in pairs.items()
      for name, text in zip(('dt', 'dd'), pair)))


def commands(lines: Sequence[tuple[str, str]]) -> Markup:
  """Commands, each with a sentence that says what it does."""
  return join(
      part for command, sentence in lines
      for part in (tag('p', sentence), tag('pre', command)))
