"""An example of a benchmark, and a benchmark: a row of data.

Readers turn a benchmark's own files into items; everything behind them knows
items alone. What differs between benchmarks stands in their rows, so no code
asks for a benchmark's name.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import pathlib

from flamingo.eval.benchmarks import files as files_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
  """One example of a benchmark, as its files have it.

  Attributes:
    id: unique within its split.
    image: paths relative to the data root; several are frames of a clip.
    fields: what templates name besides the answer: question, caption, text.
    answer: as a demonstration writes it: a caption, the answer most annotators
      gave, the name of the class. Empty where a server holds the answers.
    references: what the metric compares with: all captions; all annotators'
      answers; the right candidate; for 'ndcg' the relevance of each candidate;
      for 'mwap' the class and the kind of annotation; for 'roc_auc' 0 or 1.
    candidates: answers to rank; none if answers are open.
    turns: questions and answers of a dialogue before the question asked.
    group: what examples have in common that are scored together (the two
      images of a Winoground pair) or reported apart (kinds of question).
    box: x, y, width and height in pixels of the part of the image that is
      shown; all of it where None.
    demonstrations: what alone may demonstrate for it, where its answers mean
      nothing elsewhere, as names made up for an episode; else the support may.
  """

  id: str
  image: tuple[str, ...]
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  answer: str
  references: tuple
  candidates: tuple[str, ...] = ()
  turns: tuple[tuple[str, str], ...] = ()
  group: str = ''
  box: tuple[int, int, int, int] | None = None
  # Not in `repr`, which tells what is asked: see `Task.queries_digest`.
  demonstrations: tuple['Item', ...] = dataclasses.field(
      default=(), repr=False)


@dataclasses.dataclass(frozen=True)
class Split:
  """A part of a benchmark, and the official files it is read from.

  Attributes:
    read: called with the data root, and `files` by name; gives items.
    files: paths relative to the data root by the names of `read`'s arguments.
      With braces in it a path is a pattern: the folder before them has images.
    answered: whether the answers are public. Without, predictions are written
      for the benchmark's server.
  """

  read: Callable[..., Iterable[Item]]
  files: Mapping[str, str]
  answered: bool = True

  def paths(self) -> list[str]:
    """Files and folders that must be there, relative to the data root."""
    return [files_lib.folder_of(path) for path in self.files.values()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """A benchmark: its files, its splits, how it is asked and scored.

  Attributes:
    name: on the command line and in results.
    splits: by their official names.
    query: split that the paper reports.
    support: split that demonstrations come from; None if there is none.
    public: split to use where the answers of `query` are on a server; None
      where they are not.
    development: whether the paper chose its design on it (DEV), so that its
      training split is divided in three: see `splits.subsets`.
    validation: examples of the validation queries, at most.
    pool: examples to choose demonstrations from, at most.
    by_class: whether `validation` and `pool` count examples of each class.
    template: key of `templates.TEMPLATES`.
    metric: name of its score.
    open_ended: whether the answer is generated; else candidates are ranked.
    max_tokens: where to stop an open answer.
    shots: numbers of demonstrations that the paper reports.
    rounds: whether a shot is a round, one demonstration of each answer: k shots
      among n answers are k * n demonstrations, as few-shot learners count.
    source: where to get the files, and on which terms.
  """

  name: str
  splits: Mapping[str, Split]
  query: str
  support: str | None = None
  public: str | None = None
  development: bool = False
  validation: int = 1024
  pool: int = 2048
  by_class: bool = False
  template: str
  metric: str
  open_ended: bool = True
  max_tokens: int = 20
  shots: tuple[int, ...] = (0, 4, 8, 16, 32)
  rounds: bool = False
  source: str

  def __post_init__(self):
    for role in ('query', 'support', 'public'):
      name = getattr(self, role)
      if name is not None and name not in self.splits:
        raise ValueError(
            f'{self.name}: expected {role} among the splits '
            f'{sorted(self.splits)}; came {name!r}.')

  @property
  def texts_at_zero(self) -> int:
    """Demonstrations without their images that the paper's 0-shot has."""
    return 2 if self.open_ended else 0

  def items(self, root: str | pathlib.Path, split: str) -> list[Item]:
    """Reads a split, in the order of its files.

    Images are not opened: see `media.read_images`.

    Args:
      root: folder that holds the data of all benchmarks.
      split: a key of `self.splits`.

    Raises:
      ValueError: unknown split; a malformed file, with its line or entry; an
        id that comes twice; an example without an answer.
      FileNotFoundError: a file of annotations is missing; says how to get it.
    """
    root = pathlib.Path(root)
    if split not in self.splits:
      raise ValueError(
          f'{self.name} has the splits {sorted(self.splits)}; {split!r} came. '
          f'The paper asks {self.query!r}, with demonstrations from '
          f'{self.support!r}.')
    part = self.splits[split]
    missing = [
        path for path in part.files.values()
        if '{' not in path and not (root / path).exists()]
    if missing:
      raise FileNotFoundError(
          f'{self.name} ({split}) needs {missing} below {root.absolute()}. '
          f'How to get it: {self.source}')
    items = list(part.read(root, **part.files))
    self._check(items, split)
    return items

  def _check(self, items, split):
    where = f'{self.name} ({split})'
    if not items:
      raise ValueError(
          f'{where}: expected examples; {dict(self.splits[split].files)} have '
          'none. Fetch them again.')
    seen = set()
    for item in items:
      if item.id in seen:
        raise ValueError(
            f'{where}: expected every id once; {item.id!r} comes twice. Fetch '
            'the files again, or leave one of the two out.')
      seen.add(item.id)
      answers = [
          r for r in item.references if not isinstance(r, str) or r.strip()]
      if self.splits[split].answered and not (item.answer.strip() and answers):
        raise ValueError(
            f'{where}, example {item.id}: expected at least one answer; came '
            f'{item.references}. Fetch the files again, or leave it out.')
