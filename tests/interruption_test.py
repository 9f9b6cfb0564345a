"""A signal ends the run at once, or waits for a save; a second never waits."""

import os
import signal
import sys
import time

import pytest

from kdjax.engine import interruption
from kdjax.errors import Interrupted
from tests import started

PROGRAM = """
import sys, time
from kdjax.engine import interruption
from kdjax.errors import Interrupted
try:
  with interruption.heed("kdjax train"):
    if sys.argv[1] == "held":
      interruption.hold()
    print("ready", flush=True)
    while True:
      if sys.argv[1] == "held" and interruption.hold():
        print("heard", flush=True)
        if sys.argv[2] == "saves":
          interruption.release()
        time.sleep(60)
      time.sleep(0.01)
except Interrupted as error:
  print("left", error.number, flush=True)
"""


def start(*argv):
  process = started.Process([sys.executable, "-c", PROGRAM, *argv])
  assert process.wait_for(lambda: process.out == "ready\n")
  return process


@pytest.mark.parametrize(
  ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_with_nothing_at_stake_it_leaves_at_once_and_says_how_to_resume(
  number, status
):
  process = start("free", "")
  assert process.stop(number) == status
  (line,) = process.err.split("\n")[1:-1]
  assert number.name in line
  assert line.endswith("go on with: kdjax train")


def test_with_work_at_stake_it_waits_for_the_save():
  process = start("held", "saves")
  process.stop(signal.SIGTERM)
  assert process.out == "ready\nheard\nleft 15\n"


def test_a_second_signal_does_not_wait():
  process = start("held", "hangs")
  process.send(signal.SIGTERM)
  assert process.wait_for(lambda: process.out.endswith("heard\n"))
  assert process.stop(signal.SIGINT) == 143  # It was the first that asked.


def test_outside_of_heed_signals_are_what_they_were():
  before = signal.getsignal(signal.SIGINT)
  with interruption.heed("x"):
    assert not interruption.hold()
    os.kill(os.getpid(), signal.SIGINT)
    deadline = time.monotonic() + 30
    while not interruption.hold():
      assert time.monotonic() < deadline
    with pytest.raises(Interrupted):
      interruption.release()
    interruption.hold()  # Or the end of the test would be the end of pytest.
  assert signal.getsignal(signal.SIGINT) is before
  assert not interruption.hold()  # Nor does a run without `heed` hear it.
  interruption.release()
