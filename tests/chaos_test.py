"""Killed anywhere and started again, the real command writes the same bytes."""

import contextlib
import csv
import random
import resource
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from kdjax.engine import checkpoint
from tests import killed

pytestmark = [
  pytest.mark.slow,
  # On any machine: who hangs is found by its silence.
  pytest.mark.timeout(3600),
]

# How often it is killed where: before training, in a phase, in a save of it.
GOALS = {
  ("", False): 3,
  ("teacher", True): 3,
  ("teacher", False): 4,
  ("student", True): 3,
  ("student", False): 4,
  ("test", False): 3,
  ("report", False): 3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return killed.write_discs(tmp_path_factory.mktemp("data") / "discs")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
  """The workdir of a run that nobody disturbed."""
  folder = tmp_path_factory.mktemp("undisturbed")
  killed.Run(folder / "run", data, folder / "cache").finish()
  return folder / "run"


@pytest.fixture
def cache(tmp_path):
  """A cache without data."""
  return tmp_path / "cache"


def kill(run, phase, in_save, rng):
  """Kills it in `phase`, perhaps in a save; returns where that was."""
  before = run.saved()
  if not phase:
    time.sleep(rng.uniform(0.2, 2.5))
  elif in_save:
    rounds = rng.randint(1, 3)  # The first save of the run, or a later one.
    run.wait_for(
      lambda: run.phase == phase and len(run.saved() - before) >= rounds - 1
    )
    run.wait_for(run.saving)
    time.sleep(rng.uniform(0.0, 0.02))
  else:
    training = phase in ("teacher", "student")
    run.wait_for(
      lambda: run.phase == phase and (not training or run.saved() - before)
    )
    time.sleep(rng.uniform(0.0, 0.2 if training else 1.0))
  if run.status is not None:
    return None
  run.stop()
  return run.phase, bool(run.saving())


def test_23_kills_anywhere_leave_every_table_as_it_is_undisturbed(
  undisturbed, data, cache, tmp_path
):
  rng = random.Random(5)
  start = lambda: killed.Run(tmp_path / "run", data, cache)
  for (phase, in_save), times in GOALS.items():
    hits = 0
    for _ in range(3 * times):
      where = kill(start(), phase, in_save, rng)
      # A kill in a save is a kill in its phase, too.
      hits += where in {(phase, in_save), (phase, True)}
      if hits == times:
        break
    assert hits == times, (phase, in_save)
  start().finish()
  assert killed.written(tmp_path / "run") == killed.written(undisturbed)
  with (tmp_path / "run" / "per_case.csv").open() as file:
    dice = {row["dice"] for row in csv.DictReader(file)}
  assert len(dice) > 10  # Or equal tables would say nothing.


def asked_to_stop(run, phase, in_save, number, times):
  """Sends signals to a run in a phase, perhaps in a save of it."""
  if phase == "test":
    run.wait_for(lambda: run.phase == phase)
  elif in_save is None:  # Compiling.
    run.wait_for(lambda: "compiling first" in run.err)
  else:
    before = run.saved()
    run.wait_for(lambda: run.phase == phase and run.saved() - before)
    run.wait_for(lambda: bool(run.saving()) == in_save)
  time.sleep(0.02)
  for _ in range(times - 1):
    run.send(number)
    time.sleep(0.01)
  return run.stop(number)


def test_signals_anywhere_say_how_to_resume_and_change_no_byte(
  undisturbed, data, cache, tmp_path
):
  cold = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cold")}
  for phase, in_save, number, times in (
    ("teacher", None, signal.SIGTERM, 1),
    ("teacher", None, signal.SIGINT, 1),
    ("teacher", False, signal.SIGTERM, 1),
    ("teacher", True, signal.SIGINT, 1),
    ("teacher", True, signal.SIGTERM, 2),
    ("student", False, signal.SIGINT, 1),
    ("student", False, signal.SIGTERM, 2),
    ("student", True, signal.SIGTERM, 1),
    ("test", None, signal.SIGTERM, 1),
    ("test", None, signal.SIGINT, 1),
  ):
    compiling = phase == "teacher" and in_save is None
    run = killed.Run(
      tmp_path / "run",
      data,
      cache,
      environment=cold if compiling else None,
    )
    status = asked_to_stop(run, phase, in_save, number, times)
    assert status == 128 + number, run.err
    assert run.phase == phase
    (line,) = [x for x in run.err.splitlines() if x.startswith("kdjax: ")]
    name = signal.Signals(number).name
    assert line.startswith(f"kdjax: stopped by {name}, nothing is lost; go on")
    assert (
      f"kdjax train --config {killed.CONFIG} --workdir {run.workdir}" in line
    )
  killed.Run(tmp_path / "run", data, cache).finish()
  assert killed.written(tmp_path / "run") == killed.written(undisturbed)


def states(workdir, stage):
  """What is saved of every block's trials: `(block, arm)` to leaves."""
  found = {}
  for folder in sorted((workdir / "checkpoints" / stage).iterdir()):
    if not any(x.name.isdigit() for x in folder.iterdir()):
      continue  # Its training had not begun.
    saved = checkpoint.read(folder).states["trials"]
    for arm in range(len(saved["live"])):
      pick = lambda x, arm=arm: np.asarray(x)[arm]
      found[folder.name, arm] = jax.tree.map(pick, saved)
  return found


def test_on_4_then_1_then_8_devices_it_is_the_same_and_what_finished_stays(
  data, tmp_path
):
  # Float64, where a real mistake stands out by many orders of magnitude.
  settings = {
    "engine__dtype": "float64",
    "grid__pathway": "L",
    "teacher_training__batch_size": 8,
    "student_training__batch_size": 8,
    "teacher_training__max_epochs": 5,
    "student_training__max_epochs": 12,
    "student_training__patience": 1,
  }

  def start(name, devices, blocks=1):
    return killed.Run(
      tmp_path / name,
      data,
      tmp_path / "cache",
      devices,
      **settings,
      engine__blocks_at_once=blocks,
    )

  start("whole", 1).finish()
  run = start("moved", 4)
  assert run.wait_for(lambda: run.phase == "teacher" and len(run.saved()) > 3)
  run.stop()
  stopped = {}
  for blocks in (2, 1):
    run = start("moved", 1, blocks)
    before = run.saved()
    assert run.wait_for(
      lambda run=run, before=before: (
        run.phase == "student" and len(run.saved() - before) >= 3
      )
    )
    run.stop()
    found = states(run.workdir, "student")
    stopped |= {k: x for k, x in found.items() if not x["live"]}
    stopped |= {
      ("teacher", *k): x for k, x in states(run.workdir, "teacher").items()
    }
  start("moved", 8).finish()

  ended = states(tmp_path / "moved", "student")
  taught = states(tmp_path / "moved", "teacher")
  ended |= {("teacher", *k): x for k, x in taught.items()}
  assert stopped  # The teachers at least, which had all finished.
  for trial, state in stopped.items():
    for part in ("best_params", "best_batch_stats", "best_criterion"):
      jax.tree.map(
        np.testing.assert_array_equal, state[part], ended[trial][part]
      )
  whole = states(tmp_path / "whole", "student")
  for trial, state in whole.items():
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9),
      state["best_params"],
      ended[trial]["best_params"],
    )
  for name in ("history.csv", "per_case.csv"):
    ours, theirs = (
      list(csv.reader((tmp_path / x / name).read_text().splitlines()))
      for x in ("moved", "whole")
    )
    assert [row[:5] for row in ours] == [row[:5] for row in theirs]
    numbers = lambda rows: np.array(
      [[float(x or "nan") for x in row[5:]] for row in rows[1:]]
    )
    np.testing.assert_allclose(
      numbers(ours), numbers(theirs), rtol=1e-7, atol=1e-9
    )


