"""AdamW by the paper's rules (section 2.4 and appendix B.1.1)."""

import jax.numpy as jnp
import optax

from flamingo import params as params_lib
from flamingo.types import Params


def decays(params: Params) -> Params:
  """True for what decays: kernels of the gated cross-attention.

  The paper decays all trainables but the resampler by 0.1. Norms, biases, gates
  and the rows of new tokens, which it doesn't speak of, are left alone, as in
  OpenFlamingo.
  """
  return params_lib.unflatten(
      (path, path[0].startswith('xattn') and path[-1] == 'kernel')
      for path, _ in params_lib.flatten(params))


def schedule(
    learning_rate: float, warmup: int, steps: int, final: float
) -> optax.Schedule:
  """Linear warm-up, then constant (the paper), or a cosine down to `final`.

  Args:
    learning_rate: the peak.
    warmup: steps of warm-up.
    steps: length of the whole schedule.
    final: learning rate at the end as a share of the peak; 1 stays constant.
  """
  rise = optax.linear_schedule(0.0, learning_rate, max(warmup, 1))
  if final == 1.0:
    rest = optax.constant_schedule(learning_rate)
  else:
    rest = optax.cosine_decay_schedule(
        learning_rate, max(steps - warmup, 1), alpha=final)
  return optax.join_schedules([rise, rest], [warmup])


def make_optimizer(
    *,
    steps: int,
    learning_rate: float = 1e-4,
    warmup: int = 5000,
    final: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.1,
    clip: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW with a clip by global norm; defaults are the paper's.

  The paper doesn't give the betas; these are OpenFlamingo's.
  """
  rate = schedule(learning_rate, warmup, steps, final)
  return optax.chain(
      optax.clip_by_global_norm(clip),
      optax.adamw(
          rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=decays,
          mu_dtype=jnp.float32))
