"""What kdjax frees it keeps, however large it is."""

import ctypes
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
  not sys.platform.startswith("linux"), reason="glibc's allocator is Linux'"
)

# Fills a piece of memory, frees it, and prints the megabytes that stay.
PROGRAM = """
import ctypes, resource, sys
from kdjax.engine import memory
if sys.argv[1] == "keep":
  memory.keep()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = int(2.2 * 2**30)
piece = libc.malloc(ctypes.c_size_t(size))
ctypes.memset(piece, 1, size)
libc.free(ctypes.c_void_p(piece))
with open("/proc/self/statm") as file:
  print(int(file.read().split()[1]) * resource.getpagesize() // 2**20)
"""


def resident(how):
  run = subprocess.run(
    [sys.executable, "-c", PROGRAM, how],
    capture_output=True,
    text=True,
    check=True,
  )
  return int(run.stdout)


def test_a_process_starts_anew_with_another_allocator(tmp_path):
  """Once, with its own arguments; and not where one is chosen already."""
  library = tmp_path / "lib" / "libjemalloc.so.2"
  library.parent.mkdir()
  ctypes.CDLL("libm.so.6")  # Any library stands in for one.
  maps = pathlib.Path("/proc/self/maps").read_text().split()
  shutil.copy(next(x for x in maps if "/libm.so" in x), library)
  program = (
    "import sys; from kdjax.engine import memory\n"
    f"memory._FOLDERS = ({str(library.parent)!r},)\n"
    "memory.prefer()\n"
    "import os; print(memory.allocator(), os.environ['MALLOC_CONF'],"
    " sys.argv[1:], os.environ.get('LD_PRELOAD'))"
  )
  clean = {x: y for x, y in os.environ.items() if x != "LD_PRELOAD"}

  def run(**more):
    return subprocess.run(
      [sys.executable, "-c", program, "a", "b c"],
      env=clean | {"MALLOC_CONF": "own"} | more,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  assert run() == f"libjemalloc own ['a', 'b c'] {library}"
  assert run(LD_PRELOAD="") == "the system's own ['a', 'b c']"


def test_two_gigabytes_and_more_stay_in_the_process():
  assert resident("keep") > 2200
  assert resident("leave") < 1000
