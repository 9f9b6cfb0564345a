"""Rows of blocks on the devices, and back."""

import dataclasses

import jax
import numpy as np

# What has no row of its own: the first, which nobody asks back.
EMPTY = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
  """Where the rows of blocks are on the devices, and the way back.

  Attributes:
    block_ids: `[D, N]`, the blocks of the wave on every device.
    ids: `[D, P]`, the rows of each of them, or `EMPTY`.
    rows: how many there are, some of which may be nowhere.
  """

  block_ids: np.ndarray
  ids: np.ndarray
  rows: int

  def spread(self, tree):
    """`[W, rows, ...]` to `[D, N, P, ...]`, on the host."""
    blocks = self.block_ids[:, :, None]
    ids = np.maximum(self.ids, 0)[:, None, :]
    return jax.tree.map(lambda x: np.asarray(x)[blocks, ids], tree)

  def gather(self, tree, resting=None):
    """The inverse of `spread`, on the host.

    Args:
      tree: leaves `[D, N, P, ...]`.
      resting: leaves `[W, rows, ...]` for the rows that are nowhere; zeros
        without.
    """
    wave = int(self.block_ids.max()) + 1
    device, row, column = np.zeros((3, wave, self.rows), int)
    for d in reversed(range(len(self.ids))):  # A copy's first place wins.
      for n, block in enumerate(self.block_ids[d]):
        for p, own in enumerate(self.ids[d]):
          if own != EMPTY:
            device[block, own], row[block, own], column[block, own] = d, n, p
    absent = np.setdiff1d(np.arange(self.rows), self.ids)

    def join(x, rest=None):
      joined = np.asarray(x)[device, row, column]
      joined[:, absent] = 0 if rest is None else rest[:, absent]
      return joined

    trees = [jax.device_get(tree), *([] if resting is None else [resting])]
    return jax.tree.map(join, *trees)
