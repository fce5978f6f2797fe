"""WUPS: how near an answer's words are to the reference's in WordNet.

Wu and Palmer's similarity put in the place of equality (Malinowski and Fritz
2014, https://arxiv.org/abs/1410.0210). With a threshold of 0.9 a similarity
below it counts a tenth; with 0.0 all count as they are. NExT-QA reports the
latter, with changes of its own.
"""

from collections.abc import Callable, Sequence
import functools
import math

from flamingo.eval.scores import ptb
from flamingo.eval.scores import score
from flamingo.eval.scores import wordnet as wordnets

Similarity = Callable[[str, str], float]

# Words that NExT-QA leaves out of answers (stopwords.txt of doc-doc/NExT-OE).
STOP_WORDS = frozenset("""
    i me my myself we our ours ourselves you you're you've you'll you'd your
    yours yourself yourselves he him his himself she she's her hers herself it
    it's its itself they them their theirs themselves what which who whom this
    that that'll these those am is are was were be been being have has had
    having do does did doing a an the and but if or because as until while to
    from of at for with about into through during again further then here there
    when where why how all any each most other some such only own so than too
    very s t can will just don don't should should've now d ll m o re ve y ain
    aren aren't couldn couldn't didn didn't doesn doesn't hadn hadn't hasn
    hasn't haven haven't isn isn't ma mightn mightn't mustn mustn't needn
    needn't shan shan't shouldn shouldn't wasn wasn't weren weren't won won't
    wouldn wouldn't""".split())


def _nearest(
    words: Sequence[str], others: Sequence[str], similarity: Similarity
) -> list[float]:
  return [max((similarity(w, o) for o in others), default=0.0) for w in words]


def _weighted(similarity: float, threshold: float) -> float:
  return similarity if similarity >= threshold else 0.1 * similarity


def next_qa_wups(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    wordnet: wordnets.WordNet,
    threshold: float = 0.0,
    exact: Sequence[bool] | None = None,
    words: Callable[[str], Sequence[str]] | None = None,
) -> score.Score:
  """WUPS of NExT-QA's open-ended answers (Xiao et al. 2021, doc-doc/NExT-OE).

  Answers become base forms less stop words. Two words are as alike as their
  first senses are; a word that is like none of the other side is passed over,
  so it doesn't make the product 0; the worse of the two directions counts, and
  the best reference.

  The official script takes base forms from pywsd, which tags parts of speech
  with NLTK's model; `words` may be that (`pywsd.utils.lemmatize_sentence`). The
  default needs WordNet only, and takes the base form that is used most: one
  word in twenty differs, and the score of the authors' published predictions
  by 0.003.

  Args:
    predictions: one for each example.
    references: of each example, one answer, or two where the test set has one
      more.
    wordnet: the database.
    threshold: below it a similarity counts a tenth: 0.9 or 0.0.
    exact: for each example whether only equality counts, as NExT-QA demands of
      answers that count something or say yes or no (types DC and DB).
    words: from an answer to the base forms of its words.

  Raises:
    ValueError: if the numbers differ, or an example has no reference.
  """
  score.check_aligned(predictions, references)
  if words is None:
    words = functools.partial(_base_forms, wordnet=wordnet)
  exact = [False] * len(predictions) if exact is None else exact

  @functools.cache
  def similarity(a: str, b: str) -> float:
    if a == b:
      return 1.0
    first, second = wordnet.senses(a)[:1], wordnet.senses(b)[:1]
    if not first or not second:
      return 0.0
    return _weighted(
        wordnets.wu_palmer(first[0], second[0]) or 0.0, threshold)

  def one_way(a: Sequence[str], b: Sequence[str]) -> float:
    known = [s for s in _nearest(a, b, similarity) if s > 0]
    return math.prod(known) if known else 0.0

  examples = []
  for prediction, answers, equal in zip(
      predictions, references, exact, strict=True):
    if isinstance(answers, str) or not answers:
      raise ValueError(f'Expected a list of answers, got {answers!r}.')
    mine = [w for w in words(prediction) if w not in STOP_WORDS]
    theirs = [
        [w for w in words(answer) if w not in STOP_WORDS] for answer in answers]
    examples.append(max(
        float(mine == each) if equal
        else min(one_way(mine, each), one_way(each, mine)) for each in theirs))
  return score.mean_score(examples)


def _base_forms(text: str, wordnet: wordnets.WordNet) -> list[str]:
  return [wordnet.lemma(w) for w in ptb.ptb_lines([text])[0].split()]


def malinowski_wups(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    wordnet: wordnets.WordNet,
    threshold: float = 0.9,
) -> score.Score:
  """WUPS of answers that are lists of objects, 'cup, table' (DAQUAR).

  Two objects are as alike as the most alike of their senses as nouns; the
  product over one side's objects of the likeness to the other side's nearest,
  and the worse of the two directions, as the authors' calculate_wups.py.

  Args:
    predictions: lists separated by commas, one for each example.
    references: likewise.
    wordnet: the database.
    threshold: below it a similarity counts a tenth: 0.9 or 0.0.

  Raises:
    ValueError: if the numbers differ.
  """
  score.check_aligned(predictions, references)

  @functools.cache
  def similarity(a: str, b: str) -> float:
    if a == b:
      return 1.0
    found = [
        wordnets.wu_palmer(s, t) or 0.0
        for s in wordnet.senses(a, 'n') for t in wordnet.senses(b, 'n')]
    return _weighted(max(found, default=0.0), threshold)

  examples = []
  for prediction, reference in zip(predictions, references):
    mine = [each.strip() for each in prediction.split(',')]
    theirs = [each.strip() for each in reference.split(',')]
    examples.append(min(
        math.prod(_nearest(mine, theirs, similarity)),
        math.prod(_nearest(theirs, mine, similarity))))
  return score.mean_score(examples)
