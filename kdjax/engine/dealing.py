"""How blocks and arms are dealt to devices and turns."""

import collections
import math

import numpy as np

# What a block's teacher costs a step, in students: two views of one of 31 M
# take 0.95 s where a student of 0.82 M takes 0.24 s (results/bench).
_TEACHER = 4

# What a CPU compiles at once, of arms that there are many of with like
# objectives, the draws of a search: the time for it grows with the arms, and
# more side by side train no faster.
_ALIKE = 24


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


def alike(objectives, shards):
  """How many arms of a shard make a turn, if all turns train for one list.

  Args:
    objectives: of all arms.
    shards: over how many devices the arms go.

  Returns:
    At most `_ALIKE` if that can be, and as many as then can be; 0, all, where
    objectives do not share out among turns.
  """
  common = math.gcd(*collections.Counter(objectives).values())
  own = len(objectives) // shards
  turns = [x for x in range(1, common + 1) if common % (x * shards) == 0]
  fit = [x for x in turns if own // x <= _ALIKE]
  return own // (fit or turns)[0 if fit else -1] if turns else 0


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
