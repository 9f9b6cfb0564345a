"""Distillation losses: pure functions, one number per example.

A loss compares what student and teacher say about the same batch: `N`
positions with `K` numbers each, which a pathway made comparable. Weighting,
averaging over the batch and choosing between losses belong to `steps`.
"""

import jax
import jax.numpy as jnp


def mse(student, teacher, temperature):
  """Mean squared difference, `[B, N, K]` twice to `[B]`.

  Averaged over positions and channels; has no temperature.
  """
  del temperature
  return jnp.mean((student - teacher) ** 2, axis=(1, 2))


def kld(student, teacher, temperature):
  """KL(teacher || student) over the last axis, `[B, N, K]` twice to `[B]`.

  Sum over `K`, mean over positions: `tau^2 * mean_n sum_k P log(P / Q)` with
  `P, Q = softmax(. / tau)`. The factor keeps the gradient's size as the
  temperature changes (Hinton et al., https://arxiv.org/abs/1503.02531).
  """
  log_p = jax.nn.log_softmax(teacher / temperature)
  log_q = jax.nn.log_softmax(student / temperature)
  divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)  # [B, N]
  return temperature**2 * jnp.mean(divergence, axis=1)


# A config names a loss by one of these.
LOSSES = {"MSE": mse, "KLD": kld}

# Their value does not depend on the temperature.
WITHOUT_TEMPERATURE = ("MSE",)
