"""The paper's sizes: `--config=experiments/configs/flamingo.py:3b` (9b, 80b).

Purpose: to be counted and planned; the weights were never released.
Command: python -m experiments.plan --config=experiments/configs/flamingo.py:80b
Cost: seconds; nothing is allocated.
Numbers to reach (paper, Table 5): resampler 194M; gated cross-attention 1.2B,
  1.6B, 10B; language model 1.4B, 7.1B, 70B.

Where the paper contradicts itself: 9B has 32 LM layers and 8 blocks (Table 5;
Table 4's 40 and 10 would be 8.9B and 2.0B); heads are 128 wide everywhere and a
projection maps the encoder's 3072 channels to 1536 (which gives the 194M). Keys
and values are counted as 1536 -> D, not D -> D, so the gated blocks come out
smaller than the paper's (1.16B, 1.44B, 8.36B). The LM has rotary instead of
Transformer-XL's relative positions, D * D a layer less.
"""

import ml_collections

D = ml_collections.ConfigDict

# width, LM layers, a gated block before every such layer
SIZES = {'3b': (2048, 24, 1), '9b': (4096, 32, 4), '80b': (8192, 80, 7)}


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
      visual=D(dict(places=100, width=3072)),
      model=D(dict(
          every=every, offset=0, dtype='bfloat16', scale_branches=False,
          first_gate=None, new_tokens_like_words=False)),
      whitening=D(dict(width=0)),
      resampler=D(dict(
          width=1536, layers=6, latents=64, heads=16, head_dim=128, frames=8,
          project_input=True)),
      xattn=D(dict(heads=heads, head_dim=128, ff_hidden=4 * width)),
      optimizer=D(dict(
          learning_rate=1e-4, warmup=5000, weight_decay=0.1, clip=1.0)),
      steps=500_000,
  ))
