"""A command may take its time while it speaks, and outlives no test."""

import pathlib
import sys
import time

import pytest

from tests import started

SPEAKS = """
import sys, time
for _ in range(6):
  print("word", file=getattr(sys, sys.argv[1]), flush=True)
  time.sleep(0.5)
"""
LEAVES = """
import subprocess, sys, time
nap = "import time; time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", nap], close_fds=False)
print(child.pid, flush=True)
if len(sys.argv) == 1:
  time.sleep(600)
"""


def start(program, *argv):
  return started.Process([sys.executable, "-c", program, *argv])


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_who_speaks_is_waited_for_longer_than_who_is_silent(
  stream, monkeypatch
):
  monkeypatch.setattr(started, "SILENCE", 2.0)
  assert start(SPEAKS, stream).ended() == 0
  with pytest.raises(AssertionError):
    start(LEAVES).ended()


def lives(pid):
  """Whether it does; of the dead some stay until they are counted: zombies."""
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("argv", "status"), [((), -9), (("leaves",), 0)])
def test_what_a_failing_test_leaves_is_killed_with_what_that_started(
  argv, status
):
  process = start(LEAVES, *argv)
  assert process.wait_for(lambda: process.out.endswith("\n"))
  child = int(process.out)
  if argv:
    process.finish()
  started.end_all()
  assert process.status == status
  while lives(child):  # It is dying.
    time.sleep(0.01)


def test_what_it_says_can_be_read_while_it_speaks():
  process = start(SPEAKS, "stdout")
  for count in range(1, 7):
    assert process.wait_for(lambda n=count: process.out == n * "word\n")
  assert process.finish() == 6 * "word\n"
  assert process.err == ""
