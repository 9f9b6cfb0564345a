"""SIGTERM and SIGINT: a run that is asked to stop saves first, then leaves.

Python's own handlers wait for the end of whatever runs in C++, and compiling a
large network is minutes of that. So a thread hears the signals: while nothing
is at stake (data, compiling, evaluation, report) it ends the process at once,
as the files on disk are whole at any moment; after a step of training it leaves
that to the loop, which saves. A second signal never waits.
"""

import contextlib
import os
import signal
import threading

from kdjax.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_lock = threading.Lock()
_held = False
_heard = None


@contextlib.contextmanager
def heed(resume):
  """Heeds signals in its body, which must run in the main thread.

  Args:
    resume: the command that goes on, for the one line that a signal prints.
  """
  global _held, _heard
  _held, _heard = False, None
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  handlers = {x: signal.signal(x, lambda *_: None) for x in SIGNALS}
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  thread = threading.Thread(target=_listen, args=(reader, resume), daemon=True)
  thread.start()
  try:
    yield
  except Interrupted as error:
    error.resume = resume
    raise
  finally:
    signal.set_wakeup_fd(before)
    for number, handler in handlers.items():
      signal.signal(number, handler)
    os.close(writer)  # Which ends the thread.
    thread.join()
    os.close(reader)
    _held, _heard = False, None  # The next run in this process heard nothing.


def hold():
  """From now on a signal waits for `release`; returns whether one does."""
  global _held
  with _lock:
    _held = True
    return _heard is not None


def release():
  """All is on disk: from now on a signal ends the run at once.

  Raises:
    Interrupted: one came since `hold`.
  """
  global _held
  with _lock:
    _held = False
    if _heard is not None:
      raise Interrupted(_heard)


def _listen(reader, resume):
  global _heard
  while number := os.read(reader, 1):
    if number[0] not in SIGNALS:
      continue
    with _lock:
      first, _heard = _heard is None, _heard or number[0]
      if first and _held:
        continue
      line = f"\nkdjax: {Interrupted(_heard, resume)}\n"
      os.write(2, line.encode())
      os._exit(128 + _heard)
