"""The paper's sizes: `--config=experiments/configs/flamingo.py:3b` (9b, 80b).

Purpose: to be counted, planned and compiled for machines that are not here; the
  weights were never released.
Command: python -m experiments.plan \
    --config=experiments/configs/flamingo.py:80b --target=v5p:8x8x16
Cost: seconds; nothing is allocated. With --compile, minutes (docs/scaling.md).
Numbers to reach (paper, Table 5): resampler 194M; gated cross-attention 1.2B,
  1.6B, 10B; language model 1.4B, 7.1B, 70B.

Where the paper contradicts itself: 9B has 32 LM layers and 8 blocks (Table 5;
Table 4's 40 and 10 would be 8.9B and 2.0B); heads are 128 wide everywhere and a
projection maps the encoder's 3072 channels to 1536 (which gives the 194M). Keys
and values are counted as 1536 -> D, not D -> D, so the gated blocks come out
smaller than the paper's (1.16B, 1.44B, 8.36B). The LM has rotary instead of
Transformer-XL's relative positions, D * D a layer less.

What a step reads is the ablations' (Table 3 and appendix B.1.1), as the batch
sizes of the final models are not disclosed: M3W 256 pages of 5 pictures, ALIGN
and LTIP 512 pairs, VTP 64 clips of 8 frames, at 320 x 320. Captions are 32 or
64 tokens; the longer ones are LTIP's, of 20.5 tokens on average.
"""

import ml_collections

D = ml_collections.ConfigDict

# width, LM layers, a gated block before every such layer
SIZES = {'3b': (2048, 24, 1), '9b': (4096, 32, 4), '80b': (8192, 80, 7)}

# rows, images, frames, tokens, weight (lambda)
MIXTURE = {
    'm3w': (256, 5, 1, 256, 1.0),
    'align': (512, 1, 1, 32, 0.2),
    'ltip': (512, 1, 1, 64, 0.2),
    'vtp': (64, 1, 8, 32, 0.03),
}

# What `plan` takes for a target where `mesh`, `step` and `batch_scale` are left
# as they are: little splitting with which it fits. The paper's 80B had 1536
# TPUv4 and 16-way model parallelism; there a step reads half as many rows
# again, so that 96 groups of chips can share them.
TARGETS = {
    '3b': {
        'v5e:16x16': dict(tensor=4),
        'h100:8': dict(),
    },
    '9b': {
        'v5e:16x16': dict(tensor=4),
        'h100:64': dict(),
    },
    '80b': {
        'v4:8x12x16': dict(tensor=16, batch_scale=1.5),
        'v5p:8x8x16': dict(tensor=16),
        'h100:64': dict(tensor=8),
    },
}


def get_config(size: str = '3b'):
  if size not in SIZES:
    raise ValueError(
        f'There is no Flamingo of size {size!r}; there are {list(SIZES)}.')
  width, layers, every = SIZES[size]
  heads = width // 128
  return D(dict(
      lm=D(dict(
          vocab_size=32_000, width=width, layers=layers, heads=heads,
          kv_heads=heads, head_dim=128, hidden=4 * width, activation='gelu',
          gated_ff=False, tied=True)),
      # given: 'pixels', with the encoder in the step, or 'features' that were
      # computed before (a frozen encoder's are always the same).
      visual=D(dict(
          encoder='nfnet-f6', size=320, places=100, width=3072,
          given='pixels')),
      model=D(dict(
          every=every, offset=0, dtype='bfloat16', scale_branches=False,
          first_gate=None, new_tokens_like_words=False, remat='full',
          layers='auto')),
      whitening=D(dict(width=0)),
      resampler=D(dict(
          width=1536, layers=6, latents=64, heads=16, head_dim=128, frames=8,
          project_input=True)),
      xattn=D(dict(heads=heads, head_dim=128, ff_hidden=4 * width)),
      optimizer=D(dict(
          learning_rate=1e-4, warmup=5000, weight_decay=0.1, clip=1.0)),
      steps=500_000,
      mixture=D({
          name: D(dict(
              batch_size=rows, images=images, frames=frames, length=length,
              weight=weight))
          for name, (rows, images, frames, length, weight) in MIXTURE.items()}),
      batch_scale=1.0,  # factor on all batch sizes
      mesh=D(dict(data=-1, fsdp=1, tensor=1)),
      step=D(dict(micro_batches=1, combine='sum', z_loss=0.0, ema=0.0)),
      targets=D({name: D(row) for name, row in TARGETS[size].items()}),
  ))
