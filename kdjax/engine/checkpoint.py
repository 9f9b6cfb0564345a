"""A block's stage on disk, through Orbax.

Every block has a folder of its own and is saved without its layout over
devices, so that any other layout can go on from it.
"""

import logging

from flax import serialization
import orbax.checkpoint as ocp

logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoint:
  """The saved epochs of one block in one stage; the last two are kept."""

  def __init__(self, folder):
    self._manager = ocp.CheckpointManager(
      folder.resolve(),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False
      ),
    )

  def save(self, epoch, states, history, finished):
    """Saves host arrays `states` and JSON-able `history` after `epoch`."""
    self._manager.save(
      epoch,
      args=ocp.args.Composite(
        states=ocp.args.StandardSave(serialization.to_state_dict(states)),
        progress=ocp.args.JsonSave({"history": history, "finished": finished}),
      ),
    )

  def restore(self):
    """`(epoch, states, history, finished)`, states as dicts; None if new."""
    epoch = self._manager.latest_step()
    if epoch is None:
      return None
    saved = self._manager.restore(
      epoch,
      args=ocp.args.Composite(
        states=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore()
      ),
    )
    progress = saved["progress"]
    return epoch, saved["states"], progress["history"], progress["finished"]

  def close(self):
    """Waits for what is being written."""
    self._manager.close()
