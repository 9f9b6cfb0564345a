"""Files that appear whole or not at all, in a folder with one writer."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import socket
import uuid

from etils import epath

from kdjax import lease
from kdjax.errors import UserError


def is_bucket(path):
  """Whether `path` is in an object store, not on a disk."""
  return "://" in os.fspath(path)


def write_text(path, text):
  """Writes `text` as UTF-8, its line ends untouched; see `write_bytes`."""
  write_bytes(path, text.encode())


def write_bytes(path, content):
  """Writes beside `path`, then renames: a reader never sees half of it.

  Args:
    path: a local path or a bucket's (`gs://...`); missing folders are made.
    content: the whole of it.

  Raises:
    OSError: `path` cannot be written; what stood there is unharmed.
  """
  path = epath.Path(path)
  if is_bucket(path):  # There an object appears whole or not at all.
    lease.check(path)
    path.write_bytes(content)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
  try:
    beside.write_bytes(content)
    beside.replace(path)
  except BaseException as error:  # An interrupt must leave no half file either.
    beside.unlink(missing_ok=True)
    if isinstance(error, OSError):  # A full disk does not say whose file it is.
      raise OSError(error.errno, error.strerror, str(path)) from error
    raise


def read_json(path):
  """The object in a JSON file of a workdir, a dict.

  Raises:
    UserError: it is not whole.
  """
  try:
    # A pipe would be waited for.
    tree = json.loads(path.read_text()) if path.is_file() else None
    if isinstance(tree, dict):
      return tree
  except (ValueError, RecursionError):
    pass
  raise UserError(
    f"{path} is damaged: restore it, or choose a fresh --workdir."
  )


@contextlib.contextmanager
def lock(folder, parts=("",)):
  """Keeps other processes from writing in `folder` while its body runs.

  The system releases the lock when the process ends, however it ends; in a
  bucket it is a `lease`. Whoever locks part "" first removes the half-written
  files that a killed process left.

  Args:
    folder: which is made where it is missing.
    parts: names of what is written; "" is all that has no other name.

  Raises:
    UserError: a living process has one of them.
    OSError: `folder` cannot be made or written.
  """
  if is_bucket(folder):
    with lease.hold(epath.Path(folder), parts):
      yield
    return
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    for part in parts:
      _lock(folder, stack.enter_context(_lock_file(folder, part).open("a+")))
    for path in folder.rglob(".*") if "" in parts else ():
      if re.fullmatch(r"\..+\.[0-9a-f]{32}", path.name) and path.is_file():
        path.unlink()
    yield


def _lock_file(folder, part):
  return folder / (f".lock-{part}" if part else ".lock")


def _lock(folder, file):
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    raise UserError(
      f"{folder} is in use by {file.read().strip() or 'another process'}: "
      "wait for its end, stop it, or choose another --workdir."
    ) from error
  file.truncate(0)
  file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
  file.flush()
