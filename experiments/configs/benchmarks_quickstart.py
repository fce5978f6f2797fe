"""What the quickstart learns from its context, asked with every control.

Purpose: shots curves with intervals, RICES against chance, all controls and
  baselines, on benchmarks that are made here; the report says in two sentences
  what they say.
Command: make quickstart, then
  python -m experiments.benchmark_data --root=data
  python -m experiments.benchmark \
      --config=experiments/configs/benchmarks_quickstart.py \
      --model=runs/quickstart --root=data --output=runs/benchmarks_quickstart
Cost: 13 minutes on two slow cores that were busy with other work, and 4 more
  the first time, to draw the pictures.
Reaches: docs/benchmarks.md.
"""

from experiments.configs import benchmarks


def get_config():
  config = benchmarks.get_config()
  config.update(
      tasks=('emoji_binding_2way', 'emoji_category_2way', 'easy_vqa'),
      # Of each benchmark, drawn once.
      queries=32,
      shots=(0, 1, 4, 8),
      seeds=(0, 1, 2),
      # By text and by both where there is a text: easy-VQA.
      choices=('random', 'rices_image', 'rices_text', 'rices_both'),
      controls=('blank_images', 'shuffled_images', 'no_images',
                'shuffled_labels', 'random_labels', 'blank_query'),
      # RICES is asked as it is: its controls would take as long as all else.
      controlled=('random',),
      # As the model was trained.
      dtype='bfloat16')
  return config
