"""What losses make of maps `[B, h, w, C]` before they compare them."""

import jax
import jax.numpy as jnp

# Under a square root or a quotient: far below any signal in float32.
TINY = 1e-12


def positions(x):
  """`[B, h, w, C]` to `[B, N, C]`."""
  return x.reshape(x.shape[0], -1, x.shape[-1])


def standardise(x, axes):
  """Mean 0 and variance 1 over `axes`; zeros where nothing varies."""
  x = x - jnp.mean(x, axis=axes, keepdims=True)
  variance = jnp.mean(x**2, axis=axes, keepdims=True)
  return x * jax.lax.rsqrt(variance + TINY)


def divergence(student, teacher, temperature, axis):
  """`tau^2 * sum P log(P / Q)` with softmaxes of `. / tau`, all over `axis`."""
  log_p = jax.nn.log_softmax(teacher / temperature, axis)
  log_q = jax.nn.log_softmax(student / temperature, axis)
  return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis)
