"""The command: one line for what is wrong, the table for what is right."""

import csv
import errno
import os
import pathlib
import subprocess
import sys

import pytest

from kdjax import cli
from kdjax.engine import studies
from kdjax.report import figures
from kdjax.report import segmentations
from tests import started

CONFIGS = sorted(path.stem for path in pathlib.Path("configs").glob("[!_]*.py"))
AS_A_USER = "quickstart"
TRIALS = "Teacher Student L_MSE HReg_KLD_WAug".split()


def run(*argv):
  return cli.main([str(x) for x in argv])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  """One cache of data and compilations, as a user has one."""
  return f"--config.data.cache_dir={tmp_path_factory.mktemp('cache')}"


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_trains_in_its_tiny_size(
  name, cache, tmp_path, capsys, monkeypatch
):
  train = (
    "train",
    f"--config=configs/{name}.py:tiny",
    "--workdir",
    tmp_path / "run",
    cache,
    # One trains as a CPU lowers it; the rest in a third of the time.
    *(() if name == AS_A_USER else ["--config.engine.lowering=plain"]),
  )
  assert run(*train) == 0
  table, said = capsys.readouterr()
  assert f"the page is {tmp_path / 'run/report/index.html'}" in said
  with (tmp_path / "run/per_case.csv").open() as f:
    models = list(dict.fromkeys(row["model"] for row in csv.DictReader(f)))
  for model in models:
    assert f"| {model} " in table
  assert set(models) >= set(TRIALS) or name not in ("paper", "quickstart")
  for path in ("config.json", "data.json", "history.csv", "report/table.tex"):
    assert (tmp_path / "run" / path).stat().st_size > 0
  with (tmp_path / "run/efficiency.csv").open() as f:
    seconds = {x["model"]: x["device_seconds"] for x in csv.DictReader(f)}
  assert set(seconds) >= set(models)
  assert all(float(x) > 0 for x in seconds.values())

  # Again: nothing is trained, the same comes out; and without JAX's caches.
  # The figures were drawn once.
  for drawn in (figures, segmentations):
    monkeypatch.setattr(drawn, "write", lambda *_: [])
  before = (tmp_path / "run/per_case.csv").read_bytes()
  assert run(*train) == 0
  assert capsys.readouterr().out == table
  assert (tmp_path / "run/per_case.csv").read_bytes() == before
  assert run("report", "--workdir", tmp_path / "run") == 0
  assert capsys.readouterr().out == table


@pytest.mark.parametrize(
  "argv",
  [
    ["train", "--config=configs/none.py"],
    ["train", "--config=configs/paper.py:tiny", "--config.student.widht=3"],
    ["train", "--config=configs/paper.py:tiny", "--config.folds=9"],
    ["train", "--config=configs/busi_cpu.py", "--config.data.dir=nowhere"],
    ["train", "--config=configs/busi_cpu.py"],
    ["report"],
  ],
)
def test_a_mistake_is_one_line_and_writes_nothing(argv, tmp_path, capsys):
  workdir = tmp_path / "run"
  assert run(*argv, "--workdir", workdir) == 1
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith("kdjax: ")
  assert captured.err.count("\n") == 1
  assert not workdir.exists()


def test_predict_starts_where_neither_jax_nor_etils_is_installed():
  program = (
    "import sys; sys.modules.update(jax=None, etils=None, flax=None);"
    "from kdjax import cli; from kdjax.deploy import predict;"
    "cli.main(['predict', '--help'])"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


def test_a_reader_who_has_read_enough_is_no_error(tmp_path):
  """As `kdjax data ... | head -n 0`: the pipe is closed before a line comes."""
  reader, writer = os.pipe()
  os.close(reader)
  process = started.Process(
    [
      *(sys.executable, "-m", "kdjax.cli", "data"),
      *("--config", "configs/paper.py:tiny"),
      f"--config.data.cache_dir={tmp_path}",
    ],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=writer,
  )
  os.close(writer)
  process.finish()
  assert "Broken" not in process.err


def test_a_connection_that_breaks_is_an_error_all_the_same(monkeypatch, capsys):
  def broken(*_):
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")

  monkeypatch.setattr(studies, "load_data", broken)
  assert run("data", "--config=configs/paper.py:tiny") == 1
  assert "Broken pipe. Files on disk are whole" in capsys.readouterr().err


def test_every_field_of_a_config_is_explained(capsys):
  with pytest.raises(SystemExit) as caught:
    run("train", "--help-config")
  assert caught.value.code == 0
  out = capsys.readouterr().out
  for name in ("data.image_size", "grid.temperature", "engine.lowering"):
    assert f"\n{name}  (" in out
  assert "of KLD and CWD" in out


def test_an_unknown_flag_is_refused(capsys):
  with pytest.raises(SystemExit) as caught:
    run("train", "--config=configs/paper.py:tiny", "--workdir=x", "--fast")
  assert caught.value.code == 2
  assert "--fast" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flag", "said"),
  [
    ("--modes=fused,slow", "--modes=slow: choose from alone, serial, fused"),
    ("--trials=12,0", "--trials=0: at least 1"),
    ("--trials=a", "--trials: 'a': it takes numbers with commas"),
  ],
)
def test_a_bench_of_what_is_not_there_is_refused(tmp_path, capsys, flag, said):
  arguments = ["--config=configs/bench.py:tiny", f"--workdir={tmp_path / 'x'}"]
  try:
    status = run("bench", *arguments, flag)
  except SystemExit as error:
    status = error.code
  assert status
  assert said in capsys.readouterr().err
  assert not (tmp_path / "x").exists()


def test_data_shows_what_was_found_and_the_folds(tmp_path, capsys):
  assert (
    run(
      "data",
      "--config=configs/paper.py:tiny",
      f"--config.data.cache_dir={tmp_path}",
    )
    == 0
  )
  out = capsys.readouterr().out
  assert "24" in out
  assert "fold" in out