def test_a_second_run_is_refused_while_the_first_lives_and_not_after(
  data, cache, tmp_path
):
  first = killed.Run(tmp_path / "run", data, cache)
  assert first.wait_for(lambda: first.phase == "teacher")
  second = killed.Run(tmp_path / "run", data, cache)
  assert second.ended() == 1
  (line,) = second.err.splitlines()
  assert f"is in use by process {first.pid}" in line
  first.stop()
  second = killed.Run(tmp_path / "run", data, cache)
  assert second.wait_for(lambda: second.phase == "teacher")
  second.stop()


def test_a_vanished_data_folder_is_named_and_the_run_goes_on_when_it_is_back(
  undisturbed, data, cache, tmp_path
):
  moved = tmp_path / "discs"
  shutil.copytree(data, moved)
  run = killed.Run(tmp_path / "run", moved, cache)
  assert run.wait_for(lambda: run.phase == "student" and run.saving())
  run.stop()
  moved.rename(tmp_path / "away")
  refused = killed.Run(tmp_path / "run", moved, cache)
  assert refused.ended() == 1
  (line,) = refused.err.splitlines()
  assert str(moved) in line
  (tmp_path / "away").rename(moved)
  killed.Run(tmp_path / "run", moved, cache).finish()
  assert killed.written(tmp_path / "run") == killed.written(undisturbed)


