"""`kdjax report` from end to end, on files alone."""

import json
import re

import jax
import numpy as np
import pytest

from kdjax import cli
from kdjax.report import build
from kdjax.report import gather
from kdjax.report import segmentations
from tests import simulated

FIGURES = {"forest", "distributions", "ranks", "sizes", "curves"}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
  path = tmp_path_factory.mktemp("runs")
  for number in range(2):
    frame = simulated.per_case(
      np.random.default_rng(number), simulated.effects()
    )
    simulated.workdir(path / str(number), frame)
    simulated.predictions(path / str(number), frame)
    costs = ["model,parameters,multiply_adds,latency_ms,file_bytes,"]
    costs[0] += "device_seconds"
    costs += ["Teacher,83600000,9e9,31.5,335000000,"]
    costs += [f"{x.name},821158,1e8,2.5,3300000,60" for x in simulated.ARMS]
    (path / str(number) / "efficiency.csv").write_text("\n".join(costs) + "\n")
  return path / "0", path / "1"


@pytest.mark.slow
def test_one_workdir_gives_everything_computes_once_and_compiles_nothing(
  workdirs, capsys, tmp_path, monkeypatch
):
  compiled, computed, compute = [], [], gather.results
  monkeypatch.setattr(
    gather, "results", lambda *x: computed.append(x) or compute(*x)
  )

  def listen(event, duration, **_):
    if "compile" in event:
      compiled.append((event, duration))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["report", str(workdirs[0]), *out]) == 0
  finally:
    jax.monitoring.clear_event_listeners()
  assert compiled == []
  assert len(computed) == 1
  report = workdirs[0] / "report"
  assert (report / "table.md").read_text() in capsys.readouterr().out
  for name in ("table.csv", "index.html", "per_case.csv", "config.json"):
    assert (tmp_path / "out" / name).exists()
  told = (tmp_path / "out" / "README.md").read_text()
  assert (report / "table.md").read_text().strip() in told
  linked = re.findall(r"\]\((.*?)\)", told)
  assert "figures/cases/best.png" in linked
  assert all((tmp_path / "out" / x).exists() for x in linked)
  made = {x.stem for x in (report / "figures").glob("*.png")}
  assert made == FIGURES == {x.stem for x in (report / "figures").glob("*.pdf")}
  cases = {x.stem for x in (report / "figures" / "cases").glob("*.png")}
  assert cases == {"best", "median", "worst"}
  for name in ("comparisons", "factors", "contrasts", "claims", "trials"):
    assert (report / f"{name}.csv").exists()
  assert "| Teacher |     83.6 M |        9.00 G |" in (
    report / "table.md"
  ).read_text().replace("network |", "")


def test_what_is_published_says_how_it_was_made_and_names_no_folder(
  tmp_path,
):
  config = simulated.config(
    data={"name": "folder", "dir": "/home/me/data/busi"}
  )
  run, out = tmp_path / "run", tmp_path / "out"
  simulated.workdir(
    run, simulated.per_case(np.random.default_rng(0), {"Student": 0.0}), config
  )
  record = {
    "command": "kdjax train --config.data.dir=/home/me/data/busi --workdir a/b",
    "commit": "0123456789ab",
    "processor": "Abacus 9",
    "cores": 2,
    "begun": "2026-01-02 03:04 UTC",
  }
  (run / "environment.json").write_text(json.dumps(record))
  costs = "model,parameters,device_seconds\nStudent,90,60\n"
  (run / "efficiency.csv").write_text(costs)
  found = gather.results(run, config, simulated.ARMS)
  build.write(found)
  build.publish(found, out)
  told = (out / "README.md").read_text()
  for words in (
    "`kdjax train --config.data.dir=.../busi --workdir a/b`",
    "0123456789ab",
    "Abacus 9, 2 cores",
    "2026-01-02 03:04 UTC",
    "3 folds of 3, 1 seed, 3 networks trained",
    "3.0 device-minutes",
  ):
    assert words in told
  assert ".../busi" in (out / "config.json").read_text()
  found = [x for x in out.rglob("*.*") if b"home/me" in x.read_bytes()]
  assert found == []


@pytest.mark.slow
def test_a_report_can_be_made_again_and_is_the_same(workdirs):
  report = workdirs[1] / "report"
  assert cli.main(["report", "--workdir", str(workdirs[1])]) == 0
  kept = {
    x.name: x.read_bytes()
    for x in report.rglob("*.*")
    if x.suffix in (".csv", ".md", ".tex", ".png", ".html")
  }
  assert cli.main(["report", str(workdirs[1])]) == 0
  again = {x.name: x.read_bytes() for x in report.rglob("*.*")}
  assert {x for x in kept if kept[x] != again[x]} == set()


def test_several_workdirs_are_set_side_by_side(workdirs, tmp_path, capsys):
  names = [str(x) for x in workdirs]
  assert cli.main(["report", *names, "--out", str(tmp_path)]) == 0
  said = capsys.readouterr().out
  assert all(x in said for x in names)
  assert (tmp_path / "across.csv").exists()


@pytest.mark.slow
def test_named_cases_are_drawn_instead(workdirs):
  name = str(workdirs[0])
  assert cli.main(["report", name, "--cases", "case003,case007"]) == 0
  cases = workdirs[0] / "report" / "figures" / "cases"
  assert {"case003", "case007"} <= {x.stem for x in cases.glob("*.png")}


@pytest.mark.parametrize(
  "arguments, said",
  [
    ([], "name a workdir"),
    (["{}", "--cases", "nobody"], "nobody is not a test case"),
    (["/nowhere"], "/nowhere/config.json: no such file; train there first"),
  ],
)
def test_errors_are_a_line_with_the_way_out(workdirs, capsys, arguments, said):
  filled = [x.format(workdirs[0]) for x in arguments]
  assert cli.main(["report", *filled]) == 1
  error = capsys.readouterr().err
  assert said in error
  assert error.count("\n") == 1


def test_cases_are_where_distillation_helped_most_and_least(workdirs):
  found = gather.results(workdirs[0], simulated.config(), simulated.ARMS)
  scores = found.scores
  gain = scores[list(simulated.DISTILLED)].mean(axis=1) - scores["Student"]
  chosen = segmentations.choose(found)
  assert chosen["best"] == gain.idxmax()
  assert chosen["worst"] == gain.idxmin()
  below = (gain < gain[chosen["median"]]).sum()
  assert below == len(gain) // 2
