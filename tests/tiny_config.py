"""The quickstart, cut down for `tiny_training`."""

from experiments.configs import quickstart
import ml_collections


def get_config():
  config = quickstart.get_config()
  pages = dict(source='pages', options=dict(images=(1, 2)))
  with config.unlocked():
    config.steps = 12
    config.model.update(dict(
        every=2, dtype='float32', scale_branches=False,
        new_tokens_like_words=False))
    config.whitening.width = 0
    del config.mixture, config.resampler, config.xattn, config.induction
    config.resampler = dict(
        width=8, layers=1, latents=4, heads=2, head_dim=4, ff_hidden=16,
        frames=0, project_input=True)
    config.xattn = dict(heads=4, head_dim=4, ff_hidden=16, gate_init=0.5)
    config.optimizer.update(dict(learning_rate=1e-3, warmup=1))
    config.layout = dict(length=16, images=2)
    config.mixture = ml_collections.ConfigDict(dict(
        pages=dict(pages, batch_size=8, weight=1.0),
        more=dict(pages, batch_size=16, weight=0.5)))
    config.checkpoint_every, config.log_every = 4, 1
    config.held_out_every = 3
  return config
