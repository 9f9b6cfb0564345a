"""Many processes fill one grid; the death of one harms no other's trials."""

import csv
import os
import pathlib
import socket
import sys
import time
import types

import numpy as np
import pytest

from kdjax import files
from kdjax.engine import processes
from kdjax.engine import rendezvous
from kdjax.errors import UserError
from tests import conftest
from tests import started

# Minutes on any machine: who hangs is found by its silence.
pytestmark = pytest.mark.timeout(3600)

# Of a run; other tables hold times too, which no run repeats.
SAME = ("per_case.csv", "history.csv", "data.json", "report/table.csv")


def make_study(tmp_path, folds=(0, 1), seeds=(0, 1)):
  config = conftest.make_config()
  config.folds, config.seeds = folds, seeds
  return conftest.make_study(config, ["Student"], tmp_path)


def test_every_block_is_one_process_s_and_the_first_has_most():
  study = types.SimpleNamespace(arms=(), blocks=tuple("abcdefg"))
  for count in range(1, 9):
    shares = [processes.Share(count, i).of(study) for i in range(count)]
    assert sorted(sum(shares, ())) == list(study.blocks)
    assert len(shares[0]) == max(map(len, shares))


@pytest.mark.parametrize(
  "flags", [(None, 2, None), (None, None, 1), (None, 2, 2), ("h:1", None, None)]
)
def test_flags_that_say_too_little_are_refused(flags):
  with pytest.raises(UserError, match="--processes=.* --process=.*: say how"):
    processes.join(*flags)


def test_auto_takes_no_numbers():
  with pytest.raises(UserError, match="leave them out"):
    processes.join("auto", 2, 0)


def test_without_flags_a_process_is_alone():
  assert processes.join(None, None, None) == processes.Share(1, 0)


def test_where_jax_takes_many_hosts_for_one_a_line_says_what_to_set(
  monkeypatch,
):
  monkeypatch.setattr(processes.jax, "process_count", lambda: 4)
  with pytest.raises(UserError, match="4 hosts.*TPU_PROCESS_BOUNDS=1,1,1"):
    processes.join(None, 4, 1)


def test_more_processes_than_blocks_leave_some_idle_and_say_so(
  tmp_path, capsys
):
  study = make_study(tmp_path, seeds=(0,))
  idle = processes.take(study, processes.Share(3, 2))
  assert idle.blocks == () and processes.parts(idle) == ()
  assert capsys.readouterr().err == (
    "kdjax: process 2 of 3: nothing to train, as folds x seeds makes 2 "
    "blocks.\n"
  )


def test_a_share_that_devices_cannot_split_is_refused(tmp_path):
  study = make_study(tmp_path)
  processes.take(study, processes.Share(2, 1))
  with study.config.unlocked():
    study.config.student_training.batch_size = 3
  with pytest.raises(UserError, match="batch_size=3 does not split over 4"):
    processes.take(study, processes.Share(4, 1))


def test_two_may_write_in_a_workdir_but_not_the_same_blocks(tmp_path):
  study = make_study(tmp_path)
  lock = lambda count, index: files.lock(
    tmp_path,
    processes.parts(processes.take(study, processes.Share(count, index))),
  )
  with lock(2, 1), lock(2, 0):
    for other in ((1, 0), (2, 0), (2, 1), (4, 3)):
      with pytest.raises(UserError, match="in use by process"), lock(*other):
        pass
  with lock(1, 0):
    pass


def test_half_written_files_of_another_process_are_left_alone(tmp_path):
  half = tmp_path / f".table.csv.{32 * '0'}"
  half.touch()
  with files.lock(tmp_path, ("fold0-seed0",)):
    assert half.exists()
  with files.lock(tmp_path):
    assert not half.exists()


