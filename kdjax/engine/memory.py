"""How much memory a device has, and what a process's pieces of it cost.

XLA:CPU asks for a program's temporaries anew at every call. By default glibc
hands so large a piece back to the system and maps fresh pages, each of which
costs a fault; told to keep them it has one heap for all threads, in which it
walks along thousands of odd pieces once images are read and programs compiled.
Other allocators do neither. Seconds of a step on two cores, median of four to
six in one process each:

                            glibc   glibc, kept   jemalloc   tcmalloc
  72 draws of `tuned`, turns  5.2       8.6          4.8        5.5
  `busi_cpu`                  1.2       1.2          1.0
  `bench`, one program        7.8       6.4          6.9

Kept, programs compile 1.2 to 1.6 times as long, too.
"""

import ctypes
import os
import pathlib
import platform
import sys

# Other allocators, best first, and what has them keep what is freed.
_QUICK = {
  "libjemalloc.so*": {"MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"},
  "libtcmalloc_minimal.so*": {"TCMALLOC_RELEASE_RATE": "0"},
  "libtcmalloc.so*": {"TCMALLOC_RELEASE_RATE": "0"},
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
  """Starts this process anew with another allocator, if the machine has one.

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


def release():
  """Gives the system back what is free, whatever gives this process its memory.

  After programs are compiled, say, which takes gigabytes that no step takes
  again. Does nothing where the allocator is one that is not known.
  """
  if not sys.platform.startswith("linux"):
    return
  library = ctypes.CDLL(None)
  if hasattr(library, "mallctl"):  # jemalloc's; 4096 is all of its arenas.
    library.mallctl(b"arena.4096.purge", None, None, None, ctypes.c_size_t(0))
  elif hasattr(library, "MallocExtension_ReleaseFreeMemory"):  # tcmalloc's.
    library.MallocExtension_ReleaseFreeMemory()
  elif hasattr(library, "malloc_trim"):  # glibc's.
    library.malloc_trim(ctypes.c_size_t(0))


def keep():
  """Tells glibc to keep what is freed; call it before JAX starts its threads.

  For a process of one large program. Does nothing where the C library, or the
  allocator, is another. The process holds on to the most memory that it ever
  used, until it ends.
  """
  if not sys.platform.startswith("linux"):
    return
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt:
    mallopt(_MMAP_MAX, 0)
    mallopt(_ARENA_MAX, 1)
    mallopt(_TRIM_THRESHOLD, -1)  # Any size; a number would be 2 GiB at most.
