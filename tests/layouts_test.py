"""Every trial has a place on the devices, and comes back from it."""

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from kdjax.distill import mapped
from kdjax.distill import trials
from kdjax.engine import lanes
from kdjax.engine import laying
from kdjax.errors import UserError


class Device:
  platform = "cpu"
  local_hardware_id = None  # It is not there: nothing is put on it.


@settings(deadline=None, max_examples=200)
@given(
  arms=st.integers(1, 40),
  blocks=st.integers(1, 12),
  devices=st.integers(1, 16),
  at_once=st.integers(1, 4),
)
def test_every_trial_has_a_place(arms, blocks, devices, at_once):
  batch = 16 * devices
  layout = laying.lay_out(
    [None] * arms,
    blocks,
    batch,
    blocks_at_once=at_once,
    devices=[Device()] * devices,
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
  ("arms", "blocks", "devices", "over_blocks", "places"),
  [
    # Three blocks side by side on twelve chips, not one after two on sixteen.
    (12, 3, 16, 3, 3),
    (13, 3, 4, 3, 13),
    (13, 3, 8, 3, 7),
    (13, 3, 2, 1, 7),
    (13, 1, 8, 1, 2),  # Seven chips do what eight would.
    (13, 5, 16, 5, 5),
    (1, 3, 2, 2, 1),
  ],
)
def test_trials_go_where_the_last_is_done_soonest(
  arms, blocks, devices, over_blocks, places
):
  layout = laying.lay_out(
    [None] * arms, blocks, 8, devices=[Device()] * devices
  )
  assert len(np.unique(layout.block_ids, axis=0)) == over_blocks
  assert layout.arm_ids.shape[1] == places
  # None computes only what another computes too.
  shards = len(layout.devices) // over_blocks
  assert (shards - 1) * places < arms


HREG = [trials.Objective("HReg", loss, ((*"ab", 1.0),)) for loss in "xy"]
OBJECTIVES = (None, trials.Objective("L", "x", ()), *HREG)


@settings(deadline=None, max_examples=200)
@given(
  objectives=st.lists(st.sampled_from(OBJECTIVES), min_size=1, max_size=30),
  devices=st.integers(1, 8),
  at_once=st.integers(0, 5),
)
def test_what_is_stepped_together_has_its_list_and_its_regressors(
  objectives, devices, at_once
):
  layout = laying.lay_out(
    objectives, 1, 840, arms_at_once=at_once, devices=[Device()] * devices
  )
  assert layout.together <= (at_once or len(objectives))
  own = layout.lay(mapped.Trial(np.arange(len(objectives))[None], {}))
  turns = layout.arm_ids.reshape(-1, layout.together)
  having = [i for i, x in enumerate(objectives) if x in HREG]
  held = layout.regressors
  assert set(held) == ({"a-b"} if having else set())
  for number, (turn, which) in enumerate(
    zip(turns, np.asarray(own.list).flat, strict=True)
  ):
    kinds = layout.lists[which]
    assert kinds == tuple(objectives[arm] for arm in turn)
    grouped = lanes.groups(kinds)
    assert len(grouped) == len(set(kinds))  # Like by like.
    for group in grouped:
      for name, part in group.regressors.items():
        rows = held[name].ids.reshape(len(turns), -1)[number][part]
        owners = np.asarray(own.owners[name]).reshape(len(turns), -1)[number]
        lane = np.arange(layout.together)[group.lanes]
        np.testing.assert_array_equal(owners[part], lane)
        assert [having[row] for row in rows] == turn[group.lanes].tolist()


