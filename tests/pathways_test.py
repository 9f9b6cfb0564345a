"""Pathways bring two maps to one shape, and learn only where they say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distill import pathways


def maps(student=(8, 8, 3), teacher=(4, 4, 5)):
  key = jax.random.key(0)
  return (
    jax.random.normal(key, (2, *student)),
    jax.random.normal(key, (2, *teacher)),
  )


def widen(x):
  return jnp.concatenate([x, x[..., :2]], axis=-1)


def test_logits_compare_classes_at_every_pixel():
  s, t = pathways.logits(*maps((4, 4, 2), (4, 4, 2)), None, False)
  assert s.shape == t.shape == (2, 4, 4, 2)


@pytest.mark.parametrize("sides", [(8, 4), (4, 8), (6, 4), (4, 4)])
def test_hidden_is_one_distribution_over_the_coarser_grid(sides):
  s, t = maps((sides[0],) * 2 + (3,), (sides[1],) * 2 + (5,))
  s, t = pathways.hidden(s, t, None, False)
  assert s.shape == t.shape == (2, 1, 1, min(sides) ** 2)


def test_hidden_averages_channels():
  s, t = maps((4, 4, 3), (4, 4, 5))
  _, got = pathways.hidden(s, t, None, False)
  expected = np.mean(np.asarray(t), axis=-1).reshape(2, 1, 1, -1)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("sides", [(8, 4), (4, 8)])
def test_hidden_regressor_compares_the_teachers_channels(sides):
  s, t = maps((sides[0],) * 2 + (3,), (sides[1],) * 2 + (5,))
  s, t = pathways.hidden_regressor(s, t, widen, False)
  assert s.shape == t.shape == (2, min(sides), min(sides), 5)


def test_hidden_leaves_channels_to_a_relational_loss():
  s, t = pathways.hidden(*maps((8, 8, 3), (4, 4, 5)), None, True)
  assert s.shape == (2, 4, 4, 3) and t.shape == (2, 4, 4, 5)


@pytest.mark.parametrize("side", [8, 4, 3])
def test_memberships_are_the_parts_of_an_area(side):
  mask = jnp.zeros((2, 8, 8), int).at[0, :4].set(1)
  like = jnp.zeros((2, side, side, 5))
  got = pathways.memberships(mask, like, 2)
  assert got.shape == (2, side, side, 2)
  np.testing.assert_allclose(got.sum(-1), np.ones((2, side, side)), rtol=1e-6)
  np.testing.assert_allclose(got[0, 0, :, 1], np.ones(side), atol=1e-6)
  np.testing.assert_allclose(got[1, ..., 1], np.zeros((side, side)))


def test_alignment_keeps_a_constant_map():
  s, t = pathways.align(
    jnp.full((1, 9, 9, 2), 3.0), jnp.full((1, 4, 4, 1), 7.0)
  )
  np.testing.assert_allclose(s, np.full((1, 4, 4, 2), 3.0), rtol=1e-6)
  np.testing.assert_array_equal(t, np.full((1, 4, 4, 1), 7.0))


def test_regressor_is_two_convolutions_and_a_relu():
  regressor = pathways.Regressor(width=7)
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  out, variables = regressor.init_with_output(jax.random.key(1), x)
  shapes = {k: v["kernel"].shape for k, v in variables["params"].items()}
  assert shapes == {"conv1": (3, 3, 3, 3), "conv2": (1, 1, 3, 7)}
  assert out.shape == (2, 4, 4, 7)
  assert float(out.min()) == 0.0 < float(out.max())
