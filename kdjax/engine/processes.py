"""Many processes: each trains its share of the blocks, the first reports.

Blocks need nothing of each other, so all that processes share is the workdir:
each saves its own blocks there, and the first waits for the checkpoints of the
others. None ends because another did.
"""

import contextlib
import dataclasses
import sys
import threading
import time

import jax

from kdjax import workdirs
from kdjax.engine import checkpoint
from kdjax.engine import fitting
from kdjax.engine import rendezvous
from kdjax.engine import rungs
from kdjax.errors import UserError

BEAT = 5.0  # Seconds between two signs of life.
PATIENCE = 60.0  # Seconds without one after which a process counts as dead.


@dataclasses.dataclass(frozen=True)
class Share:
  """Process `index` of `count`."""

  count: int = 1
  index: int = 0

  @property
  def first(self):
    """Whether it writes what all share: every file but checkpoints."""
    return self.index == 0

  def of(self, study):
    """The blocks of a study that it trains; the first's are never fewer.

    A search tells all seeds of its fold what to train with, so that they stay
    together.
    """
    part = lambda block: block.fold if rungs.tuned(study) else block
    parts = list(dict.fromkeys(map(part, study.blocks)))
    mine = parts[self.index :: self.count]
    return tuple(block for block in study.blocks if part(block) in mine)


def join(coordinator, count, index):
  """This process's `Share`, by the flags of `kdjax train`.

  Args:
    coordinator: where all meet before they begin, or None; see `rendezvous`.
    count: of processes, or None.
    index: of this one, or None.

  Raises:
    UserError: the flags do not fit together, or not all processes came.
  """
  if coordinator == rendezvous.AUTO:
    if (count, index) != (None, None):
      raise UserError(
        "--coordinator=auto tells --processes and --process: leave them out."
      )
  elif count is None and index is None and coordinator is None:
    return Share()
  elif count is None or index is None or not 0 <= index < count:
    raise UserError(
      f"--processes={count} --process={index}: say how many there are and "
      "which one this is, 0 to one less."
    )
  if coordinator:
    count, index = rendezvous.meet(coordinator, count, index)
  if (hosts := jax.process_count()) > 1:
    raise UserError(
      f"JAX takes {hosts} hosts for one machine: set TPU_PROCESS_BOUNDS=1,1,1 "
      "and TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 (where a host has 4 chips), as "
      "launch/tpu_slice.yaml does."
    )
  return Share(count, index)


def take(study, share):
  """The `Study` of this process's blocks alone.

  Raises:
    UserError: its devices cannot share so few trials.
  """
  blocks = share.of(study)
  if not blocks:
    _say(
      share,
      f"nothing to train, as folds x seeds makes {len(study.blocks)} blocks",
    )
  mine = dataclasses.replace(study, blocks=blocks, first=share.first)
  for stage in study.stages:
    if blocks and share.count > 1:
      fitting.make_layout(mine, stage, len(blocks))
  return mine


def parts(mine):
  """Names of what `take`'s study writes, for `files.lock`."""
  shared = ("",) if mine.first else ()
  return (*shared, *(block.name for block in mine.blocks))


@contextlib.contextmanager
def alive(share, workdir):
  """Shows the first process, while its body runs, that this one lives."""
  if share.first:
    yield
    return
  path = _sign(workdir, share.index)
  ended = threading.Event()

  def beat():
    while True:
      # A disk that is full is the checkpoints' to tell.
      with contextlib.suppress(OSError):
        path.write_text(f"{time.time()}\n")
      if ended.wait(BEAT):
        return

  thread = threading.Thread(target=beat, daemon=True)
  thread.start()
  try:
    yield
    _say(share, "trained its share")
  finally:
    ended.set()
    thread.join()
    path.unlink(missing_ok=True)


def await_first(share, path):
  """Waits until the first process wrote `path`.

  Raises:
    UserError: it does not.
  """
  begun = time.monotonic()
  while not path.exists():
    if time.monotonic() - begun > PATIENCE:
      raise UserError(
        f"{path} was not written by process 0 in {PATIENCE:.0f} s: start it "
        f"too, with --processes={share.count} --process=0."
      )
    time.sleep(0.2)


def await_others(study, share):
  """Waits until other processes have trained all blocks of `study`.

  Raises:
    UserError: those that are left show no sign of life.
  """
  own = share.of(study)
  left = [block for block in study.blocks if block not in own]
  seen, since = None, time.monotonic()
  while left := [x for x in left if not _finished(study, x)]:
    signs = len(left), [_look(study, i) for i in range(1, share.count)]
    if signs != seen:
      if seen is None:
        _say(share, f"trained its share, waits for {_names(left)}")
      seen, since = signs, time.monotonic()
    elif time.monotonic() - since > PATIENCE:
      raise UserError(
        f"{_names(left)} not trained, and no process shows a sign of life: the "
        "same command, with any number of processes, completes the grid."
      )
    time.sleep(1.0)


def _finished(study, block):
  return checkpoint.finished(
    workdirs.checkpoints(study.workdir, "student", block.name)
  )


def _look(study, index):
  """The last sign of life of a process; None where there is none."""
  try:
    return _sign(study.workdir, index).read_text()
  except OSError:
    return None


def _sign(workdir, index):
  return workdir / f".alive-{index}"


def _names(blocks):
  return ", ".join(block.name for block in blocks)


def _say(share, line):
  where = f"process {share.index} of {share.count}"
  print(f"kdjax: {where}: {line}.", file=sys.stderr)