@settings(deadline=None, max_examples=100)
@given(
  kinds=st.integers(1, 4), draws=st.integers(1, 40), devices=st.integers(1, 4)
)
def test_draws_of_a_search_take_turns_on_a_cpu_that_are_all_alike(
  kinds, draws, devices
):
  """So that one program does for all, and no larger one than 24 arms."""
  objectives = [x for x in OBJECTIVES[:kinds] for _ in range(draws)]
  layout = laying.lay_out(objectives, 1, 840, devices=[Device()] * devices)
  if layout.split_batch:  # Fewer arms than devices.
    return
  shards = len(layout.devices)
  own = kinds * draws / shards
  if draws % shards == 0:
    assert len(layout.lists) == 1
    turns = [x for x in range(1, draws + 1) if draws % (x * shards) == 0]
    assert layout.turns == min(
      (x for x in turns if own / x <= 24), default=turns[-1]
    )
  else:
    assert layout.turns == 1
  everyone = np.sort(np.unique(layout.arm_ids))
  np.testing.assert_array_equal(everyone, np.arange(len(objectives)))


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_regressors_come_back_from_where_their_arms_are(devices):
  objectives = [None, *HREG, OBJECTIVES[1], HREG[0]] * 2
  layout = laying.lay_out(
    objectives, 1, 8, arms_at_once=2, devices=jax.devices()[:devices]
  )
  states = lanes.States(
    np.arange(10.0).reshape(1, 10),
    {"a-b": np.arange(12.0).reshape(1, 6, 2)},
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    layout.gather_states(layout.spread_states(states)),
    states,
  )
  smaller = layout.keep(np.array([1, 3]))  # Of the regressors, the first.
  moved = smaller.gather_states(
    smaller.spread_states(jax.tree.map(np.negative, states)), states
  )
  signs = np.sign(moved.regressors["a-b"][0, :, 1])
  kept = set(smaller.arm_ids.flat)
  assert {1, 3} <= kept
  having = [i for i, x in enumerate(objectives) if x in HREG]
  assert [s < 0 for s in signs] == [arm in kept for arm in having]


@pytest.mark.parametrize(
  ("arms", "blocks", "devices"), [(13, 3, 1), (13, 3, 4), (5, 1, 4), (1, 1, 4)]
)
def test_gather_is_the_inverse_of_spread(arms, blocks, devices):
  layout = laying.lay_out(
    [None] * arms, blocks, 8, devices=jax.devices()[:devices]
  )
  tree = np.arange(layout.wave * arms * 2).reshape(layout.wave, arms, 2)
  np.testing.assert_array_equal(layout.gather(layout.spread(tree)), tree)


@pytest.mark.parametrize(
  ("arms", "blocks", "devices", "kept", "places"),
  [
    (13, 3, 1, 7, 7),
    (13, 3, 1, 8, 13),
    (13, 3, 1, 3, 4),
    (13, 1, 4, 4, 1),
    (13, 1, 4, 5, 2),
    (13, 2, 4, 7, 4),
    (5, 1, 8, 2, 2),
    (5, 1, 8, 1, 1),
  ],
)
def test_a_compacted_layout_holds_what_lives_and_rests_the_others(
  arms, blocks, devices, kept, places
):
  devices = (jax.devices() * 2)[:devices]
  layout = laying.lay_out([None] * arms, blocks, 8, devices=devices)
  live = np.arange(arms)[-kept:]
  smaller = layout.keep(live)
  assert smaller.arm_ids.shape == (len(layout.devices), places)
  assert set(live) <= set(smaller.arm_ids.flat)
  assert smaller.keep(live) is smaller
  for d in range(len(layout.devices)):  # Every block has every arm somewhere.
    same = (layout.block_ids == layout.block_ids[d]).all(axis=1)
    assert set(live) <= set(smaller.arm_ids[same].flat)


@pytest.mark.parametrize("devices", [1, 4])
def test_what_was_compacted_away_is_gathered_from_where_it_rests(devices):
  layout = laying.lay_out([None] * 13, 3, 8, devices=jax.devices()[:devices])
  smaller = layout.keep(np.array([2, 7, 11]))
  shape = (layout.wave, 13, 2)
  resting = np.arange(np.prod(shape)).reshape(shape)
  moved = smaller.gather(smaller.spread(-resting), resting)
  held = np.unique(smaller.arm_ids)
  np.testing.assert_array_equal(moved[:, held], -resting[:, held])
  away = np.setdiff1d(np.arange(13), held)
  np.testing.assert_array_equal(moved[:, away], resting[:, away])
  empty = smaller.gather(smaller.spread(-resting))
  assert not empty[:, away].any()


def test_batches_are_whole_or_split():
  batches = np.arange(1 * 3 * 8).reshape(1, 3, 8)  # [W, T, B]
  whole = laying.lay_out([None] * 13, 1, 8, devices=jax.devices())
  assert whole.spread_batches(batches).shape == (4, 3, 1, 8)
  split = laying.lay_out([None] * 1, 1, 8, devices=jax.devices())
  parts = split.spread_batches(batches)
  assert split.spread_batches(batches[:, :, 0]).shape == (4, 3, 1)
  assert parts.shape == (4, 3, 1, 2)
  np.testing.assert_array_equal(
    np.concatenate(list(parts), axis=-1)[:, 0], batches[0]
  )


def test_a_batch_that_does_not_split_is_refused():
  with pytest.raises(UserError, match="batch_size=6 does not split over 4"):
    laying.lay_out([None] * 1, 1, 6, devices=jax.devices())
