"""Rows of benchmarks that probe one ability: binding, order, hallucination.

None of them is the paper's, and none has a split to demonstrate from.
"""

from collections.abc import Callable

from flamingo.eval.benchmarks import pairs
from flamingo.eval.benchmarks.image_rows import COCO_IMAGES
from flamingo.eval.benchmarks.item import Benchmark, Item, Split
from flamingo.eval.benchmarks.pope import read_pope

_ARO = 'https://github.com/mertyg/vision-language-models-are-bows (MIT)'
_VISUAL_GENOME = (
    f'visual_genome_relation.json, visual_genome_attribution.json and '
    f'vgr_vga_images.zip (its folder images) by way of {_ARO}.')
_ORDER = (
    f'The test cases of COCO_Order and Flickr30k_Order of {_ARO}, which are '
    'made when it is run: json.dump(dataset.test_cases, file).')


def _aro(
    name: str, read: Callable[..., Item], annotations: str, images: str,
    source: str,
) -> Benchmark:
  return Benchmark(
      name=name,
      splits={'test': Split(
          read, dict(annotations=annotations, images=images))},
      query='test', template='match', metric='top1', open_ended=False,
      shots=(0,), source=source)


ROWS = (
    Benchmark(
        name='winoground',
        splits={'test': Split(pairs.read_winoground, dict(
            annotations='winoground/examples.jsonl',
            images='winoground/images/{}.png'))},
        query='test', template='match', metric='winoground', open_ended=False,
        shots=(0,),
        source='data/examples.jsonl and data/images.zip from '
        'https://huggingface.co/datasets/facebook/winoground, for research '
        'alone, behind a form.'),
    *(Benchmark(
        name=f'pope_{kind}',
        splits={'test': Split(read_pope, dict(
            annotations=f'pope/coco_pope_{kind}.json',
            images='coco/val2014/{}'))},
        query='test', template='qa', metric='pope', open_ended=False,
        shots=(0,),
        source=f'output/coco/coco_pope_{kind}.json from '
        f'https://github.com/AoiDragon/POPE (MIT); {COCO_IMAGES}.')
      for kind in ('random', 'popular', 'adversarial')),
    _aro('aro_relation', pairs.read_visual_genome,
         'aro/visual_genome_relation.json', 'aro/images/{}', _VISUAL_GENOME),
    _aro('aro_attribution', pairs.read_visual_genome,
         'aro/visual_genome_attribution.json', 'aro/images/{}',
         _VISUAL_GENOME),
    _aro('aro_coco_order', pairs.read_order,
         'aro/coco_order.json', 'coco/{}', f'{_ORDER} And {COCO_IMAGES}.'),
    _aro('aro_flickr_order', pairs.read_order,
         'aro/flickr_order.json', 'flickr30k/{}',
         f'{_ORDER} Images as for flickr30k.'),
)
