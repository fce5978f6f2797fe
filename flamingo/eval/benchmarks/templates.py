"""How an example is written in a prompt: the paper's way and its successors'.

A template is data. What a demonstration says up to its answer and what a query
says are one string, so they cannot differ, and a query never ends in a space.
"""

from collections.abc import Callable, Sequence
import dataclasses
import string

from flamingo.eval.benchmarks.item import Item
from flamingo.types import Chunk, Document


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
  """Text around an image, with the names of an item's fields in braces.

    instruction              Instruction: ...
    before, image, query     Image:<image>Question: which bird? Answer:
    answer, end              Image:<image>Question: which bird? Answer: a wren

  Attributes:
    query: behind the image; `{turns}` are the turns of a dialogue.
    answer: behind `query` in a demonstration and before each candidate, such
      as ' {answer}'.
    end: behind the answer of a demonstration, before the tag that ends it.
    between: behind that tag, before the next example.
    before: in front of each image.
    instruction: in front of all.
    turn: a question and an answer of a dialogue.
  """

  query: str
  answer: str = ' {answer}'
  end: str = ''
  between: str = ''
  before: str = ''
  instruction: str = ''
  turn: str = ''

  def __post_init__(self):
    if self.query != self.query.rstrip():
      raise ValueError(
          f'Expected a query that does not end in a space; came '
          f'{self.query!r}. Move the space to the front of `answer`.')
    if names(self.answer) != {'answer'}:
      raise ValueError(
          f"Expected '{{answer}}' in `answer`, and no other field; came "
          f'{self.answer!r}.')

  def fields(self) -> frozenset[str]:
    """Names of the fields that an item must have, `turns` left out."""
    return frozenset(names(self.query) - {'turns'})

  def question(self, item: Item) -> str:
    """What stands behind the image of an item that is asked.

    Raises:
      ValueError: the item lacks a field.
    """
    missing = self.fields() - item.fields.keys()
    if missing:
      raise ValueError(
          f'Example {item.id}: expected the fields {sorted(self.fields())}; '
          f'{sorted(missing)} are not among {sorted(item.fields)}. Add '
          'them, or choose a template for this kind of task.')
    turns = ''.join(
        self.turn.format(question=q, answer=a) for q, a in item.turns)
    return self.query.format(turns=turns, **item.fields)

  def completion(self, answer: str) -> str:
    """What a model writes for `answer`, and each candidate of a ranking."""
    return self.answer.format(answer=answer)

  def demonstration(self, item: Item) -> str:
    """What stands behind the image of an item that is shown with its answer."""
    return self.question(item) + self.completion(item.answer) + self.end


def names(template: str) -> set[str]:
  """Names in the braces of a format string."""
  return {
      name for _, name, _, _ in string.Formatter().parse(template)
      if name is not None}


def to_document(
    template: Template, demonstrations: Sequence[Item], query: Item, *,
    image: Callable[[Item], object], text_only: bool = False,
) -> Document:
  """A prompt: demonstrations with their answers, then the query, left open.

  Args:
    template: how examples are written.
    demonstrations: in the order shown.
    query: what is asked; its answer is nowhere in the prompt.
    image: the picture, or its row in a feature store, of an item.
    text_only: leave out the pictures of the demonstrations, and keep the text.

  Raises:
    ValueError: an item lacks a field of the template.
  """
  chunks, text = [], template.instruction
  for item in demonstrations:
    chunks += _unseen(text + template.before)
    chunks.append(Chunk(
        text=template.demonstration(item),
        image=None if text_only else image(item)))
    text = template.between
  chunks += _unseen(text + template.before)
  chunks.append(Chunk(
      text=template.question(query), image=image(query), close=False))
  return chunks


def _unseen(text):
  """Text before an image, which no tag ends."""
  return [Chunk(text=text, close=False)] if text else []


def _flamingo():
  # Source: Flamingo (arXiv:2204.14198), evaluation prompts.
  caption = Template(query='Output:')
  qa = Template(query='Question: {question} Answer:')
  return {
      'caption': caption,
      'match': caption,
      'qa': qa,
      'qa_or_unanswerable': qa,
      # The name of the class and nothing else, right behind the image.
      'class': Template(query='', answer='{answer}'),
      # A name made up for an episode, as a word behind the image.
      'name': Template(query='', answer=' {answer}'),
      'hateful_memes': Template(
          query='is an image with written: "{text}" on it. Is it hateful? '
          'Answer:'),
      # The caption bears no prefix; rounds are question and answer as in 'qa'.
      # What the paper writes between them it does not say: here, a space.
      'visdial': Template(
          query='{caption} {turns}Question: {question} Answer:',
          turn='Question: {question} Answer: {answer} '),
      'rareact': Template(query='Caption:'),
  }


def _openflamingo():
  # Source: open_flamingo, eval/models/open_flamingo.py at 655f693: no space
  # behind a colon, and a newline between captions and questions, though not
  # between classes.
  caption = Template(query='Output:', answer='{answer}', between='\n')
  qa = Template(
      query='Question:{question} Short answer:', answer='{answer}',
      between='\n')
  return {
      'caption': caption,
      'match': caption,
      'qa': qa,
      'qa_or_unanswerable': qa,
      'class': Template(query='Output:', answer='{answer}'),
      'name': Template(query='Output:', answer='{answer}'),
      'hateful_memes': Template(
          query="is an image with: '{text}' written on it. Is it hateful? "
          'Answer:', answer='{answer}'),
      # It has none for dialogues and RareAct: Flamingo's, in its spelling.
      'visdial': Template(
          query='{caption} {turns}Question:{question} Short answer:',
          answer='{answer}', between='\n',
          turn='Question:{question} Short answer:{answer} '),
      'rareact': Template(query='Caption:', answer='{answer}', between='\n'),
  }


def _idefics():
  # Source: the prompts selected in the evaluation code of IDEFICS' authors
  # (huggingface/smollm, vision/m4/models/idefics); its report (OBELICS,
  # arXiv:2306.16527) says the same in words.
  qa = Template(
      instruction='Instruction: provide an answer to the question. Use the '
      'image to answer.\n', before='Image:',
      query='Question: {question} Answer:', end='\n')
  return {
      'caption': Template(before='Image:', query='Caption:', end='\n'),
      'match': Template(query='Description of the image:'),
      'qa': qa,
      'qa_or_unanswerable': dataclasses.replace(
          qa, instruction='Task: Answer the questions based on the image when '
          'possible, otherwise say unanswerable.\n'),
      'class': Template(query='a photo of a', end='.'),
      'name': Template(query='a photo of a', end='.'),
      'hateful_memes': Template(
          instruction="It's a conversation between a human, the user, and an "
          'intelligent visual AI, Bot. The user sends memes with text written '
          'on them, and Bot has to say whether the meme is hateful or not.',
          query='is an image with written "{text}" on it. Is it hateful? '
          'Answer:'),
      'visdial': Template(
          query='{caption}. {turns}Question: {question} Answer:', end='.',
          turn='Question: {question} Answer: {answer}. '),
      # It has none for RareAct: Flamingo's.
      'rareact': Template(query='Caption:', end='\n'),
  }


# By the model whose way it is, then by the key in a benchmark's row.
TEMPLATES: dict[str, dict[str, Template]] = {
    'flamingo': _flamingo(),
    'openflamingo': _openflamingo(),
    'idefics': _idefics(),
}