def test_who_waits_for_a_dead_process_ends_with_the_way_out(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(processes, "PATIENCE", 1.5)
  study = make_study(tmp_path)
  with pytest.raises(UserError, match="fold0-seed1.*same command, with any"):
    processes.await_others(study, processes.Share(2, 1))
  with pytest.raises(UserError, match="data.json was not written by process 0"):
    processes.await_first(processes.Share(2, 1), tmp_path / "data.json")


def test_who_waits_for_a_living_process_goes_on_waiting(tmp_path, monkeypatch):
  monkeypatch.setattr(processes, "PATIENCE", 1.5)
  monkeypatch.setattr(processes, "BEAT", 0.3)
  study, ended = make_study(tmp_path), time.monotonic() + 5
  monkeypatch.setattr(
    processes, "_finished", lambda *_: time.monotonic() > ended
  )
  with processes.alive(processes.Share(2, 1), tmp_path):
    processes.await_others(study, processes.Share(2, 0))
  assert time.monotonic() > ended
  assert not list(tmp_path.glob(".alive-*"))


# What follows starts the real command.


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


# The real command, which waits less long for a sign of life.
IMPATIENT = """
from kdjax import cli
from kdjax.engine import processes
processes.PATIENCE = 15.0
cli.run()
"""


def start(workdir, cache, *flags, program=("-m", "kdjax.cli"), **environment):
  return started.Process(
    [
      sys.executable,
      *program,
      "train",
      "--config=configs/paper.py:tiny",
      "--config.folds=0,1",
      "--config.seeds=0,1",
      "--config.grid.pathway=L",
      "--config.grid.loss=KLD",
      "--config.teacher_training.max_epochs=2",
      "--config.student_training.max_epochs=2",
      "--config.engine.checkpoint_epochs=1",
      *started.flags(started.SMALL),
      f"--config.data.cache_dir={cache}",
      f"--workdir={workdir}",
      *flags,
    ],
    env=started.environment(devices=2, **environment),
  )


def start_all(workdir, cache, count, **first):
  """Processes that wait for each other at a coordinator of loopback."""
  address = f"127.0.0.1:{free_port()}"
  return [
    start(
      workdir,
      cache,
      f"--coordinator={address}",
      f"--processes={count}",
      f"--process={i}",
      **({} if i else first),
    )
    for i in range(count)
  ]


def end(process):
  """Status, stdout and stderr."""
  return process.ended(), process.out, process.err


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory):
  """A workdir that one process filled."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  start(workdir, cache).finish()
  return workdir


def rows(workdir):
  with (workdir / "per_case.csv").open() as f:
    return list(csv.DictReader(f))


def assert_close(workdir, other):
  """The same rows in the same order, Dice within 1e-3 in every case."""
  ours, theirs = rows(workdir), rows(other)
  names = lambda table: [
    [r[k] for k in ("model", "fold", "seed", "case")] for r in table
  ]
  assert names(ours) == names(theirs)
  dice = lambda table: np.array([float(r["dice"] or "nan") for r in table])
  np.testing.assert_allclose(dice(ours), dice(theirs), atol=1e-3)


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(alone, cache, tmp_path):
  first, second = map(end, start_all(tmp_path / "run", cache, 2))
  assert first[0] == 0 and "| L_KLD_WAug " in first[1], first
  assert second[0] == 0 and second[1] == "", second
  assert "process 1 of 2: trained its share" in second[2]
  for name in SAME:
    there = (alone / name).read_bytes()
    assert (tmp_path / "run" / name).read_bytes() == there, name


@pytest.mark.slow
def test_four_processes_write_the_table_of_one(alone, cache, tmp_path):
  ended = [end(x) for x in start_all(tmp_path / "run", cache, 4)]
  assert [x[0] for x in ended] == [0, 0, 0, 0], ended
  assert [x[1] for x in ended[1:]] == ["", "", ""]
  assert_close(tmp_path / "run", alone)


@pytest.mark.slow
def test_one_is_killed_the_other_goes_on_and_one_process_completes_the_grid(
  alone, cache, tmp_path
):
  run = tmp_path / "run"
  first, second = start_all(run, cache, 2, program=("-c", IMPATIENT))
  mine = [run / f"checkpoints/teacher/fold1-seed{i}" for i in (0, 1)]
  assert second.wait_for(lambda: all(any(x.glob("[0-9]*")) for x in mine))
  second.stop()
  status, out, err = end(first)
  assert (status, out) == (1, ""), err
  assert err.splitlines()[-1] == (
    "kdjax: fold1-seed0, fold1-seed1 not trained, and no process shows a sign "
    "of life: the same command, with any number of processes, completes the "
    "grid."
  )
  trained = checkpoints(run, "student/fold0-*")
  assert trained
  start(run, cache).finish()
  assert checkpoints(run, "student/fold0-*") == trained  # Not trained again.
  for name in SAME:
    assert (run / name).read_bytes() == (alone / name).read_bytes(), name


def checkpoints(workdir, which):
  folder = pathlib.Path(workdir) / "checkpoints"
  return {
    path: path.stat().st_mtime_ns for path in folder.glob(f"{which}/[0-9]*")
  }


@pytest.mark.slow
def test_the_environment_of_a_cluster_numbers_the_processes():
  program = (
    "from kdjax.engine import rendezvous;"
    "print(rendezvous.meet('auto', None, None))"
  )
  job = free_port() % 2**12  # Open MPI's, of which JAX makes a port.
  both = [
    started.Process(
      [sys.executable, "-c", program],
      env={
        **os.environ,
        "OMPI_MCA_orte_hnp_uri": f"{job * 2**12}.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(i),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(i),
      },
    )
    for i in (0, 1)
  ]
  assert [x.finish() for x in both] == ["(2, 0)\n", "(2, 1)\n"]


@pytest.mark.slow
def test_without_a_cluster_auto_is_one_line(monkeypatch):
  with pytest.raises(UserError, match="did not meet .*coordinator_address"):
    rendezvous.meet("auto", None, None)
