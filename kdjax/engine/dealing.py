"""How blocks and arms are dealt to devices and turns."""

import collections

import numpy as np

# What a block's teacher costs a step, in students: two views of one of 31 M
# take 0.95 s where a student of 0.82 M takes 0.24 s (results/bench).
_TEACHER = 4


def split(arms, blocks, devices):
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


def deal(arms, objectives, shards, needed, at_once):
  """Deals `arms` so that shards and turns have like lists of objectives.

  Arms of one objective go round, those of the commonest first; where arms run
  out, the last one again.

  Args:
    arms: ids.
    objectives: of all arms, by id.
    shards: over how many devices the arms go.
    needed: places of a shard, at least.
    at_once: of a turn, at most; 0 is all.

  Returns:
    `([shards, places], turns)`, in which those of one objective are neighbours.
  """
  turns = -(-needed // (at_once or needed))
  together = -(-needed // turns)
  hands = shards * turns
  number = collections.Counter(objectives[arm] for arm in arms)
  order = sorted(
    arms,
    key=lambda arm: (
      -number[objectives[arm]],
      objectives.index(objectives[arm]),
    ),
  )
  order += order[-1:] * (hands * together - len(order))
  dealt = np.array(order).reshape(together, hands).T
  return dealt.reshape(shards, turns * together), turns
