"""Which device gets which trials of a stage, and how many at once."""

import jax
import numpy as np

from kdjax.engine import dealing
from kdjax.engine import layouts
from kdjax.errors import UserError


def lay_out(
  objectives,
  blocks,
  batch_size,
  *,
  blocks_at_once=0,
  arms_at_once=0,
  devices=None,
):
  """Lays arms x blocks trials out on the devices.

  They go where the slowest device is done soonest: arms of a block on two
  devices cost a teacher each, and blocks that wait for others cost their time.

  Args:
    objectives: those of a block's arms, None of an arm that has none.
    blocks: number of blocks.
    batch_size: of a trial.
    blocks_at_once: on one device; 0 is all on an accelerator, one on a CPU.
    arms_at_once: of a block, stepped together on one device; 0 is all, but on
      a CPU `dealing.alike`.
    devices: default all of this process.

  Raises:
    UserError: the batch has to be split and does not divide.
  """
  objectives = tuple(objectives)
  arms, every = len(objectives), np.arange(len(objectives))
  devices = tuple(devices or jax.local_devices())
  scan = devices[0].platform != "cpu"
  if arms * blocks < len(devices):
    if batch_size % len(devices):
      raise UserError(
        f"batch_size={batch_size} does not split over {len(devices)} devices, "
        f"and {arms * blocks} trials are too few to share them: choose a "
        "multiple, or fewer devices."
      )
    arm_ids, turns = dealing.deal(every, objectives, 1, arms, arms_at_once)
    return layouts.Layout(
      devices,
      block_ids=np.zeros((len(devices), 1), int),
      arm_ids=np.tile(arm_ids, (len(devices), 1)),
      objectives=objectives,
      split_batch=True,
      scan=scan,
      turns=turns,
    )
  block_shards, arm_shards = dealing.split(arms, blocks, len(devices))
  n = min(blocks_at_once or (blocks if scan else 1), -(-blocks // block_shards))
  if not (arms_at_once or scan):
    arms_at_once = dealing.alike(objectives, arm_shards)
  arm_ids, turns = dealing.deal(
    every, objectives, arm_shards, -(-arms // arm_shards), arms_at_once
  )
  block_ids = np.arange(block_shards * n).reshape(-1, n)
  return layouts.Layout(
    devices[: block_shards * arm_shards],
    block_ids=np.repeat(block_ids, arm_shards, axis=0),
    arm_ids=np.tile(arm_ids, (block_shards, 1)),
    objectives=objectives,
    split_batch=False,
    scan=scan,
    turns=turns,
  )
