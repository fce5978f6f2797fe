"""Benchmarks as data: their files, splits, prompts and demonstrations.

A row of the table says what a benchmark is; `items` reads its official files;
`choose` picks demonstrations; `templates` writes prompts.
"""

from flamingo.eval.benchmarks.choose import (
    Choice, at_random, cosine, most_similar, permutations)
from flamingo.eval.benchmarks.item import Benchmark, Item, Split
from flamingo.eval.benchmarks.jsonl import own, read_jsonl
from flamingo.eval.benchmarks.media import (
    content_hash, missing_images, read_images)
from flamingo.eval.benchmarks.splits import Subsets, subsets
from flamingo.eval.benchmarks.table import (
    BENCHMARKS, Presence, benchmark, present)
from flamingo.eval.benchmarks.templates import (
    TEMPLATES, Template, to_document)

__all__ = [
    'BENCHMARKS', 'Benchmark', 'Choice', 'Item', 'Presence', 'Split', 'Subsets',
    'TEMPLATES', 'Template', 'at_random', 'benchmark', 'content_hash', 'cosine',
    'missing_images', 'most_similar', 'own', 'permutations', 'present',
    'read_images', 'read_jsonl', 'subsets', 'to_document']
