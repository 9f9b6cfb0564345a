"""A bucket has one writer: who lives is respected, who is gone is replaced."""

import json
import pathlib
import subprocess
import sys
import threading
import time
import uuid

import pytest

from kdjax import lease
from kdjax.errors import UserError

ELSEWHERE = {"owner": "x", "who": "process 1 on far", "host": "far"}


class Bucket(pathlib.PosixPath):
  """A folder in a bucket's place: objects appear whole or not at all."""

  def write_text(self, text):
    beside = pathlib.Path(self.parent.parent, uuid.uuid4().hex)
    beside.write_text(text)
    beside.replace(self)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A bucket where a second is a minute."""
  monkeypatch.setattr(lease, "BEAT", 0.1)
  monkeypatch.setattr(lease, "EXPIRY", 1.0)
  monkeypatch.setattr(lease, "_SETTLED", 0.05)
  folder = Bucket(tmp_path / "bucket")
  folder.mkdir()
  return folder


def write(folder, beats, part="", **changes):
  record = {**ELSEWHERE, "process": 1, "beats": beats, **changes}
  (folder / (f".lease-{part}" if part else ".lease")).write_text(
    json.dumps(record)
  )


def beats(folder):
  return json.loads((folder / ".lease").read_text())["beats"]


def await_beats(folder, number):
  """Waits for so many; how long a machine takes for them says nothing."""
  while beats(folder) < number:
    time.sleep(0.01)


def test_a_holder_gives_signs_of_life_and_leaves_nothing(folder):
  with lease.hold(folder, ("", "fold0-seed0")):
    names = sorted(x.name for x in folder.iterdir())
    assert names == [".lease", ".lease-fold0-seed0"]
    await_beats(folder, 3)
    lease.check(folder / "per_case.csv")
  assert not list(folder.iterdir())
  lease.check(folder / "per_case.csv")  # Nothing is held, nothing is asked.


def test_who_lives_elsewhere_is_respected(folder):
  write(folder, 0)
  ended = threading.Event()

  def live():
    number = 0
    while not ended.wait(0.1):
      number += 1
      write(folder, number)

  thread = threading.Thread(target=live)
  thread.start()
  try:
    with pytest.raises(UserError, match="in use by process 1 on far: wait"):
      with lease.hold(folder, ("",)):
        pytest.fail("two writers")
  finally:
    ended.set()
    thread.join()
  assert json.loads((folder / ".lease").read_text())["owner"] == "x"


def test_who_is_silent_elsewhere_is_replaced_and_finds_out(folder, capsys):
  write(folder, 7)
  begun = time.monotonic()
  with lease.hold(folder, ("",)):
    assert time.monotonic() - begun >= lease.EXPIRY
    assert (
      "was left by process 1 on far; waiting 1 s" in capsys.readouterr().err
    )
    # Now this one falls asleep, and another takes over.
    write(folder, 0, owner="y", who="process 2 on near")
    time.sleep(0.5)  # No beat of ours hides that.
    for path in (folder / "history.csv", folder / "checkpoints/student"):
      with pytest.raises(UserError, match="taken over by process 2 on near"):
        lease.check(path)
  assert json.loads((folder / ".lease").read_text())["owner"] == "y"


def test_other_parts_are_other_writers_business(folder, capsys):
  write(folder, 0, part="fold1-seed0")
  with lease.hold(folder, ("fold0-seed0",)):
    assert "waiting" not in capsys.readouterr().err


@pytest.mark.parametrize("dead", [True, False])
def test_a_process_of_this_machine_is_looked_for(folder, dead, capsys):
  script = "import sys; sys.stdin.read()"
  other = subprocess.Popen(
    [sys.executable, "-c", script], stdin=subprocess.PIPE
  )
  if dead:
    other.communicate()
  write(folder, 0, host=lease._host(), process=other.pid)
  begun = time.monotonic()
  with lease.hold(folder, ("",)):
    assert ("waiting 1 s" in capsys.readouterr().err) != dead
    assert dead or time.monotonic() - begun >= lease.EXPIRY
  if not dead:
    other.communicate()


def test_of_two_that_begin_at_once_one_stays(folder, monkeypatch):
  monkeypatch.setattr(lease, "_SETTLED", 0.3)
  timer = threading.Timer(0.1, write, (folder, 1))
  timer.start()
  with pytest.raises(UserError, match="taken over by process 1 on far"):
    with lease.hold(folder, ("",)):
      pytest.fail("two writers")
  timer.join()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"owner": 1}'])
def test_half_an_object_is_none(folder, text):
  (folder / ".lease").write_text(text)
  with lease.hold(folder, ("",)):
    assert beats(folder)
