"""For TensorBoard: the rows of the history as scalars."""

import functools
import itertools
import math
import socket
import sys
import tempfile
import time

from kdjax import files
from kdjax import workdirs

_HEAD = {"file_version": "brain.Event:2"}


class Scalars:
  """The events of a stage's trials, one run of TensorBoard per trial.

  Args:
    folder: `epath.Path` that has a folder for each.
  """

  def __init__(self, folder):
    self._folder = folder
    self._written = {}  # From a trial to its epochs' number and their events.

  def write(self, rows):
    """Writes the trials that have new epochs.

    A trial's file is replaced as a whole, so that it agrees with the history
    after a resume, which repeats epochs; only new epochs are packed.

    Args:
      rows: dicts with the columns of history, each trial's in order; those of
        the last call are among them.
    """
    trial = lambda row: (row["arm"], int(row["fold"]), int(row["seed"]))
    ordered = sorted(rows, key=trial)  # Stable: epochs stay in order.
    for (arm, fold, seed), mine in itertools.groupby(ordered, trial):
      self._write(self._folder / arm / f"fold{fold}-seed{seed}", list(mine))

  def _write(self, folder, rows):
    epochs, events = self._written.get(folder, (0, b""))
    if len(rows) == epochs:
      return
    # The name says how many epochs are in it: those of an earlier run may do.
    suffix = f".{len(rows)}"
    old = list(folder.glob("events.*")) if folder.exists() else []
    if any(path.name.endswith(suffix) for path in old):
      return
    new = map(_event, rows[epochs:])
    events += _pack([*([] if events else [_HEAD]), *new])
    name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
    files.write_bytes(folder / (name + suffix), events)
    for path in old:
      path.unlink()
    self._written[folder] = len(rows), events


def _event(row):
  """An epoch's, as `event_pb2.Event` takes it."""
  known = {x: float(row.get(x, math.nan)) for x in workdirs.SCALARS}
  values = [
    {"tag": name, "simple_value": value}
    for name, value in known.items()
    if math.isfinite(value)
  ]
  return {"step": int(row["epoch"]), "summary": {"value": values}}


def _pack(events):
  """Events as TensorBoard's files have them, with lengths and checksums."""
  make, writer_to = _tensorboard()
  with tempfile.NamedTemporaryFile() as file:
    writer = writer_to(file.name)  # It knows paths alone.
    for event in events:
      writer.write(make(wall_time=time.time(), **event).SerializeToString())
    writer.close()
    return file.read()


@functools.cache
def _tensorboard():
  """The events of tensorboardX and their writer.

  It would import PyTorch where that is installed, and take seconds.
  """
  unknown = "torch" not in sys.modules
  if unknown:
    sys.modules["torch"] = None  # As if there were none.
  try:
    from tensorboardX import record_writer
    from tensorboardX.proto import event_pb2
  finally:
    if unknown:
      del sys.modules["torch"]
  return event_pb2.Event, record_writer.RecordWriter
