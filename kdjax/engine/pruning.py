"""Gradual magnitude pruning: which kernels, how much of them, and when.

Zhu and Gupta, "To prune, or not to prune", https://arxiv.org/abs/1710.01878.
Weights that are pruned are zero from then on, so that a trial's mask is in its
parameters. The part is data, one a trial, and so maps over trials.
"""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp

# What a count of weights is taken of: each kernel by itself, or all as one.
SCOPES = ("layer", "network")


@dataclasses.dataclass(frozen=True)
class Pruning:
  """How the trials of a stage are pruned.

  Attributes:
    paths: keys among the parameters of the kernels that are.
    scope: one of `SCOPES`.
    begin: steps before the first weight goes.
    end: steps after which as many are zero as the trial asks for.
  """

  paths: tuple[tuple[str, ...], ...]
  scope: str
  begin: int
  end: int

  def part(self, steps, sparsity):
    """Of the weights, what is zero after `steps`; equation 1 from 0."""
    done = (steps - self.begin) / max(self.end - self.begin, 1)
    return sparsity * (1.0 - (1.0 - jnp.clip(done, 0.0, 1.0)) ** 3)

  def thin(self, before, after, steps, sparsity):
    """Parameters after a step, with the smallest weights zero.

    Zero are those that were it before; and of each kernel, or of all as one,
    the `round(part * size)` smallest by magnitude.

    Args:
      before: a trial's parameters, before the step.
      after: the same after it.
      steps: done with this one.
      sparsity: scalar in [0, 1), what is to be zero from step `end` on.
    """
    part = self.part(steps, sparsity)
    old, new = map(flax.traverse_util.flatten_dict, (before, after))
    own = {
      path: jnp.where((old[path] == 0) & (sparsity > 0), 0, new[path])
      for path in self.paths
    }
    if self.scope == "layer":
      thresholds = {path: _threshold([x], part) for path, x in own.items()}
    else:
      thresholds = dict.fromkeys(own, _threshold(own.values(), part))
    for path, x in own.items():
      new[path] = jnp.where(_rank(x) <= thresholds[path], 0, x)
    return flax.traverse_util.unflatten_dict(new)


def _threshold(arrays, part):
  """The largest `_rank` of the smallest part of all elements; -1 of none.

  Found by halving, since to sort would take longer than to train.
  """
  ranks = [_rank(x) for x in arrays]
  wanted = jnp.round(part * sum(x.size for x in ranks)).astype(jnp.int32)
  (dtype,) = {x.dtype for x in ranks}

  def halve(_, between):
    low, high = between
    middle = low + (high - low) // 2
    enough = sum(jnp.sum(x <= middle, dtype=jnp.int32) for x in ranks) >= wanted
    return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

  largest = _rank(jnp.full((), jnp.inf, next(iter(arrays)).dtype))
  between = jnp.full_like(largest, -1), largest
  return jax.lax.fori_loop(0, jnp.iinfo(dtype).bits, halve, between)[0]


def _rank(x):
  """Integers in the order of magnitudes: the bits of `abs(x)`."""
  integer = {4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
  return jax.lax.bitcast_convert_type(jnp.abs(x), integer)
