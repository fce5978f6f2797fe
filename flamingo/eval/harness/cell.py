"""One number of a result table: what is asked, of whom, and how."""

import dataclasses
import json

from flamingo.eval.benchmarks import Choice, Item


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """What names a number, and all that its predictions depend on.

  The model is not among it: that is the log's identity. Fields that do not
  apply are None.

  Attributes:
    task: name of the benchmark.
    split: official split that the queries are from.
    data: digest of queries and their images, and of the support's where it
      has a part in the number.
    missing: queries left out because an image of theirs is not there.
    template: whose way of writing prompts, a key of `TEMPLATES`.
    metric: of the benchmark.
    open_ended: whether the answer is generated; else candidates are ranked.
    shots: demonstrations with their images.
    rounds: whether it counts demonstrations of each answer: see `Benchmark`.
    texts: demonstrations without: the paper's 0-shot has two.
    choice: 'random', 'rices_image', 'rices_text' or 'rices_both'.
    similarity: what images are compared by, 'embed' or 'pooled', see
      `pictures.similarity_of`; None where none are.
    balanced: whether RICES takes the answers in turn.
    seed: of all that chance decides.
    control: what was changed, see `controls.CONTROLS`.
    baseline: 'majority', 'nearest_centroid' or 'text_only', see `baselines`.
    max_tokens: most tokens of a generated answer.
    beams: hypotheses; 1 is greedy.
    length_penalty: see `beam.Beam`.
    temperature: answers are drawn, see `sample.Sampling`; None where they are
      searched for.
    top_k: likewise.
    top_p: likewise.
    likelihood: 'sum' or 'mean' over a candidate's tokens.
    permutations: orders of the demonstrations that likelihoods are averaged
      over.
    calibrated: whether what a query without content gives is subtracted.
    max_length: most tokens of a prompt with its answer.
    frames: of a clip, at most.
  """

  task: str
  split: str
  data: str
  missing: int
  template: str
  metric: str
  open_ended: bool
  shots: int
  rounds: bool = False
  texts: int = 0
  choice: str = 'random'
  similarity: str | None = None
  balanced: bool = False
  seed: int = 0
  control: str | None = None
  baseline: str | None = None
  max_tokens: int | None = None
  beams: int | None = None
  length_penalty: float | None = None
  temperature: float | None = None
  top_k: int | None = None
  top_p: float | None = None
  likelihood: str | None = None
  permutations: int | None = None
  calibrated: bool | None = None
  max_length: int
  frames: int

  @property
  def key(self) -> str:
    """The fields as one line of text."""
    return json.dumps(dataclasses.asdict(self), sort_keys=True)

  @classmethod
  def parse(cls, key: str) -> 'Cell':
    """The cell of a key.

    Raises:
      ValueError: the key is of something else, or of another version.
    """
    try:
      return cls(**json.loads(key))
    except (TypeError, json.JSONDecodeError) as error:
      raise ValueError(
          f'Expected the name of a cell of this version; came {key!r}. The log '
          'was written by something else: evaluate into another folder.'
      ) from error

  @property
  def chance(self) -> str:
    """Names the stream of chance of its controls."""
    return f'{self.task} {self.control}'


@dataclasses.dataclass(frozen=True)
class Asked:
  """A query with its demonstrations, before they are written as a prompt."""

  choice: Choice
  query: Item
