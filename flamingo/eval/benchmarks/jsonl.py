"""Your own task: a JSON object on each line, and a row that names the file."""

from collections.abc import Iterator
import pathlib
from typing import Any

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.files import Entry
from flamingo.eval.benchmarks.item import Benchmark, Item, Split

_KNOWN = (
    'id', 'image', 'answer', 'references', 'candidates', 'group',
    'demonstrations')


def read_jsonl(
    root: pathlib.Path, *, lines: str, images: str = ''
) -> Iterator[Item]:
  """Reads examples, an object on each line.

    {"image": "birds/1.jpg", "question": "which bird?", "answer": "a wren"}
    {"image": ["clips/7/1.png", "clips/7/2.png"], "answer": "a wren sings"}

  Fields: `image`, a path or several of a clip;
  `answer`, as demonstrations write it. If there is more to say: `id`, else the
  number of the line; `references`, all right answers, else the one;
  `candidates`, answers to rank; `group`; `demonstrations`, examples like this
  one that alone may demonstrate for it. All others are text for templates.

  Args:
    root: data root.
    lines: path of the file.
    images: folder that paths of images are relative to; if empty the data root.

  Raises:
    ValueError: a field is missing or of another kind; names the line.
  """
  for entry in files.read_lines(root / lines):
    yield _item(
        entry, entry.where.rsplit(' ', 1)[1], f'{images}/' if images else '')


def _item(
    entry: Entry, name: str, folder: str, candidates: tuple[str, ...] = ()
) -> Item:
  """One example; what demonstrates for it has its candidates."""
  image = entry['image']
  if not isinstance(image, str | list):
    raise ValueError(
        f"{entry.where}: expected a path in the field 'image', or a list of "
        f'paths; came {image!r}. Put it in quotes.')
  image = (image,) if isinstance(image, str) else tuple(image)
  answer = entry['answer']
  fields = {k: v for k, v in entry.items() if k not in _KNOWN}
  texts = {'answer': answer, 'group': entry.get('group', ''), **fields}
  texts.update({f'image {i}': path for i, path in enumerate(image)})
  for field, value in texts.items():
    if not isinstance(value, str):
      raise ValueError(
          f'{entry.where}: expected text in {field!r}; came {value!r}. Put it '
          'in quotes.')
  if not image:
    raise ValueError(
        f"{entry.where}: expected a path in the field 'image'; came none. "
        'Name the picture, or leave the example out.')
  name = str(entry.get('id', name))
  candidates = _several(entry, 'candidates', candidates)
  if len(set(candidates)) < len(candidates):
    raise ValueError(
        f'{entry.where}: expected every candidate once; came '
        f'{list(candidates)}. Leave one of the two out.')
  shown = ()
  if 'demonstrations' in entry:
    shown = tuple(
        _item(one, f'{name}/{i}', folder, candidates)
        for i, one in enumerate(entry.entries('demonstrations')))
  return Item(
      id=name, image=tuple(folder + path for path in image), fields=fields,
      answer=answer, references=_several(entry, 'references', (answer,)),
      candidates=candidates, group=entry.get('group', ''),
      demonstrations=shown)


def own(
    name: str, *, query: str, support: str | None = None, template: str,
    metric: str, **more: Any,
) -> Benchmark:
  """A benchmark of your own.

    from flamingo.eval import benchmarks
    birds = benchmarks.own(
        'birds', query='birds/test.jsonl', support='birds/train.jsonl',
        template='qa', metric='top1')
    items = birds.items('data', 'query')

  Args:
    name: in results.
    query: path of the examples asked, relative to the data root, see
      `read_jsonl`.
    support: path of those that demonstrations come from.
    template: key of `templates.TEMPLATES`.
    metric: name of a score.
    **more: other attributes of `Benchmark`.
  """
  splits = {'query': Split(read_jsonl, {'lines': query})}
  if support is not None:
    splits['support'] = Split(read_jsonl, {'lines': support})
  return Benchmark(
      name=name, splits=splits, query='query',
      support='support' if support is not None else None, template=template,
      metric=metric, source=more.pop('source', 'It is your own.'), **more)


def _several(entry, name, default):
  values = entry.get(name, default)
  if isinstance(values, str):
    raise ValueError(
        f'{entry.where}: expected a list in {name!r}; came {values!r}. Put it '
        'in brackets.')
  return tuple(values)
