"""Files of published weights, as numpy arrays: no torch, no code from the file.

A reader knows a file's format and nothing of any model: names and layouts are
matched beside this package. `open_*` reads what there is, and each tensor when
it is asked for, so that memory holds one at a time.
"""

from flamingo.pretrained.formats.directory import open_weights
from flamingo.pretrained.formats.gguf import open_gguf
from flamingo.pretrained.formats.safetensors import open_safetensors
from flamingo.pretrained.formats.shards import write_safetensors
from flamingo.pretrained.formats.stored import Stored
from flamingo.pretrained.formats.torch_archive import (
    open_torch_archive, read_torch_archive)

__all__ = [
    'Stored', 'open_gguf', 'open_safetensors', 'open_torch_archive',
    'open_weights', 'read_torch_archive', 'write_safetensors']
