"""Losses between logits that say something only of three classes or more.

As those of `losses`, which lists them: of `[B, h, w, K]` maps, a number per
example.
"""

import jax
import jax.numpy as jnp

from kdjax.distill import maps

_BETA = 8.0  # Of DKD: what its authors take most often.


def decoupled(student, teacher, temperature, classes):
  """DKD: KL of target against the rest, and 8 times KL among the rest.

  `tau^2 * mean_n (KL(b_t || b_s) + 8 KL(q_t || q_s))`; `b` are the
  probabilities of the target's class and of all others, `q` those of the others
  among themselves (Zhao et al., https://arxiv.org/abs/2203.08679, equation 7
  with its code's alpha of 1 and beta of 8). The target is the class of the most
  of a position. Of two classes the second term is constant.
  """
  target = jax.nn.one_hot(
    jnp.argmax(classes, axis=-1), classes.shape[-1], dtype=bool
  )
  others = lambda x: jnp.where(target, -jnp.inf, x)

  def parts(x):
    log = jax.nn.log_softmax(x / temperature)
    hit = jnp.sum(jnp.where(target, log, 0.0), axis=-1)  # [B, h, w]
    rest = jax.nn.logsumexp(others(log), axis=-1)
    return jnp.stack([hit, rest], axis=-1), jax.nn.log_softmax(others(log))

  (ours, among), (theirs, beside) = parts(student), parts(teacher)
  binary = jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)
  gap = jnp.where(target, 0.0, beside - among)
  spread = jnp.sum(jnp.exp(beside) * gap, axis=-1)
  return temperature**2 * jnp.mean(binary + _BETA * spread, axis=(1, 2))


def correlations(student, teacher, temperature, classes):
  """DIST: 1 - the correlation of probabilities, over classes and positions.

  `tau^2 * (mean_n (1 - rho(P_n, Q_n)) + mean_c (1 - rho(P_c, Q_c)))` with
  softmaxes of `./tau`: `n` are positions, and a class's are those of the whole
  batch (Huang et al., https://arxiv.org/abs/2205.10536, equations 6 to 10 with
  weights of 1). Of two classes the first term is next to 0 or 2.
  """
  del classes
  ours = jax.nn.softmax(student / temperature)
  theirs = jax.nn.softmax(teacher / temperature)

  def apart(axes):
    """1 - rho; 0 where neither varies."""
    gap = maps.standardise(ours, axes) - maps.standardise(theirs, axes)
    return 0.5 * jnp.mean(gap**2, axis=axes)

  between = jnp.mean(apart((3,)), axis=(1, 2))  # [B]
  within = jnp.mean(apart((0, 1, 2)))
  return temperature**2 * (between + within)


def standardised(student, teacher, temperature, classes):
  """LSKD: KLD of logits standardised over classes.

  `tau^2 * mean_n KL(softmax(Z_t / tau) || softmax(Z_s / tau))` with
  `Z = (z - mean) / deviation` over a position's classes (Sun et al.,
  https://arxiv.org/abs/2403.01427, algorithm 1). Two logits have nothing left
  but their order.
  """
  del classes

  ours, theirs = (maps.standardise(x, (-1,)) for x in (student, teacher))
  each = maps.divergence(ours, theirs, temperature, axis=-1)
  return jnp.mean(each, axis=(1, 2))
