"""A block's stage on disk, through Orbax.

Every block has a folder of its own and is saved without its layout over
devices, so that any other layout can go on from it.
"""

import dataclasses
import logging

import orbax.checkpoint as ocp

logging.getLogger("absl").setLevel(logging.ERROR)


@dataclasses.dataclass
class Progress:
  """How far a block came in a stage.

  Attributes:
    epoch: epochs done.
    states: its trials' states on the host, nested dicts with leaves
      `[G, ...]`; empty before the first checkpoint.
    history: rows of history.csv, and the device-seconds of each.
    finished: whether every trial has stopped.
  """

  epoch: int = 0
  states: dict = dataclasses.field(default_factory=dict)
  history: list = dataclasses.field(default_factory=list)
  finished: bool = False


class Checkpoint:
  """The saved epochs of one block in one stage; the last two are kept."""

  def __init__(self, folder):
    self._manager = ocp.CheckpointManager(
      folder.resolve(),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False
      ),
    )

  def save(self, progress):
    """Saves `Progress`, whole or not at all."""
    self._manager.save(
      progress.epoch,
      args=ocp.args.Composite(
        states=ocp.args.StandardSave(progress.states),
        progress=ocp.args.JsonSave(
          {"history": progress.history, "finished": progress.finished}
        ),
      ),
    )

  def restore(self):
    """The newest `Progress`; a blank one where nothing was saved."""
    epoch = self._manager.latest_step()
    if epoch is None:
      return Progress()
    saved = self._manager.restore(
      epoch,
      args=ocp.args.Composite(
        states=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore()
      ),
    )
    return Progress(epoch, saved["states"], **saved["progress"])

  def history(self):
    """The newest `Progress.history`, without reading the states."""
    epoch = self._manager.latest_step()
    if epoch is None:
      return []
    saved = self._manager.restore(
      epoch, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
    )
    return saved["progress"]["history"]

  def close(self):
    """Waits for what is being written."""
    self._manager.close()
