"""Training is timed without what was compiled in the meantime."""

import time

import jax
import jax.numpy as jnp

from kdjax.engine import stopwatch


def test_compiling_is_not_counted_and_waiting_is():
  def slow_to_trace(x):
    time.sleep(1.0)
    return jax.jit(lambda y: jnp.sin(y) + 1)(x)  # A trace within a trace.

  function = jax.jit(slow_to_trace)
  x = jnp.ones(3)
  watch = stopwatch.Stopwatch()
  function(x).block_until_ready()
  time.sleep(0.1)
  # Not below what was waited, which a trace counted twice would give.
  assert 0.1 <= watch.stop() < 1.0
