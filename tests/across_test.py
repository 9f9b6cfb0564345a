"""Workdirs side by side: paired where they may be, and only there."""

import numpy as np
import pytest

from kdjax.errors import UserError
from kdjax.report import across
from kdjax.report import gather
from tests import simulated


def run(path, frame, parameters=1000, **keys):
  config = simulated.workdir(path, frame, **keys)
  counts = dict.fromkeys(frame["model"], parameters) | {"Teacher": 90_000}
  return gather.results(path, config, simulated.ARMS, counts)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  path = tmp_path_factory.mktemp("runs")
  effects = {"Teacher": 0.1, "Student": 0.0, "L_KLD": 0.05, "H_KLD": 0.05}
  small = simulated.per_case(np.random.default_rng(0), effects)
  large = small.copy()
  large.loc[large["model"] != "Teacher", "dice"] += 0.03
  large["dice"] = large["dice"].clip(upper=1)
  other = simulated.per_case(np.random.default_rng(1), effects)
  return {
    "small": run(path / "small", small),
    "large": run(path / "large", large, 4000),
    "other": run(path / "other", other, name="BUSI"),
  }


def test_only_workdirs_with_the_same_cases_are_paired(found):
  changed = across.changes(found)
  assert set(zip(changed["workdir"], changed["against"], strict=True)) == {
    ("small", "large")
  }
  rows = changed.set_index("model")
  assert rows.loc["L_KLD", "difference"] == pytest.approx(-0.03, abs=0.005)
  assert rows.loc["Teacher", "difference"] == 0
  assert rows.loc["L_KLD", "holm_p"] < 0.001
  assert rows.loc["Teacher", "holm_p"] == 1


@pytest.mark.slow
def test_files_hold_every_model_of_every_workdir(found, tmp_path):
  text = across.write(found, tmp_path)
  assert (tmp_path / "across.md").read_text() == text
  lines = (tmp_path / "across.csv").read_text().splitlines()
  assert lines[0].startswith("workdir,data,folds,seeds,model,parameters")
  assert len(lines) == 1 + 3 * 4
  assert (tmp_path / "figures" / "trend.pdf").exists()
  assert "| small " in text
  assert "BUSI" in text


def test_strangers_are_compared_without_pairing(found):
  text = across.write({x: found[x] for x in ("small", "other")})
  assert "none are paired by case" in text


def test_calibration_is_told_where_it_was_measured(found, tmp_path):
  """As `kdjax test` asks for: there, and at home."""
  frame = simulated.per_case(np.random.default_rng(0), {"Teacher": 0.1})
  told = run(tmp_path, frame.assign(brier=0.125, ece=0.25))
  text = across.write({"small": found["small"], "told": told})
  for title, value in (
    ("Brier score of every model, from 0, the best, to 1:", "0.1250"),
    ("Expected calibration error of every model", "0.2500"),
  ):
    _, _, table = text.partition(title)
    row = next(x for x in table.splitlines() if x.startswith("| Teacher"))
    assert [x.strip() for x in row.split("|")[2:4]] == ["-", value]
  table = across.collect({"told": told})
  assert table["ece_mean"].tolist() == [0.25] * len(table)


def test_one_workdir_is_nothing_to_compare(found):
  with pytest.raises(UserError, match="two workdirs or more"):
    across.write({"small": found["small"]})
