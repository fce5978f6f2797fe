"""Few-shot evaluation on the field's benchmarks, as the paper does it.

Purpose: scores that a paper can cite, with intervals, baselines and controls.
Command: python -m experiments.benchmark \
    --config=experiments/configs/benchmarks.py --model=MODEL --root=DATA \
    --output=runs/benchmarks --config.tasks="('okvqa', 'coco')"
Cost: each image is encoded once; five shot counts of OK-VQA's 5,046 questions
  are 25,230 prompts a seed, and as many for the text-only baseline.

Your own task is a JSONL and an entry of `own`; its fields are the arguments of
`flamingo.eval.benchmarks.own`.
"""

import ml_collections

D = ml_collections.ConfigDict


def get_config():
  return D(dict(
      # What is asked. No tasks are all that are there.
      tasks=(),
      own=(),
      # Attributes of a benchmark's row by its name: coco=D(max_tokens=30).
      rows=D(),
      # Official splits by benchmark, where another one than the paper's.
      splits=D(),
      # The validation queries of DEV benchmarks, in their training splits.
      development=False,
      # Queries of each benchmark; 0 for all.
      queries=0,
      # What is varied. No shots are those that the paper reports.
      shots=(0, 4, 8, 16, 32),
      # Demonstrations without images at 0 shots: -1 for the paper's, which are
      # two where answers are open.
      texts_at_zero=-1,
      seeds=(0, 1, 2),
      choices=('random',),
      # What RICES and nearest_centroid compare images by: 'embed', the vision
      # encoder's contrastive embedding, as OpenFlamingo does; 'pooled', the
      # mean of its features; 'auto', the embedding where there is one.
      similarity='auto',
      balanced=False,
      controls=(),
      # The choices that have controls; none listed are all.
      controlled=(),
      baselines=('majority', 'nearest_centroid', 'text_only'),
      # How. 'flamingo', 'openflamingo' or 'idefics'.
      template='flamingo',
      beams=3,
      length_penalty=0.0,
      # Above 0 answers are drawn, from top_k tokens (0 for all) that have top_p
      # of the probability, and each seed draws its own; it needs beams=1.
      temperature=0.0,
      top_k=0,
      top_p=1.0,
      likelihood='sum',
      permutations=1,
      calibrated=False,
      max_length=2048,
      frames=8,
      # Where numbers do not depend on it.
      dtype='float32',
      tokens_at_once=4096,
      chunk=200,
      # Of one process' devices; -1 for what is left over.
      mesh=D(dict(data=-1, fsdp=1, tensor=1)),
      cache='runs/latents',
  ))
