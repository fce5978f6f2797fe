"""Files of published weights, as numpy arrays: no torch, no code from the file.

A reader knows a file's format and nothing of any model: names and layouts are
matched in `layouts` and beside it.
"""

from flamingo.pretrained.formats.gguf import read_gguf
from flamingo.pretrained.formats.stored import Stored
from flamingo.pretrained.formats.torch_archive import read_torch_archive

__all__ = ['Stored', 'read_gguf', 'read_torch_archive']
