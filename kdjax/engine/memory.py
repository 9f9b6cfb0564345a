"""How much memory a device has, and how a process keeps what it freed.

XLA:CPU asks for a program's temporaries anew at every call. By default glibc
hands so large a piece back to the system and maps fresh pages, each of which
costs a fault: a third of a step of the paper's student. Kept in one heap, they
leave it in thousands of odd pieces once a study has read its images and
compiled its programs, and glibc walks along these in every call, one thread at
a time: another allocator, where the machine has one, takes less than half as
long for a step of many arms.
"""

import ctypes
import os
import pathlib
import platform
import sys

# Allocators that find a piece without walking, best first, and what has them
# keep what is freed.
_QUICK = {
  "libtcmalloc_minimal.so*": {"TCMALLOC_RELEASE_RATE": "0"},
  "libtcmalloc.so*": {"TCMALLOC_RELEASE_RATE": "0"},
  "libjemalloc.so*": {"MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"},
}
_FOLDERS = (
  f"{sys.prefix}/lib",  # Of conda.
  "/usr/local/lib",
  f"/usr/lib/{platform.machine()}-linux-gnu",
  "/usr/lib64",
  "/usr/lib",
)
_PRELOAD = "LD_PRELOAD"

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


def prefer():
  """Starts this process anew with a quick allocator, if the machine has one.

  Does nothing where LD_PRELOAD is set, to another or to nothing, or where there
  is none; call it before anything else, since nothing is kept.
  """
  if not sys.platform.startswith("linux") or _PRELOAD in os.environ:
    return
  if found := _find():
    path, settings = found
    new = {**settings, **os.environ, _PRELOAD: str(path)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], new)


def _find():
  """The first of `_QUICK` that is there, and its settings; or None."""
  for name, settings in _QUICK.items():
    for folder in map(pathlib.Path, _FOLDERS):
      if found := sorted(folder.glob(name)):
        return found[0], settings
  return None


def allocator():
  """What gives this process its memory, in a word."""
  names = pathlib.Path(os.environ.get(_PRELOAD, "")).name.split(".")
  return names[0] or "the system's"


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