@pytest.mark.parametrize("damage", ["cut", "emptied"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
  damage, undisturbed, data, cache, tmp_path
):
  run = killed.Run(tmp_path / "run", data, cache)
  folder = tmp_path / "run" / "checkpoints" / "student" / "fold0-seed0"
  assert run.wait_for(lambda: (folder / "18").exists())
  run.stop()
  newest = max(int(x.name) for x in folder.iterdir() if x.name.isdecimal())
  for path in sorted((folder / str(newest)).rglob("*")):
    if path.is_file():
      if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
      else:
        path.unlink()
  run = killed.Run(tmp_path / "run", data, cache)
  run.finish()
  assert f"{folder / str(newest)}: damaged" in run.err
  assert (folder / f"damaged-{newest}").is_dir()
  assert "begins anew" not in run.err
  assert killed.written(tmp_path / "run") == killed.written(undisturbed)


@contextlib.contextmanager
def small_disk(folder, size):
  """A disk of `size` at `folder`, if we may mount one; yields `mount`."""
  folder.mkdir()

  def mount(*options):
    done = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", ",".join(options), "kdjax", folder],
      capture_output=True,
    )
    return done.returncode == 0

  mounted = mount(f"size={size}")
  try:
    yield mount if mounted else None
  finally:
    if mounted:
      subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("size", ["150k", "600k", "1500k"])
def test_a_full_or_read_only_disk_is_named_and_loses_nothing(
  size, undisturbed, data, cache, tmp_path
):
  with small_disk(tmp_path / "run", size) as mount:
    small = {"before": None if mount else limit_files}
    run = killed.Run(tmp_path / "run", data, cache, **small)
    assert run.ended() == 1, run.err
    last = run.err.splitlines()[-1]
    assert last.startswith("kdjax: ") and str(tmp_path) in last
    if mount:  # A limit of files is not foreseen, and Orbax's threads say so.
      assert "Traceback" not in run.err
    for folder in (tmp_path / "run" / "checkpoints").glob("*/*"):
      if any(x.name.isdecimal() for x in folder.iterdir()):
        checkpoint.read(folder)  # Raises for what is not whole.
    if mount:
      assert mount("remount", "size=64m", "ro")
      run = killed.Run(tmp_path / "run", data, cache)
      assert run.ended() == 1
      (line,) = run.err.splitlines()
      assert "Read-only" in line and str(tmp_path) in line
      assert mount("remount", "rw")
    killed.Run(tmp_path / "run", data, cache).finish()
    assert killed.written(tmp_path / "run") == killed.written(undisturbed)


def limit_files():
  """What those who may not mount have for a full disk."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_search_killed_at_ten_moments_ends_with_the_same_bytes(
  data, cache, tmp_path
):
  searching = {
    "grid__pathway": "L,",
    "grid__tuning": "untuned,tuned",
    "grid__share": "0.0,",  # A search draws alpha itself.
    "search__draws": 4,
    "search__epochs": "8,16",
    "splits__num_folds": 1,
    "folds": "0,",
  }
  whole = killed.Run(tmp_path / "whole", data, cache, **searching)
  whole.finish()
  rng = random.Random(7)
  stages = ["search1", "search2", "student"]
  for stage in ["", *3 * stages]:
    run = killed.Run(tmp_path / "run", data, cache, **searching)
    saved = run.saved()
    run.wait_for(lambda s=stage, r=run: not s or f"{s}: " in r.err)
    if stage:  # Else it would not come further.
      run.wait_for(lambda r=run, s=saved: r.saved() - s)
    time.sleep(rng.uniform(0.0, 0.2))
    run.stop()
  killed.Run(tmp_path / "run", data, cache, **searching).finish()
  found = killed.written(tmp_path / "run")
  assert "search.csv" in found
  assert found == killed.written(tmp_path / "whole")
