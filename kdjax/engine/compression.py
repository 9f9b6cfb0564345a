"""What a stage's trials are compressed to, which of their layers, and when.

Pruned, see `pruning`, and in few bits, see `models.quantised`. How far is a
number of each trial, so that both map over trials; a trial that asks for
neither trains as it would alone.
"""

import dataclasses
import math

import flax.traverse_util
import jax.numpy as jnp

from kdjax.engine import pruning
from kdjax.models import quantised

ENDS = 8  # The fewest bits of the first and of the last layer.


@dataclasses.dataclass(frozen=True)
class Compression:
  """How the trials of a stage are compressed.

  Attributes:
    pruning: `pruning.Pruning`, or None where none is pruned.
    layers: paths of those that compute in few bits, in the order that they
      are called in; empty where none does.
    begin: steps before the first in few bits.
    rounded: steps after which the first epoch in few bits ends.
  """

  pruning: pruning.Pruning | None
  layers: tuple[tuple[str, ...], ...]
  begin: int
  rounded: int

  def shrink(self, state, params, numbers, steps):
    """A trial's `steps.TrialState` before a step, and its parameters after it.

    Pruned to the trial's own number; and no epoch is the best in which it was
    larger than it is to be.
    """
    if self.pruning:
      sparsity = numbers["sparsity"]
      params = self.pruning.thin(state.params, params, steps, sparsity)
    early = self.unfinished(numbers, steps)
    state = state.replace(
      best_criterion=jnp.where(early, jnp.inf, state.best_criterion),
      stale=jnp.where(early, 0, state.stale),
    )
    return state, params

  def quantise(self, batch_stats, numbers, count):
    """Batch statistics that say in how many bits a step computes.

    Args:
      batch_stats: of a trial.
      numbers: the trial's.
      count: steps done before this one.
    """
    if not self.layers:
      return batch_stats
    stats = flax.traverse_util.flatten_dict(batch_stats)
    bits = jnp.where(count < self.begin, quantised.NONE, numbers["bits"])
    for path in self.layers:
      ends = path in (self.layers[0], self.layers[-1])
      key = (*path, "bits")
      stats[key] = jnp.maximum(bits, ENDS if ends else 0).astype(
        stats[key].dtype
      )
    return flax.traverse_util.unflatten_dict(stats)

  def unfinished(self, numbers, steps):
    """Whether no epoch that ended before `steps` can be the best.

    A trial's first that can is the one by whose end it is as small as it asks.
    """
    early = jnp.bool_(False)
    if self.pruning:
      early |= (numbers["sparsity"] > 0) & (steps < self.pruning.end)
    if self.layers:
      early |= (numbers["bits"] < quantised.NONE) & (steps < self.rounded)
    return early


def first_epoch(config, numbers, max_epochs):
  """The first epoch, from 1, that ends with all that an arm asks for.

  Args:
    config: for its `pruning` and `quantisation`.
    numbers: an arm's.
    max_epochs: of its training.
  """
  first = 1
  if numbers["sparsity"]:
    # Rounded, since 0.7 of 10 is 7 and not 8.
    first = max(first, math.ceil(round(config.pruning.end * max_epochs, 6)))
  if numbers["bits"] < quantised.NONE:
    first = max(first, _float_epochs(config.quantisation, max_epochs) + 1)
  return first


def make(config, arms, model, images, training, steps_per_epoch):
  """The `Compression` of a stage's arms; None where none is compressed.

  Args:
    config: for its `pruning` and `quantisation`.
    arms: of the stage.
    model: linen module of its trials.
    images: `[B, H, W, C]`, only lends its shape.
    training: of the config, for its `max_epochs`.
    steps_per_epoch: number of steps.
  """
  sparse = [x.numbers for x in arms if x.numbers["sparsity"]]
  rounded = uses_bits(arms)
  if not sparse and not rounded:
    return None
  found, epochs = quantised.layers(model, images), training.max_epochs
  pruned = None
  if sparse:
    alone = sparse[0] | {"bits": quantised.NONE}
    pruned = pruning.Pruning(
      tuple((*path, "kernel") for path in prunable(found)),
      config.pruning.scope,
      round(config.pruning.begin * epochs * steps_per_epoch),
      first_epoch(config, alone, epochs) * steps_per_epoch,
    )
  begin = _float_epochs(config.quantisation, epochs)
  return Compression(
    pruned,
    tuple(found) if rounded else (),
    begin * steps_per_epoch,
    (begin + 1) * steps_per_epoch,
  )


def uses_bits(arms):
  """Whether any of `arms` computes in few bits."""
  return any(arm.numbers["bits"] < quantised.NONE for arm in arms)


def prunable(found):
  """Paths of `quantised.layers` that are pruned.

  All but the first and the last, which have few weights and much to lose, and
  depthwise ones, which have fewer.
  """
  return tuple(path for path, x in [*found.items()][1:-1] if x.groups == 1)


def _float_epochs(settings, max_epochs):
  """Epochs before those in few bits; there is one of these at the least."""
  return min(math.floor(round(settings.begin * max_epochs, 6)), max_epochs - 1)
