"""Which caption belongs to an image? Winoground and ARO."""

from collections.abc import Iterator
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.item import Item


def read_winoground(
    root: pathlib.Path, *, annotations: str, images: str
) -> Iterator[Item]:
  """Reads `examples.jsonl`: two images and two captions of the same words.

  Field names as in the file: id, image_0, image_1, caption_0, caption_1. Each
  image is an item with both captions as candidates; the two images of an
  example follow each other and are one group.
  """
  for entry in files.read_lines(root / annotations):
    captions = tuple(entry[f'caption_{i}'].strip() for i in range(2))
    for i in range(2):
      yield Item(
          id=f'{entry["id"]}/{i}',
          image=(images.format(entry[f'image_{i}']),),
          answer=captions[i],
          references=(captions[i],),
          candidates=captions,
          group=str(entry['id']))


def read_visual_genome(
    root: pathlib.Path, *, annotations: str, images: str
) -> Iterator[Item]:
  """Reads ARO's `visual_genome_relation.json` or `..._attribution.json`.

  Field names from its authors' code: image_path, bbox_x, bbox_y, bbox_w,
  bbox_h (the part of the image that is shown), true_caption, false_caption,
  relation_name or attributes. These are the groups its paper reports.
  """
  for i, entry in enumerate(files.read_list(root / annotations)):
    kind = entry.get('relation_name') or '_'.join(entry.get('attributes', ()))
    yield Item(
        id=str(i),
        image=(images.format(entry['image_path']),),
        answer=entry['true_caption'],
        references=(entry['true_caption'],),
        candidates=(entry['false_caption'], entry['true_caption']),
        group=kind,
        box=tuple(int(entry[f'bbox_{side}']) for side in 'xywh'))


def read_order(
    root: pathlib.Path, *, annotations: str, images: str
) -> Iterator[Item]:
  """Reads the test cases of ARO's COCO-Order or Flickr30k-Order.

  Its authors' code makes them when it is run, with spaCy and chance, so there
  is no file of them. Write one, of the attribute `test_cases` of `COCO_Order`
  or `Flickr30k_Order`: a list with image and caption_options, the true caption
  first.
  """
  for i, entry in enumerate(files.read_list(root / annotations)):
    captions = tuple(entry['caption_options'])
    yield Item(
        id=str(i),
        image=(images.format(entry['image']),),
        answer=captions[0] if captions else '',
        references=captions[:1],
        candidates=captions)
