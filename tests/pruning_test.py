"""Pruning thins as its authors say, by trial, and leaves others alone."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.engine import pruning

PATHS = (("a", "kernel"), ("b", "kernel"))


def make(**changes):
  return pruning.Pruning(
    **{"paths": PATHS, "scope": "layer", "begin": 10, "end": 30} | changes
  )


def make_params(seed, dtype=np.float32):
  draw = np.random.default_rng(seed).normal
  return {
    "a": {"kernel": draw(size=(3, 3, 4, 5)).astype(dtype)},
    "b": {"kernel": 0.1 * draw(size=(40,)).astype(dtype)},
    "c": {"kernel": draw(size=(7,)).astype(dtype)},
  }


def oracle(params, part, whole):
  """The smallest weights zero, by sorting."""
  flat = flax.traverse_util.flatten_dict(params)
  groups = [PATHS] if whole else [[path] for path in PATHS]
  new = dict(flat)
  for group in groups:
    every = np.concatenate([np.abs(flat[path]).ravel() for path in group])
    count = int(np.round(part * every.size))
    bound = np.sort(every)[count - 1] if count else -1.0
    for path in group:
      new[path] = np.where(np.abs(flat[path]) <= bound, 0, flat[path])
  return flax.traverse_util.unflatten_dict(new)


@pytest.mark.parametrize("steps", [0, 10, 11, 20, 29, 30, 99])
def test_the_part_is_that_of_equation_1(steps):
  if steps <= 10:
    expected = 0.0
  else:
    left = 1 - (min(steps, 30) - 10) / 20
    expected = 0.9 + (0.0 - 0.9) * left**3
  found = make().part(jnp.int32(steps), jnp.float32(0.9))
  # A few roundings of float32.
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scope", pruning.SCOPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.999])
def test_the_smallest_weights_go_as_a_sort_finds_them(sparsity, scope, dtype):
  with jax.enable_x64(dtype == np.float64):
    before, after = make_params(1, dtype), make_params(2, dtype)
    found = make(scope=scope).thin(
      before, after, jnp.int32(30), dtype(sparsity)
    )
    expected = oracle(after, sparsity, scope == "network")
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found["a"]["kernel"].dtype == dtype


def test_what_was_zero_stays_zero_where_a_trial_is_pruned():
  before, after = make_params(1), make_params(2)
  before["a"]["kernel"][0] = 0.0
  thin = lambda sparsity: make().thin(
    before, after, jnp.int32(30), jnp.float32(sparsity)
  )
  pruned = np.asarray(thin(0.5)["a"]["kernel"])
  assert (pruned[0] == 0).all()
  # They are among the half, not beside it.
  assert (pruned == 0).sum() == 90
  jax.tree.map(np.testing.assert_array_equal, thin(0.0), after)


def test_mapped_over_trials_each_has_its_own_part():
  stack = lambda seeds: jax.tree.map(
    lambda *x: np.stack(x), *map(make_params, seeds)
  )
  before, after = stack([1, 2, 3]), stack([4, 5, 6])
  parts = np.float32([0.0, 0.5, 0.97])
  thin = functools.partial(make().thin, steps=jnp.int32(25))
  one = lambda before, after, part: thin(before, after, sparsity=part)
  found = jax.jit(jax.vmap(one))(before, after, parts)
  for i, part in enumerate(parts):
    pick = lambda tree, i=i: jax.tree.map(lambda x: x[i], tree)
    alone = one(pick(before), pick(after), part)
    jax.tree.map(np.testing.assert_array_equal, pick(found), alone)
