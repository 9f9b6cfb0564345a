"""How much memory a device has, and how a process keeps what it freed.

XLA:CPU asks for a program's temporaries anew at every call. By default glibc
hands so large a piece back to the system and maps fresh pages, each of which
costs a fault: a third of a step of the paper's student.
"""

import ctypes
import os
import sys

# Numbers of mallopt(3): nothing is mapped by itself, nothing trimmed, and all
# threads share one heap, which alone may grow to any size.
_MMAP_MAX, _ARENA_MAX, _TRIM_THRESHOLD = -4, -8, -1


def of_device(device):
  """Bytes that `device` has in all, or None where it does not say."""
  if statistics := device.memory_stats():
    return statistics.get("bytes_limit")
  if device.platform == "cpu" and hasattr(os, "sysconf"):
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return None


def keep():
  """Tells glibc so; call it before JAX starts its threads.

  Does nothing where the C library is another. The process holds on to the most
  memory that it ever used, until it ends.
  """
  if not sys.platform.startswith("linux"):
    return
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt:
    mallopt(_MMAP_MAX, 0)
    mallopt(_ARENA_MAX, 1)
    mallopt(_TRIM_THRESHOLD, -1)  # Any size; a number would be 2 GiB at most.
