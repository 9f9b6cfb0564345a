"""A workdir in a bucket is as good as one on a disk."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests import bucket

pytestmark = pytest.mark.slow
pytest.importorskip("gcsfs")

SAME = ("per_case.csv", "history.csv", "data.json", "report/table.csv")
WORKDIR = "gs://bucket/runs/tiny"


def start(out, command, *flags, **environment):
  """A command that writes to files: gcsfs would fill up a pipe."""
  with out.open("w") as said, out.with_suffix(".err").open("w") as complained:
    return subprocess.Popen(
      [sys.executable, "-m", "kdjax.cli", command, *map(str, flags)],
      env={
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "",
        **environment,
      },
      stdout=said,
      stderr=complained,
    )


def end(process, out):
  status = process.wait(timeout=500)
  err = out.with_suffix(".err").read_text()
  assert status == 0, err
  return out.read_text(), err


def test_a_run_in_a_bucket_is_killed_resumed_and_equals_one_on_a_disk(tmp_path):
  train = (
    "train",
    "--config=configs/paper.py:tiny",
    "--config.grid.pathway=L",
    "--config.grid.loss=KLD",
    "--config.student_training.max_epochs=4",
    "--config.engine.checkpoint_epochs=1",
    f"--config.data.cache_dir={tmp_path / 'cache'}",
  )
  out = tmp_path / "out.txt"
  end(start(out, *train, "--workdir", tmp_path / "run"), out)
  with bucket.serve() as (objects, environment):
    saved = "runs/tiny/checkpoints/student/fold0-seed0"
    first = start(out, *train, f"--workdir={WORKDIR}", **environment)
    deadline = time.monotonic() + 400
    while not any(
      name.startswith(saved) and name.endswith("/commit_success.txt")
      for _, name in list(objects)
    ):
      assert first.poll() is None, out.with_suffix(".err").read_text()
      assert time.monotonic() < deadline
      time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert ("bucket", "runs/tiny/per_case.csv") not in objects
    # What is left of a save that was cut short.
    objects["bucket", f"{saved}/99/_CHECKPOINT_METADATA"] = b"{}", 1
    again = start(out, *train, f"--workdir={WORKDIR}", **environment)
    _, err = end(again, out)
    assert "damaged" not in err
    for name in SAME:
      there = objects["bucket", f"runs/tiny/{name}"][0]
      assert there == (tmp_path / "run" / name).read_bytes(), name
    assert not [name for _, name in objects if "/.per_case" in name]
    publish = ("report", WORKDIR, "--out", tmp_path / "out")
    said, _ = end(start(out, *publish, **environment), out)
    assert "| L_KLD_WAug " in said
    assert (tmp_path / "out/table.csv").exists()
    assert not (tmp_path / "gs:").exists() and not os.path.exists("gs:")
