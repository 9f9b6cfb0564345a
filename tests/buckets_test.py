"""A workdir in a bucket is as good as one on a disk."""

import os
import sys

import pytest

from tests import bucket
from tests import started

pytestmark = [
  pytest.mark.slow,
  # On any machine: who hangs is found by its silence.
  pytest.mark.timeout(3600),
]
pytest.importorskip("gcsfs")

SAME = ("per_case.csv", "history.csv", "data.json", "report/table.csv")
WORKDIR = "gs://bucket/runs/tiny"


def start(command, *flags, **environment):
  return started.Process(
    [sys.executable, "-m", "kdjax.cli", command, *flags],
    env=started.environment(**environment),
  )


def test_a_run_in_a_bucket_is_killed_resumed_and_equals_one_on_a_disk(tmp_path):
  train = (
    "train",
    "--config=configs/paper.py:tiny",
    "--config.grid.pathway=L",
    "--config.grid.loss=KLD",
    "--config.student_training.max_epochs=4",
    "--config.engine.checkpoint_epochs=1",
    *started.flags(started.SMALL),
    f"--config.data.cache_dir={tmp_path / 'cache'}",
  )
  start(*train, "--workdir", tmp_path / "run").finish()
  with bucket.serve() as (objects, environment):
    saved = "runs/tiny/checkpoints/student/fold0-seed0"
    first = start(*train, f"--workdir={WORKDIR}", **environment)
    assert first.wait_for(
      lambda: any(
        name.startswith(saved) and name.endswith("/commit_success.txt")
        for _, name in list(objects)
      )
    ), first.err
    first.stop()
    assert ("bucket", "runs/tiny/per_case.csv") not in objects
    # What is left of a save that was cut short.
    objects["bucket", f"{saved}/99/_CHECKPOINT_METADATA"] = b"{}", 1
    again = start(*train, f"--workdir={WORKDIR}", **environment)
    lease = "bucket", "runs/tiny/.lease"
    # At once, since its process of this machine is dead.
    assert again.wait_for(
      lambda: f"process {again.pid} ".encode() in objects.get(lease, (b"",))[0]
    ), again.err
    third = start(*train, f"--workdir={WORKDIR}", **environment)
    assert third.ended() == 1
    assert f"is in use by process {again.pid} on " in third.err
    again.finish()
    assert "waiting" not in again.err and "damaged" not in again.err
    assert not [name for _, name in objects if "/.lease" in name]
    for name in SAME:
      there = objects["bucket", f"runs/tiny/{name}"][0]
      assert there == (tmp_path / "run" / name).read_bytes(), name
    assert not [name for _, name in objects if "/.per_case" in name]
    publish = ("report", WORKDIR, "--out", tmp_path / "out")
    assert "| L_KLD_WAug " in start(*publish, **environment).finish()
    assert (tmp_path / "out/table.csv").exists()
    assert not (tmp_path / "gs:").exists() and not os.path.exists("gs:")
