"""Every loss keeps its promises and its paper's formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distill import losses

every_loss = pytest.mark.parametrize("name", losses.LOSSES)


def outputs(seed, scale=1.0):
  return scale * jax.random.normal(jax.random.key(seed), (4, 9, 5))  # [B, N, K]


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def numpy_mse(s, t, tau):
  return ((s - t) ** 2).mean((1, 2))


def numpy_kld(s, t, tau):
  p, q = softmax(t / tau), softmax(s / tau)
  return tau**2 * (p * np.log(p / q)).sum(-1).mean(-1)


@every_loss
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_loss_is_its_formula(name, tau):
  s, t = outputs(0), outputs(1)
  formula = {"MSE": numpy_mse, "KLD": numpy_kld}[name]
  expected = formula(np.float64(s), np.float64(t), tau)
  assert expected.shape == (4,)
  np.testing.assert_allclose(
    losses.LOSSES[name](s, t, tau), expected, rtol=1e-5
  )


@every_loss
def test_loss_is_zero_and_its_gradient_finite_at_the_teacher(name):
  # A trial that does not pick this loss still computes it.
  x = outputs(0)
  loss = losses.LOSSES[name]
  np.testing.assert_allclose(loss(x, x, 2.0), 0.0, atol=1e-6)
  gradient = jax.grad(lambda s: jnp.sum(loss(s, x, 2.0)))(x)
  assert jnp.all(jnp.isfinite(gradient))


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_loss_is_finite_for_flat_and_for_extreme_outputs(name, scale):
  s, t = outputs(0, scale), outputs(1, scale)
  value, gradient = jax.value_and_grad(
    lambda s: jnp.sum(losses.LOSSES[name](s, t, 1.0))
  )(s)
  assert jnp.isfinite(value)
  assert jnp.all(jnp.isfinite(gradient))


def test_temperature_keeps_the_size_of_the_kld_gradient():
  # Without tau squared it would shrink by 1 / 64 from 1 to 8; with small
  # outputs both are the same quadratic form.
  s, t = outputs(0, 0.01), outputs(1, 0.01)
  size = lambda tau: jnp.linalg.norm(
    jax.grad(lambda s: jnp.sum(losses.kld(s, t, tau)))(s)
  )
  np.testing.assert_allclose(size(8.0), size(1.0), rtol=0.02)


@pytest.mark.parametrize("name", losses.WITHOUT_TEMPERATURE)
def test_temperature_is_not_read(name):
  s, t = outputs(0), outputs(1)
  loss = losses.LOSSES[name]
  np.testing.assert_array_equal(loss(s, t, 1.0), loss(s, t, 8.0))


def test_kld_does_not_depend_on_the_number_of_positions():
  # `batchmean` over [B, H, W, K] would be N times too large.
  s, t = outputs(0), outputs(1)
  twice = lambda x: jnp.concatenate([x, x], axis=1)
  np.testing.assert_allclose(
    losses.kld(twice(s), twice(t), 1.0), losses.kld(s, t, 1.0), rtol=1e-6
  )
