"""Few-shot vision-language models in JAX."""

from flamingo.data.encode import batch, encode, Example
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.decode import Predictor
from flamingo.eval.fewshot import Shot, Trial
from flamingo.model.flamingo import Flamingo
from flamingo.model.lm import LM
from flamingo.model.resampler import PerceiverResampler
from flamingo.model.xattn import GatedCrossAttention
from flamingo.pretrained.load import load, Loaded
from flamingo.pretrained.native import save
from flamingo.types import Batch, Chunk, Document, TrainState

__all__ = [
    'Batch', 'Chunk', 'Document', 'Example', 'Flamingo', 'GatedCrossAttention',
    'LM', 'Loaded', 'PerceiverResampler', 'Predictor', 'Shot', 'Tokenizer',
    'TrainState', 'Trial', 'batch', 'encode', 'load', 'save',
]
