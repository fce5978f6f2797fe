"""A Flamingo from nothing, on two cores: what learns from examples in a prompt.

Purpose: EfficientNet-Lite0 and SmolLM2-135M, both frozen, are joined by a
  resampler and gated cross-attention, which learn from concept episodes, pages
  of named emoji and questions about shapes.
Command: make quickstart, or
  python -m experiments.train --config=experiments/configs/quickstart.py \
      --workdir=runs/quickstart
Cost: 14 to 17 minutes with installation and evaluation, on two quiet cores; 23
  were measured on a host that took up to 39 % of the processors' time.
Reaches, on test emoji, seeds 0, 1, 2 (mean, standard deviation): binding from
  colour to line 2-way 4-shot 98.6 +- 0.4 %, 5-way 1-shot 98.5 +- 0.3; one style
  99.5; within a subgroup 89.2 +- 1.7; category 2-way 4-shot 82.5 +- 0.7, 5-way
  4-shot 58.3 +- 1.2; a true picture is worth 0.47 +- 0.04 nats a token to
  captions, and 24.0 +- 5.0 points to easy-VQA. All: docs/quickstart.md.

Where it leaves the paper, and why (docs/quickstart.md has the measurements):
gates open a little, branches are scaled to the frozen residual stream, features
are whitened, new tokens start as ordinary ones, the LM's induction heads are
told how alike two pictures are, and half of the episodes have classes that are
mixtures of two. The paper's zero gates are the library's default, without such
a path.
"""

import ml_collections

D = ml_collections.ConfigDict


def get_config():
  return D(dict(
      seed=0,
      steps=500,
      frozen=D(dict(vision='lite0', lm='smollm2-135m-instruct')),
      model=D(dict(
          every=20,
          offset=0,
          dtype='bfloat16',
          scale_branches=True,
          first_gate=0.6,
          new_tokens_like_words=True,
          remat='none',
          layers='auto',
      )),
      whitening=D(dict(width=256)),
      resampler=D(dict(
          width=256, layers=2, latents=8, heads=8, head_dim=64,
          ff_hidden=1024, frames=8)),
      xattn=D(dict(
          heads=8, head_dim=64, ff_hidden=1152, gate_init=0.5,
          ff_gate_init=0.1, out_scale=0.0)),
      induction=D(dict(
          heads=((17, 3), (17, 4), (17, 5), (18, 6), (18, 7)), width=64,
          strength=30.0)),
      mesh=D(dict(data=-1, fsdp=1, tensor=1)),
      step=D(dict(
          micro_batches=1, combine='sum', z_loss=0.0, ema=0.0)),
      survival=D(dict(on_bad_step='stop', most_bad_steps=10, spike=0.0)),
      peak_flops=0.0,  # of a device, for MFU; 0: as its maker states
      optimizer=D(dict(
          learning_rate=4e-4, warmup=20, final=0.1, b2=0.95,
          weight_decay=0.1, clip=1.0)),
      data=D(dict(
          directory='data',
          grid=4,
          views=D(dict(train=3, validation=2, test=4)),
          questions=D(dict(train=1000, test=200)),
      )),
      layout=D(dict(length=64, images=20)),
      mixture=D(dict(
          binding=D(dict(
              source='episodes', batch_size=2, weight=1.5,
              options=D(dict(
                  images=20, ways=(4, 10), alike=0.4, mix=0.5, jitter=1.0)))),
          lookalikes=D(dict(
              source='episodes', batch_size=1, weight=0.7,
              options=D(dict(
                  images=20, ways=(2, 6), kind='lookalikes', mix=0.5,
                  jitter=1.0)))),
          category=D(dict(
              source='episodes', batch_size=1, weight=0.7,
              options=D(dict(
                  images=20, ways=(3, 6), kind='subgroup', mix=0.5,
                  jitter=1.0)))),
          pages=D(dict(
              source='pages', batch_size=1, weight=2.5,
              options=D(dict(images=(7, 9))))),
          shapes=D(dict(
              source='one_of', batch_size=1, weight=2.0,
              options=D(dict(
                  captions=D(dict(
                      source='shapes', options=D(dict(images=(8, 9))))),
                  questions=D(dict(
                      source='questions',
                      options=D(dict(images=4, balanced=0.5)))))))),
      )),
      checkpoint_every=125,
      log_every=10,
      held_out_every=250,
  ))
