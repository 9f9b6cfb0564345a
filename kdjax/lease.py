"""One writer in a bucket: an object that its owner beats, others respect.

A bucket has no locks that end with a process. So whoever writes keeps an object
there and changes it every few seconds. One that has not changed for as long as
`EXPIRY` belongs to nobody: its owner was preempted. An owner who was only
asleep finds another's name in it before it writes again, and stops.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid

from kdjax.errors import UserError

BEAT = 10.0  # Seconds between two signs of life.
EXPIRY = 60.0  # Seconds without one after which an owner is gone.
_SETTLED = 2.0  # Seconds in which whoever writes at the same time has written.

_BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")

_held = []  # Those of this process.


@contextlib.contextmanager
def hold(folder, parts):
  """Keeps other processes from writing `parts` of `folder` meanwhile.

  Args:
    folder: `epath.Path` of a bucket.
    parts: names of what is written; "" is all that has no other name.

  Raises:
    UserError: a living process has one of them.
  """
  with contextlib.ExitStack() as stack:
    mine = [_Lease(folder, part) for part in parts]
    for lease in mine:
      lease.await_end()
    for lease in mine:
      lease.beat()
      stack.callback(lease.release)
    time.sleep(_SETTLED)
    _held.extend(mine)
    stack.callback(lambda: [_held.remove(lease) for lease in mine])
    check(folder)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(mine, ended), daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(ended.set)
    yield


def check(path):
  """Makes sure that what this process holds around `path` is still its own.

  Raises:
    UserError: another process has taken it over.
  """
  for lease in _held:
    if os.fspath(path).startswith(os.fspath(lease.folder)):
      lease.check()


def _beat(leases, ended):
  """Gives signs of life until the end; a network that fails is tried again."""
  while not ended.wait(BEAT):
    for lease in leases:
      # What a store raises depends on its library; a check before the next
      # write tells for sure.
      with contextlib.suppress(Exception):
        if lease.is_mine():
          lease.beat()


class _Lease:
  """The object of a part.

  Attributes:
    folder: whose part it is.
  """

  def __init__(self, folder, part):
    self.folder = folder
    self._path = folder / (f".lease-{part}" if part else ".lease")
    self._owner = uuid.uuid4().hex
    self._beats = 0

  def await_end(self):
    """Returns when nobody owns it, at once where that is sure.

    Raises:
      UserError: its owner gave a sign of life.
    """
    first = self._read()
    if not first or _is_dead(first):
      return
    print(
      f"kdjax: {self.folder} was left by {first['who']}; waiting {EXPIRY:g} s "
      "for a sign of life.",
      file=sys.stderr,
    )
    until = time.monotonic() + EXPIRY
    while time.monotonic() < until:
      time.sleep(min(1.0, BEAT / 2))
      now = self._read()
      if not now:
        return
      if now != first:
        raise UserError(
          f"{self.folder} is in use by {now['who']}: wait for its end, stop "
          "it, or choose another --workdir."
        )

  def beat(self):
    """Writes a sign of life."""
    self._beats += 1
    record = {
      "owner": self._owner,
      "who": f"process {os.getpid()} on {socket.gethostname()}",
      "host": _host(),
      "process": os.getpid(),
      "beats": self._beats,
    }
    self._path.write_text(json.dumps(record))

  def is_mine(self):
    """Whether the object has this process' name."""
    found = self._read()
    return bool(found) and found["owner"] == self._owner

  def check(self):
    """See the function of this name."""
    found = self._read()
    if not found or found["owner"] != self._owner:
      who = found["who"] if found else "somebody who has gone"
      raise UserError(
        f"{self.folder} was taken over by {who}, since nothing was heard of "
        "this process: it stops here, and what was saved is whole."
      )

  def release(self):
    """Removes the object, if it is still this process' own."""
    with contextlib.suppress(Exception):  # Or it expires.
      if self.is_mine():
        self._path.unlink()

  def _read(self):
    """The object as a dict, {} where there is none or half of one."""
    try:
      found = json.loads(self._path.read_text())
    except (FileNotFoundError, ValueError):
      return {}
    keys = {"owner", "who", "host", "process"}
    return found if isinstance(found, dict) and keys <= set(found) else {}


def _host():
  """This machine since it was started, and no other of its name."""
  boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
  return f"{socket.gethostname()} {boot}"


def _is_dead(record):
  """Whether an owner is a process of this machine that has ended."""
  if record["host"] != _host():
    return False
  if (
    record["process"] == os.getpid()
  ):  # As a container has when it starts anew.
    return not any(record["owner"] == lease._owner for lease in _held)
  try:
    os.kill(record["process"], 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    pass
  return False
