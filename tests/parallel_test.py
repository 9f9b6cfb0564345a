"""Every trial has a place on the devices, and comes back from it."""

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from kdjax.engine import parallel
from kdjax.errors import UserError


class Device:
  platform = "cpu"


@settings(deadline=None, max_examples=200)
@given(
  arms=st.integers(1, 40),
  blocks=st.integers(1, 12),
  devices=st.integers(1, 16),
  at_once=st.integers(1, 4),
)
def test_every_trial_has_a_place(arms, blocks, devices, at_once):
  batch = 16 * devices
  layout = parallel.make_layout(
    arms, blocks, batch, blocks_at_once=at_once, devices=[Device()] * devices
  )
  assert len(layout.devices) <= devices
  assert layout.split_batch == (arms * blocks < devices)
  held = {
    (block, arm)
    for row, columns in zip(layout.block_ids, layout.arm_ids, strict=True)
    for block in row
    for arm in columns
  }
  assert held == {(b, a) for b in range(layout.wave) for a in range(arms)}
  if not layout.split_batch:
    # No device holds more than an even share of a wave, rounded up twice.
    share = layout.block_ids.shape[1] * layout.arm_ids.shape[1]
    even = layout.wave * arms / len(layout.devices)
    assert share < even + layout.block_ids.shape[1]


@pytest.mark.parametrize(
  ("arms", "blocks", "devices"), [(13, 3, 1), (13, 3, 4), (5, 1, 4), (1, 1, 4)]
)
def test_gather_is_the_inverse_of_spread(arms, blocks, devices):
  layout = parallel.make_layout(
    arms, blocks, 8, devices=jax.devices()[:devices]
  )
  tree = np.arange(layout.wave * arms * 2).reshape(layout.wave, arms, 2)
  np.testing.assert_array_equal(layout.gather(layout.spread(tree)), tree)


def test_batches_are_whole_or_split():
  batches = np.arange(1 * 3 * 8).reshape(1, 3, 8)  # [W, T, B]
  whole = parallel.make_layout(13, 1, 8, devices=jax.devices())
  assert whole.spread_batches(batches).shape == (4, 3, 1, 8)
  split = parallel.make_layout(1, 1, 8, devices=jax.devices())
  parts = split.spread_batches(batches)
  assert split.spread_batches(batches[:, :, 0]).shape == (4, 3, 1)
  assert parts.shape == (4, 3, 1, 2)
  np.testing.assert_array_equal(
    np.concatenate(list(parts), axis=-1)[:, 0], batches[0]
  )


def test_a_batch_that_does_not_split_is_refused():
  with pytest.raises(UserError, match="batch_size=6 does not split over 4"):
    parallel.make_layout(1, 1, 6, devices=jax.devices())
