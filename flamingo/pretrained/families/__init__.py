"""The families of language models that can be read, one file each.

A file has two things: a function from the fields of config.json to arguments of
`LM`, and a table from published names to parameters of `LM`.
"""

from flamingo.pretrained.families.family import Family, shapes
from flamingo.pretrained.families.fields import Fields
from flamingo.pretrained.families.gemma3 import GEMMA3, GEMMA3_MULTIMODAL
from flamingo.pretrained.families.gpt2 import GPT2
from flamingo.pretrained.families.gpt_neox import GPT_NEOX
from flamingo.pretrained.families.llama import LLAMA, MISTRAL
from flamingo.pretrained.families.mpt import MOSAIC_GPT, MPT
from flamingo.pretrained.families.opt import OPT

# By the `model_type` of config.json.
FAMILIES = {
    'llama': LLAMA,
    'mistral': MISTRAL,
    'gpt2': GPT2,
    'opt': OPT,
    'gpt_neox': GPT_NEOX,
    'mpt': MPT,
    'mosaic_gpt': MOSAIC_GPT,
    'gemma3_text': GEMMA3,
    'gemma3': GEMMA3_MULTIMODAL,
}

__all__ = ['FAMILIES', 'Family', 'Fields', 'shapes']
