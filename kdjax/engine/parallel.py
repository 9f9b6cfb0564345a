"""The only file that knows there is more than one trial or device.

Axes: D devices (`pmap`, named "devices"), N blocks at once on a device and G
arms of a block (`vmap`). Devices split the grid, so no collectives are needed;
where there are fewer trials than devices they split the batch instead.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import UserError

AXIS = "devices"


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the trials of a wave of blocks live.

  Attributes:
    devices: the `D` devices.
    block_ids: `[D, N]`, the blocks of the wave on every device.
    arm_ids: `[D, G']`, the arms on every device.
    arms: `G`, those of the grid, some of which may be nowhere.
    split_batch: every device holds all trials and a part of the batch.
    scan: an epoch's steps are one program (`lax.scan`) instead of a loop of
      Python, which on CPU is 20 to 45 times faster.
    arms_at_once: how many of a block's arms a device steps together, while
      what the teacher said waits for the others; 0 is all.
  """

  devices: tuple
  block_ids: np.ndarray
  arm_ids: np.ndarray
  arms: int
  split_batch: bool
  scan: bool
  arms_at_once: int = 0

  @property
  def together(self):
    """Number of arms of a block whose activations are in memory at once."""
    places = self.arm_ids.shape[1]
    return min(self.arms_at_once or places, places)

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

  def spread(self, tree):
    """`[W, G, ...]` of a wave's trials to `[D, N, G', ...]`."""
    blocks, arms = self.block_ids[:, :, None], self.arm_ids[:, None, :]
    return self._place(
      jax.tree.map(lambda x: np.asarray(x)[blocks, arms], tree)
    )

  def gather(self, tree, resting=None):
    """The inverse of `spread`, on the host.

    Args:
      tree: leaves `[D, N, G', ...]`.
      resting: leaves `[W, G, ...]` for the arms that are nowhere; zeros
        without.
    """
    device, row, column = np.zeros((3, self.wave, self.arms), int)
    for d in reversed(range(len(self.devices))):  # A copy's first place wins.
      for n, block in enumerate(self.block_ids[d]):
        for g, arm in enumerate(self.arm_ids[d]):
          device[block, arm], row[block, arm], column[block, arm] = d, n, g
    absent = np.setdiff1d(np.arange(self.arms), self.arm_ids)

    def join(x, rest=None):
      joined = np.asarray(x)[device, row, column]
      joined[:, absent] = 0 if rest is None else rest[:, absent]
      return joined

    trees = [jax.device_get(tree), *([] if resting is None else [resting])]
    return jax.tree.map(join, *trees)

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
    places = -(-self.arms // shards)
    while places > 1 and -(-places // 2) * shards >= len(arms):
      places = -(-places // 2)
    if places >= self.arm_ids.shape[1]:
      return self
    dealt = _deal(np.asarray(arms), shards, places)
    arm_ids = np.tile(dealt, (len(self.devices) // shards, 1))
    return dataclasses.replace(self, arm_ids=arm_ids)

  def spread_arms(self, tree):
    """`[G, ...]` of arms to `[D, G', ...]`."""
    return self._place(
      jax.tree.map(lambda x: np.asarray(x)[self.arm_ids], tree)
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


def memory(device):
  """Bytes that `device` has in all, or None where it does not say."""
  if statistics := device.memory_stats():
    return statistics.get("bytes_limit")
  if device.platform == "cpu" and hasattr(os, "sysconf"):
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return None


def make_layout(
  arms, blocks, batch_size, *, blocks_at_once=0, arms_at_once=0, devices=None
):
  """Lays `arms` x `blocks` trials out on the devices.

  They go where the slowest device is done soonest: arms of a block on two
  devices cost a teacher each, and blocks that wait for others cost their time.

  Args:
    arms: number of arms in a block.
    blocks: number of blocks.
    batch_size: of a trial.
    blocks_at_once: on one device; 0 is all on an accelerator, one on a CPU.
    arms_at_once: of a block, stepped together on one device; 0 is all.
    devices: default all of this process.

  Raises:
    UserError: the batch has to be split and does not divide.
  """
  devices = tuple(devices or jax.local_devices())
  scan = devices[0].platform != "cpu"
  if arms * blocks < len(devices):
    if batch_size % len(devices):
      raise UserError(
        f"batch_size={batch_size} does not split over {len(devices)} devices, "
        f"and {arms * blocks} trials are too few to share them: choose a "
        "multiple, or fewer devices."
      )
    d = len(devices)
    block_ids = np.zeros((d, 1), int)
    arm_ids = np.tile(np.arange(arms), (d, 1))
    return Layout(devices, block_ids, arm_ids, arms, True, scan, arms_at_once)
  block_shards, arm_shards = _split(arms, blocks, len(devices))
  n = min(blocks_at_once or (blocks if scan else 1), -(-blocks // block_shards))
  arm_ids = _deal(np.arange(arms), arm_shards, -(-arms // arm_shards))
  return Layout(
    devices[: block_shards * arm_shards],
    np.repeat(np.arange(block_shards * n).reshape(-1, n), arm_shards, axis=0),
    np.tile(arm_ids, (block_shards, 1)),
    arms,
    False,
    scan,
    arms_at_once,
  )


# What a block's teacher costs a step, in students: two views of one of 31 M
# take 0.95 s where a student of 0.82 M takes 0.24 s (results/bench).
_TEACHER = 4


def _split(arms, blocks, devices):
  """Over how many devices go the blocks, and over how many a block's arms."""

  def cost(shards):
    over_blocks, over_arms = shards
    students, blocks_in_turn = -(-arms // over_arms), -(-blocks // over_blocks)
    return blocks_in_turn * (students + _TEACHER), over_blocks * over_arms

  splits = (
    (b, a)
    for b in range(1, min(blocks, devices) + 1)
    for a in range(1, min(arms, devices // b) + 1)
  )
  return min(splits, key=cost)


def _deal(arms, shards, places):
  """`arms` in `[shards, places]`; the last one again where they run out."""
  return arms[np.minimum(np.arange(shards * places), len(arms) - 1)].reshape(
    shards, places
  )


def make_train_epoch(layout, prepare, step):
  """Lifts one block's preparation and one trial's step to an epoch of a wave.

  Args:
    layout: `Layout`.
    prepare: `(block, data, cases, epochs)` to `(batch, teachers)`; runs once
      per block, never once per arm.
    step: `(state, trial, count, batch, teachers)` to a state.

  Returns:
    `train_epoch(states, trials, blocks, data, batches)` to states; the states
    given are consumed. `batches` is `{"cases", "epochs": [D, T, N, B'],
    "counts": [D, T, N]}` on the host.
  """

  def block_step(states, trials, block, data, batch):
    shared = prepare(block, data, batch["cases"], batch["epochs"])
    arms = _over_arms(layout, step)
    return arms(states, trials, batch["counts"], *shared)

  def wave_step(states, trials, blocks, data, batch):
    lifted = jax.vmap(block_step, in_axes=(0, None, 0, None, 0))
    return lifted(states, trials, blocks, data, batch)

  def wave_epoch(states, trials, blocks, data, batches):
    body = lambda states, batch: (
      wave_step(states, trials, blocks, data, batch),
      None,
    )
    if layout.scan:
      return jax.lax.scan(body, states, batches)[0]
    (steps,) = batches["counts"].shape[:1]
    for t in range(steps):  # One, see `Layout.parts`.
      states, _ = body(states, jax.tree.map(lambda x, t=t: x[t], batches))
    return states

  in_axes = (0, 0, 0, None, 0)
  return _over_devices(layout, wave_epoch, in_axes, donate_argnums=0)


def make_arms_step(layout, step):
  """What a device does for `layout.together` arms once their block is prepared.

  Returns:
    `arms_step(states, trials, count, batch, teachers)`: a step of arms
    `[D, G', ...]` on what `prepare` returned, `[D, ...]`.
  """
  arms = jax.vmap(step, in_axes=(0, 0, None, None, None))
  return _over_devices(layout, arms, (0, 0, 0, 0, 0))


def make_finish_epoch(layout, finish):
  """Lifts `finish(state, epoch, loss)` to a wave: losses `[D, N, G']`."""
  arms = jax.vmap(finish, in_axes=(0, None, 0))
  return _over_devices(layout, jax.vmap(arms), (0, 0, 0), donate_argnums=0)


def make_answer(layout, answer):
  """Lifts `answer(block, data, cases)` to the blocks of a wave.

  Returns:
    `answers(blocks, data, chunks)`: what was answered, `[D, N, E, ...]`, for
    an iterable of cases `[D, N, E']`, one after another.
  """
  blocks = jax.vmap(answer, in_axes=(0, None, 0))
  one = _over_devices(layout, blocks, (0, None, 0))

  def join(parts):
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *parts)

  join = _over_devices(layout, join, (0,))
  return lambda blocks, data, chunks: join(
    [one(blocks, data, chunk) for chunk in chunks]
  )


def make_evaluate(layout, look):
  """Lifts `look(params, batch_stats, data, chunk)` to all trials of a wave.

  `chunk` is the block's: leaves `[D, N, E]`; results are `[D, N, G', ...]`.
  """
  blocks = jax.vmap(_over_arms(layout, look), in_axes=(0, 0, None, 0))
  return _over_devices(layout, blocks, (0, 0, None, 0))


def _over_arms(layout, function):
  """Lifts `function(x, y, *shared)` to the arms `[G', ...]` of `x` and `y`."""

  def lifted(x, y, *shared):
    arm = lambda own: function(*own, *shared)
    # Once arms rest there are fewer than the layout was made for.
    places, together = len(jax.tree.leaves(x)[0]), layout.together
    if places <= together:
      return jax.vmap(arm)((x, y))
    return jax.lax.map(arm, (x, y), batch_size=together)

  return lifted


def _over_devices(layout, function, in_axes, donate_argnums=()):
  return jax.pmap(
    function,
    axis_name=AXIS,
    in_axes=in_axes,
    devices=layout.devices,
    donate_argnums=donate_argnums,
  )
