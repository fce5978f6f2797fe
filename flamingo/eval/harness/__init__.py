"""Few-shot evaluation of a model on benchmarks, logged example by example.

  plan      what is asked: a task at shots, seeds, choices and controls
  prompts   demonstrations and a query become tokens
  ask       a model is asked some queries, and what it says becomes lines
  run       what the log lacks is asked
  share     so it is by several processes
  score     metrics from the log alone
  results   a file with the numbers and all that they depend on
  report    the same as a page, with pictures and what papers report
  compare   two such files: what differs first, and a paired test
"""

from flamingo.eval.harness.ask import Asker, PicturePredictor
from flamingo.eval.harness.cell import Asked, Cell
from flamingo.eval.harness.controls import CONTROLS
from flamingo.eval.harness.demonstrate import (
    CHOICES, Demonstrator, text_embedding)
from flamingo.eval.harness.metrics import Metric, METRICS, Said
from flamingo.eval.harness.pictures import (
    fingerprint, Pictures, SIMILARITIES, similarity_of)
from flamingo.eval.harness.plan import BASELINES, LIKELIHOODS, plan, Sweep
from flamingo.eval.harness.prompts import Prompt, Writer
from flamingo.eval.harness.run import Piece, pieces
from flamingo.eval.harness.score import score, Scored
from flamingo.eval.harness.share import Share
from flamingo.eval.harness.task import load_task, Task

__all__ = [
    'Asked', 'Asker', 'BASELINES', 'CHOICES', 'CONTROLS', 'Cell',
    'Demonstrator', 'LIKELIHOODS', 'METRICS', 'Metric', 'PicturePredictor',
    'Pictures', 'Piece', 'Prompt', 'SIMILARITIES', 'Said', 'Scored', 'Share',
    'Sweep', 'Task', 'Writer', 'fingerprint', 'load_task', 'pieces', 'plan',
    'score', 'similarity_of', 'text_embedding']
