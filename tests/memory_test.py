"""What kdjax frees it keeps, however large it is."""

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


def test_two_gigabytes_and_more_stay_in_the_process():
  assert resident("keep") > 2200
  assert resident("leave") < 1000
