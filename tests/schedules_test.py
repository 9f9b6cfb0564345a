"""Schedules: where they rise, where they end, and what the count decides."""

import jax
import ml_collections
import numpy as np
import pytest

from kdjax.engine import schedules


def rates(schedule, warmup, max_epochs=10, steps_per_epoch=10):
  training = ml_collections.ConfigDict(
    dict(schedule=schedule, warmup=warmup, max_epochs=max_epochs)
  )
  made = schedules.make(training, steps_per_epoch)
  return np.array([made(i) for i in range(max_epochs * steps_per_epoch)])


def test_constant_is_one_in_every_step():
  assert (rates("constant", 0.0) == 1.0).all()


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_warmup_rises_in_a_line_from_the_first_step_on(schedule):
  found = rates(schedule, 0.2)
  np.testing.assert_allclose(found[:21], np.arange(1, 22) / 21, rtol=1e-6)


def test_cosine_falls_from_the_peak_to_nearly_nothing():
  found = rates("cosine", 0.2)
  after = np.arange(80) / 80
  np.testing.assert_allclose(
    found[20:], (1 + np.cos(np.pi * after)) / 2, atol=1e-6
  )
  assert 0 < found[-1] < 1e-3  # No step is lost.


def test_one_step_and_all_warmup_are_no_error():
  assert np.isfinite(rates("cosine", 0.9, 1, 1)).all()


def test_a_traced_count_gives_the_same():
  training = ml_collections.ConfigDict(
    dict(schedule="cosine", warmup=0.1, max_epochs=3)
  )
  made = schedules.make(training, 7)
  traced = jax.jit(jax.vmap(made))(np.arange(21))
  np.testing.assert_allclose(
    traced, [made(i) for i in range(21)], rtol=1e-6, atol=1e-7
  )
