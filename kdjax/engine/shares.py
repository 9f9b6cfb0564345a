"""The share of distillation in a student's gradient: measured, and held.

In the gradient of `(1 - alpha) * supervised + alpha * distillation` by a
student's parameters, distillation has the share `|a d| / (|a d| + |(1 - a) s|)`
with `d` and `s` the gradients of the two. At one alpha it differs between
losses by orders of magnitude; where an arm asks for a share, alpha follows.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Of all steps, at most, that go into measuring: two a measurement.
_PART = 0.05
# Epochs between measurements at most where alphas follow, whatever they cost;
# and the part of all epochs that begin with one each, since a student's
# gradients change most in its first.
_SELDOM, _OFTEN = 2, 0.1


def due(epoch, epochs, steps_per_epoch, followed):
  """Whether an epoch begins with a measurement.

  Args:
    epoch: its number, from 0.
    epochs: that training has, at most.
    steps_per_epoch: number of steps.
    followed: whether alphas follow what is measured.
  """
  if followed and epoch <= _OFTEN * epochs:
    return True
  every = math.ceil(2 / (_PART * steps_per_epoch))
  return epoch % (min(every, _SELDOM) if followed else every) == 0


def norms(train, states, lanes):
  """Norms of the supervised gradient and of distillation's, by trial.

  The trained program itself is asked, with an alpha of 0 and of 1 and blank
  moments, which then hold a multiple of the gradient.

  Args:
    train: from `States` and `Lanes` to `States` after a step.
    states: they are kept.
    lanes: theirs.

  Returns:
    Two of `[D, N, P]`; 0 where a trial is not live.
  """
  numbers = lanes.trials.numbers
  found = []
  for alpha in (0.0, 1.0):
    weighed = {**numbers, "alpha": _filled(numbers["alpha"], alpha)}
    trials = lanes.trials.replace(numbers=weighed)
    after = train(_blank(states), lanes.replace(trials=trials))
    found.append(_norm(optax.tree.get(after.trials.optimizer, "mu")))
  return found


def share(alpha, supervised, distilled):
  """Distillation's part, in [0, 1]; NaN where there is no gradient."""
  ours, theirs = alpha * distilled, (1 - alpha) * supervised
  with np.errstate(invalid="ignore"):
    return ours / (ours + theirs)


def follow(alpha, asked, supervised, distilled):
  """The alpha at which a measured distillation has the share asked for.

  Args:
    alpha: `[W, G]` there is.
    asked: `[W, G]` shares; 0 leaves an arm its alpha.
    supervised: `[W, G]` norms of the supervised gradient.
    distilled: the same of distillation's.
  """
  ours, theirs = asked * supervised, (1 - asked) * distilled
  with np.errstate(invalid="ignore", divide="ignore"):
    found = ours / (ours + theirs)
  known = (asked > 0) & (found > 0) & (found < 1)
  return np.where(known, found, alpha)


def _blank(states):
  """A copy, which the step may consume, without moments."""
  placed = jax.tree.map(lambda x: x.sharding, states)
  return jax.device_put(_without_moments(states), placed)


@jax.jit
def _without_moments(states):
  copied = jax.tree.map(jnp.copy, states)
  blank = jax.tree.map(jnp.zeros_like, copied.trials.optimizer)
  return copied.replace(trials=copied.trials.replace(optimizer=blank))


def _filled(x, value):
  return jax.device_put(np.full(x.shape, value, x.dtype), x.sharding)


@jax.jit
def _norm(x):
  return jnp.linalg.norm(x, axis=-1)
