"""Captions of COCO and Flickr30k, by the splits of Karpathy and Fei-Fei."""

from collections.abc import Iterator
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.item import Item


def read_karpathy(
    root: pathlib.Path, *, annotations: str, images: str, subset: str
) -> Iterator[Item]:
  """Reads `dataset_coco.json` or `dataset_flickr30k.json`.

  Field names as in the files: images[] with filename, split, sentences[].raw,
  and cocoid or imgid.

  Args:
    root: data root.
    annotations: path of the JSON file.
    images: pattern of the images' paths, of `filename`.
    subset: value of `split` to read.
  """
  for image in files.read_object(root / annotations).entries('images'):
    if image['split'] != subset:
      continue
    captions = tuple(
        sentence['raw'].strip() for sentence in image.entries('sentences'))
    yield Item(
        id=str(image['cocoid'] if 'cocoid' in image else image['imgid']),
        image=(images.format(filename=image['filename']),),
        answer=captions[0] if captions else '',
        references=captions)
