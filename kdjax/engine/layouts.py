"""Where the trials live: which arms of which blocks are on which device.

Axes: D devices, N blocks at once on a device and G arms of a block. Devices
split the grid, so no collectives are needed; where they split the batch, since
trials are fewer than devices, a step averages over them.
"""

import dataclasses
import functools

import jax
import numpy as np

from kdjax.distill import mapped
from kdjax.engine import dealing
from kdjax.engine import lanes
from kdjax.engine import places

AXIS = "devices"

# The axes of `Layout.lay`'s lanes that are mapped over blocks: what their
# objectives are is the same for all of a device.
OVER_BLOCKS = lanes.Lanes(trials=0, list=None, owners=None)


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
  """Where the trials of a wave of blocks live.

  Attributes:
    devices: the `D` devices.
    block_ids: `[D, N]`, the blocks of the wave on every device.
    arm_ids: `[D, G']`, the arms on every device, turn by turn.
    objectives: `G` of them, or None: the arms', some of which may be nowhere.
    split_batch: every device holds all trials and a part of the batch.
    scan: an epoch's steps are one program (`lax.scan`) instead of a loop of
      Python, which on CPU is 20 to 45 times faster.
    turns: into how many parts a block's arms on a device fall, that are stepped
      one after another, while what the teacher said waits for the others.
  """

  devices: tuple
  block_ids: np.ndarray
  arm_ids: np.ndarray
  objectives: tuple
  split_batch: bool
  scan: bool
  turns: int

  @property
  def arms(self):
    """`G`, the number of arms of a block, here or not."""
    return len(self.objectives)

  @property
  def together(self):
    """Number of arms of a block whose activations are in memory at once."""
    return self.arm_ids.shape[1] // self.turns

  @functools.cached_property
  def _turns(self):
    """`[D * turns, P]`: the arms that are stepped together."""
    return self.arm_ids.reshape(-1, self.together)

  @functools.cached_property
  def lists(self):
    """What is trained for, lane by lane: the different lists there are."""
    return tuple(dict.fromkeys(map(self._list, self._turns)))

  def _list(self, arms):
    return tuple(self.objectives[arm] for arm in arms)

  @functools.cached_property
  def regressors(self):
    """`places.Places` of regressors by name; a row for every arm that has one.

    Every turn has room for as many as the turn that has most.
    """
    return {
      name: places.Places(
        self.block_ids,
        np.array(
          [
            [x if x == places.EMPTY else rows.index(turn[x]) for x in owned]
            for turn, owned in zip(self._turns, owners, strict=True)
          ]
        ).reshape(len(self.devices), -1),
        len(rows),
      )
      for name, (rows, owners) in self._owned.items()
    }

  @functools.cached_property
  def _owned(self):
    """By name: the arms with a regressor, and `[D * turns, R]`, its lanes."""
    names = [
      {mapped.regressor_name(pair) for pair in mapped.learnt(objective)}
      for objective in self.objectives
    ]
    found = {}
    for name in sorted(set().union(*names)):
      rows = [arm for arm, own in enumerate(names) if name in own]
      owners = [
        [lane for lane, arm in enumerate(turn) if arm in rows]
        for turn in self._turns
      ]
      most = max(1, *map(len, owners))
      blank = lambda owned, most=most: [places.EMPTY] * (most - len(owned))
      found[name] = rows, [x + blank(x) for x in owners]
    return found

  def fewer(self):
    """How to have half as many trials in memory: fields of the config.

    Returns:
      {} where there is one trial left.
    """
    if (blocks := self.block_ids.shape[1]) > 1:
      return {"engine.blocks_at_once": blocks // 2}
    if self.together > 1:
      return {"engine.arms_at_once": self.together // 2}
    return {}

  @property
  def wave(self):
    """Number of blocks that train together."""
    return int(self.block_ids.max()) + 1

  @property
  def batch_axis(self):
    """What a step averages gradients and statistics over, or None."""
    return AXIS if self.split_batch else None

  @property
  def _arms(self):
    return places.Places(self.block_ids, self.arm_ids, self.arms)

  def spread(self, tree):
    """`[W, G, ...]` of a wave's trials to `[D, N, G', ...]`."""
    return self._place(self._arms.spread(tree))

  def gather(self, tree, resting=None):
    """The inverse of `spread`, on the host; see `places.Places.gather`."""
    return self._arms.gather(tree, resting)

  def spread_states(self, states):
    """`spread` of `lanes.States`, whose regressors are `[W, rows, ...]`."""
    regressors = {
      name: held.spread(states.regressors[name])
      for name, held in self.regressors.items()
    }
    return lanes.States(self.spread(states.trials), self._place(regressors))

  def gather_states(self, states, resting=None):
    """The inverse of `spread_states`, as `gather` is of `spread`."""
    regressors = {
      name: held.gather(
        states.regressors[name], resting and resting.regressors[name]
      )
      for name, held in self.regressors.items()
    }
    return lanes.States(
      self.gather(states.trials, resting and resting.trials), regressors
    )

  def lay(self, trial):
    """`lanes.Lanes` `[D, ...]` of a wave, a `Trial` with leaves `[W, G]`."""
    lists = [self.lists.index(self._list(turn)) for turn in self._turns]
    by_device = lambda x: np.array(x, np.int32).reshape(len(self.devices), -1)
    owners = {
      name: np.maximum(by_device(x), 0) for name, (_, x) in self._owned.items()
    }
    return lanes.Lanes(
      trials=self.spread(trial),
      list=self._place(by_device(lists)),
      owners=self._place(owners),
    )

  def keep(self, arms):
    """The layout with no more places than `arms` need, rounded up.

    A device's places are halved as long as `arms` fit, so that few programs
    are compiled; how often depends on their number alone.

    Args:
      arms: ids of those that train on, ascending.

    Returns:
      A `Layout`; this one where it has no places to spare.
    """
    same_blocks = (self.block_ids == self.block_ids[0]).all(axis=1)
    shards = 1 if self.split_batch else int(same_blocks.sum())
    needed = -(-self.arms // shards)
    while needed > 1 and -(-needed // 2) * shards >= len(arms):
      needed = -(-needed // 2)
    dealt, turns = dealing.deal(
      arms, self.objectives, shards, needed, self.together
    )
    if dealt.shape[1] >= self.arm_ids.shape[1]:
      return self
    return dataclasses.replace(
      self,
      arm_ids=np.tile(dealt, (len(self.devices) // shards, 1)),
      turns=turns,
    )

  def spread_blocks(self, tree):
    """`[W, ...]` of a wave's blocks to `[D, N, ...]`."""
    return self._place(
      jax.tree.map(lambda x: np.asarray(x)[self.block_ids], tree)
    )

  def spread_batches(self, tree):
    """`[W, T, B]` or `[W, T]` of a wave to `[D, T, N, B']`, on the host."""

    def spread(x):
      x = np.moveaxis(x[self.block_ids], 2, 1)  # [D, T, N, B], or without B
      if not self.split_batch or x.ndim == 3:
        return x
      parts = np.split(x, len(self.devices), axis=-1)
      return np.stack([part[d] for d, part in enumerate(parts)])

    return jax.tree.map(spread, tree)

  def parts(self, batches):
    """Cuts `[D, T, ...]` into what runs without returning to Python.

    That is all of it where steps are scanned, else a step.
    """
    if self.scan:
      return [batches]
    return [
      jax.tree.map(lambda x, t=t: x[:, t : t + 1], batches)
      for t in range(batches["counts"].shape[1])
    ]

  def replicate(self, tree):
    """Puts a copy of `tree` on every device."""
    return self._put(tree, jax.sharding.PartitionSpec())

  def _place(self, tree):
    return self._put(tree, jax.sharding.PartitionSpec(AXIS))

  def _put(self, tree, spec):
    if self.devices[0].local_hardware_id is None:
      return tree  # A topology's devices are not there, but to compile for.
    # A state that is placed before the first call does not trace twice.
    mesh = jax.sharding.Mesh(np.array(self.devices), (AXIS,))
    return jax.device_put(tree, jax.NamedSharding(mesh, spec))
