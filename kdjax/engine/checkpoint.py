"""A block's stage on disk, through Orbax.

Every block has a folder of its own and is saved without its layout over
devices, so that any other layout can go on from it.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import sys

import absl.logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from kdjax import files
from kdjax import lease
from kdjax.errors import UserError

# It logs a traceback of what it raises, which becomes a line here.
absl.logging.set_verbosity(absl.logging.FATAL)


@dataclasses.dataclass
class Progress:
  """How far a block came in a stage.

  Attributes:
    step: optimizer's steps done, of whole epochs and of one begun.
    states: its trials' `lanes.States` on the host, nested dicts with leaves
      `[G, ...]`, a regressor's `[R, ...]`; empty before the first checkpoint.
    history: rows of the history, and the device-seconds of each.
    seconds: device-seconds of each trial in the epoch that is begun.
    finished: whether every trial has stopped.
    weighed: `waves.Wave.weighed` of its trials, lists by name.
  """

  step: int = 0
  states: dict = dataclasses.field(default_factory=dict)
  history: list = dataclasses.field(default_factory=list)
  seconds: float = 0.0
  finished: bool = False
  weighed: dict = dataclasses.field(default_factory=dict)

  def digest(self):
    """A sha256 in hex of all of it."""
    total = hashlib.sha256()
    said = [self.step, self.history, self.seconds, self.finished]
    said += [self.weighed] if self.weighed else []  # An older kdjax had none.
    total.update(json.dumps(said).encode())
    for path, leaf in jax.tree.leaves_with_path(self.states):
      leaf = np.ascontiguousarray(leaf)
      total.update(repr((jax.tree_util.keystr(path), leaf.dtype)).encode())
      total.update(repr(leaf.shape).encode() + leaf.tobytes())
    return total.hexdigest()


def best(states):
  """The best epoch's variables of a block's trials, of `Progress.states`.

  Returns:
    `{"params", "batch_stats"}` with leaves `[G, ...]`.
  """
  trials = states["trials"]
  return {
    "params": trials["best_params"],
    "batch_stats": trials["best_batch_stats"],
  }


class Checkpoint:
  """The saved steps of one block in one stage; the last two are kept.

  Args:
    folder: of the block.
    owner: says in any words whose they are; those of another are damage.
  """

  def __init__(self, folder, owner=""):
    self._folder = _absolute(folder)
    self._owner = owner
    with self._explained():
      self._manager = ocp.CheckpointManager(
        self._folder,
        options=ocp.CheckpointManagerOptions(
          max_to_keep=2, cleanup_tmp_directories=True
        ),
      )

  def save(self, progress):
    """Saves `Progress`, whole or not at all, in the background.

    Waits for the save before; does nothing where this step is saved.

    Raises:
      UserError: this or the save before cannot be written.
    """
    self.wait()
    lease.check(self._folder)
    if progress.step == self._manager.latest_step():
      return
    record = {
      "history": list(progress.history),  # Goes on growing meanwhile.
      "seconds": progress.seconds,
      "finished": progress.finished,
      "weighed": progress.weighed,
      "digest": progress.digest(),
      "owner": self._owner,
    }
    with self._explained():
      self._find_room(progress.states)
      self._manager.save(
        progress.step,
        args=ocp.args.Composite(
          states=ocp.args.StandardSave(progress.states),
          progress=ocp.args.JsonSave(record),
        ),
      )

  def _find_room(self, states):
    """Refuses a disk that is full before anything is written.

    Orbax finds out in the middle, and its threads then print tracebacks.
    """
    if files.is_bucket(self._folder):
      return
    # Arrays are small files and blocks of a disk larger.
    arrays = sum(np.asarray(x).nbytes for x in jax.tree.leaves(states))
    needed = 2 * arrays + 2**20
    free = shutil.disk_usage(self._folder).free
    if free < needed:
      raise OSError(
        f"No space left on device: it takes {needed:,} bytes, {free:,} are free"
      )

  def wait(self):
    """Waits until what was saved is on disk.

    Raises:
      UserError: it cannot be written.
    """
    with self._explained():
      self._manager.wait_until_finished()

  def restore(self):
    """The newest good `Progress`; a blank one where there is none.

    A damaged one is named on stderr and set aside.
    """
    steps = sorted(self._steps(), reverse=True)
    for step in steps:
      try:
        return _read(self._manager, step, self._owner)
      except (PermissionError, MemoryError):
        raise
      except Exception as error:  # Damage raises whatever a reader stumbles on.
        self._set_aside(step, error)
    if steps:
      _say(
        f"{self._folder}: no checkpoint is good, so its training begins anew"
      )
    return Progress()

  def _steps(self):
    """Of what is there, good or damaged."""
    if files.is_bucket(self._folder):  # Where half a save has its name already.
      return self._manager.all_steps()
    found = [x.name for x in self._folder.iterdir()]
    return [int(x) for x in found if re.fullmatch("0|[1-9][0-9]*", x)]

  def _set_aside(self, step, error):
    aside = self._folder / f"damaged-{step}"
    if aside.exists():  # From an earlier damage.
      aside.rmtree()
    (self._folder / str(step)).rename(aside)
    self._manager.reload()
    why = f"{type(error).__name__}: {_first_line(error)}"
    _say(
      f"{self._folder / str(step)}: damaged ({why}), set aside as {aside.name}"
    )

  def history(self):
    """The newest `Progress.history`, without reading the states."""
    step = self._manager.latest_step()
    if step is None:
      return []
    return _record(self._manager, step)["history"]

  def close(self):
    """Waits for what is being written."""
    with self._explained():
      self._manager.close()

  @contextlib.contextmanager
  def _explained(self):
    """Makes one line of what Orbax raises when it cannot write."""
    try:
      yield
    except Exception as error:
      raise UserError(
        f"{self._folder}: cannot be saved ({_first_line(error)}); what was "
        "saved before is intact: make room, then run the same command again."
      ) from error


def read(folder):
  """The newest `Progress` of a block's `folder`, which stays as it is.

  Raises:
    UserError: nothing is saved there, it is damaged, or by an older kdjax.
  """
  options = ocp.CheckpointManagerOptions(create=False)
  if not folder.is_dir():
    raise UserError(f"{folder} is not there: train there first.")
  try:
    with ocp.CheckpointManager(_absolute(folder), options=options) as manager:
      step = manager.latest_step()
      found = None if step is None else _read(manager, step)
  except Exception as error:  # Damage raises whatever a reader stumbles on.
    raise UserError(
      f"{folder}: its checkpoint cannot be read ({_first_line(error)}): train "
      "there again."
    ) from error
  if found is None:
    raise UserError(f"{folder} has no checkpoint: train there first.")
  if "trials" not in found.states:
    raise UserError(f"{folder}: saved by an older kdjax: train anew.")
  return found


def finished(folder):
  """Whether all trials of a block's `folder` have stopped.

  Another process may be writing there: what cannot be read is not finished.
  """
  if not folder.is_dir():
    return False
  options = ocp.CheckpointManagerOptions(create=False)
  try:
    with ocp.CheckpointManager(_absolute(folder), options=options) as manager:
      step = manager.latest_step()
      return step is not None and _record(manager, step)["finished"]
  except Exception:
    return False


def _record(manager, step):
  """All of a checkpoint but the states."""
  saved = manager.restore(
    step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
  )
  return saved["progress"]


def _read(manager, step, owner=""):
  saved = manager.restore(
    step,
    args=ocp.args.Composite(
      states=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore()
    ),
  )
  digest = saved["progress"].pop("digest")
  # An older kdjax did not say.
  found = saved["progress"].pop("owner", "")
  if owner and found and found != owner:
    raise ValueError("it is of another study or block")
  progress = Progress(step, saved["states"], **saved["progress"])
  if progress.digest() != digest:
    raise ValueError("its digest is another")
  return progress


def _absolute(folder):
  """As Orbax wants it; a bucket's would be taken for a name in this folder."""
  folder = epath.Path(folder)
  return folder if files.is_bucket(folder) else folder.resolve()


def _first_line(error):
  lines = str(error).strip().splitlines()
  return lines[0][:200] if lines else type(error).__name__


def _say(line):
  print(f"kdjax: {line}.", file=sys.stderr)
