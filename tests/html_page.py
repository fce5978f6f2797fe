"""Reads a page of HTML, for tests of reports."""

import html.parser

_UNCLOSED = ('meta', 'img')


class Page(html.parser.HTMLParser):
  """Text, attributes and tables of a page, all of whose elements are closed."""

  def __init__(self, source: str):
    super().__init__()
    self.source, self.elements, self._open, self._parts = source, [], [], []
    self._rows = []
    self.feed(source)
    assert not self._open, f'not closed: {self._open}'

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag == 'tr':
      self._rows.append([])
    if tag in ('td', 'th'):
      self._rows[-1].append('')
    if tag not in _UNCLOSED:
      self._open.append(tag)

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if 'style' in self._open:
      return
    self._parts.append(data)
    if {'td', 'th'} & set(self._open):
      self._rows[-1][-1] += data

  @property
  def attributes(self) -> list[tuple[str, str, str]]:
    return [
        (tag, name, value) for tag, attributes in self.elements
        for name, value in attributes.items()]

  @property
  def text(self) -> str:
    return ''.join(self._parts)

  def values(self, name: str) -> list[str]:
    """Values of all attributes of this name."""
    return [value for _, key, value in self.attributes if key == name]

  def rows(self) -> list[list[str]]:
    """Text of the cells of all tables, row by row."""
    return self._rows
