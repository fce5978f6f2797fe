"""Few-shot evaluation of a quickstart checkpoint: curves, controls, baselines.

Command: python -m experiments.evaluate \
    --config=experiments/configs/fewshot.py --checkpoint=runs/quickstart
Cost and numbers to reach: docs/quickstart.md.

A family of cells lists what is varied; its episodes are the same for all of its
shots and controls, of which None is the prompt as it is. `n` is episodes a
cell. Nearest centroid and chance stand beside every cell without a control. A
blank query costs next to nothing beside the true one: demonstrations are read
once.
"""

import ml_collections

D = ml_collections.ConfigDict

CONTROLS = ('shuffled_labels', 'shuffled_images', 'blank_images')


def get_config():
  line = dict(task='openmoji_binding', style='colour_to_line')
  same = dict(task='openmoji_binding', style='same')
  category = dict(task='openmoji_category', style='same')
  return D(dict(
      split='test',
      seed=1,
      n=400,
      output='evaluation',
      captions=200,
      questions=400,
      families=tuple(D(family) for family in (
          line | dict(
              ways=2, shots=(0, 1, 2, 4), controls=(None, 'blank_query')),
          line | dict(
              ways=5, shots=(0, 1, 2, 4), controls=(None, 'blank_query')),
          line | dict(ways=2, shots=(1,), controls=CONTROLS),
          line | dict(ways=5, shots=(1,), controls=CONTROLS),
          line | dict(ways=5, shots=(1,), names='multi'),
          line | dict(ways=5, shots=(1,), metric='generation_accuracy'),
          same | dict(ways=5, shots=(1,)),
          line | dict(task='openmoji_binding_subgroup', ways=5, shots=(1,)),
          category | dict(
              ways=2, shots=(0, 1, 2, 4, 8), controls=(None, 'blank_query')),
          category | dict(
              ways=5, shots=(0, 1, 2, 4), controls=(None, 'blank_query')),
          category | dict(ways=2, shots=(1,), controls=CONTROLS),
          category | dict(ways=5, shots=(1,), controls=CONTROLS),
      )),
  ))
