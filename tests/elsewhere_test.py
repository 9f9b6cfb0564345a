"""Networks are tested on data that none of them saw, as they are."""

import numpy as np
import pandas as pd
import pytest

from kdjax import cli
from kdjax import configs
from kdjax import readers
from kdjax import recorded
from kdjax import run
from kdjax.data import pipeline
from kdjax.deploy import trained
from kdjax.errors import UserError
from kdjax.evaluate import metrics

pytestmark = pytest.mark.slow
OTHER = (("data.seed", "7"), ("data.num_cases", "9"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """A workdir of two folds and two arms, trained on phantoms."""
  folder = tmp_path_factory.mktemp("home")
  config = configs.load(
    "configs/paper.py:tiny",
    [
      ("data.image_size", "16"),
      ("data.cache_dir", str(folder / "cache")),
      ("folds", "0,1"),
      ("teacher.widths", "4,6,6"),
      ("teacher.decoder_widths", "4,4"),
      ("student.widths", "3,5"),
      ("student.decoder_widths", "3,"),
      ("grid.pathway", "L"),
      ("grid.loss", "KLD"),
      ("grid.view", "weak"),
      ("grid.pair", '(("encoder2", "encoder3"),)'),
      ("teacher_training.learning_rate", "0.01"),
      ("teacher_training.max_epochs", "6"),
      ("grid.learning_rate", "0.01,"),
      ("student_training.max_epochs", "6"),
      ("engine.lowering", "plain"),
    ],
  )
  run.train(config, folder / "run")
  return folder / "run"


@pytest.fixture(scope="module")
def found(home, tmp_path_factory):
  return run.test(home, OTHER, tmp_path_factory.mktemp("out") / "other")


def test_every_network_is_tested_on_every_case_as_it_is(home, found):
  data = configs.override(recorded.read(home), OTHER, "data").data
  dataset = pipeline.load(data)
  rows = found.per_case.set_index(["model", "fold", "case"])
  assert len(rows) == 3 * 2 * 9
  for model, fold in (("Teacher", 0), ("Student", 1), ("L_KLD_WAug", 1)):
    network = trained.load(home, model, fold=fold)
    margins = np.asarray(network.inference()(dataset.images))
    for case, margin, truth in zip(
      dataset.cases, margins, dataset.full_masks, strict=True
    ):
      alone = metrics.case_row(margin, truth)
      row = rows.loc[model, fold, case]
      # Folded batch norms round otherwise; a pixel may change sides.
      assert row["dice"] == pytest.approx(alone["dice"], abs=1e-2)
      assert row["brier"] == pytest.approx(alone["brier"], abs=1e-4)
  assert rows["brier"].nunique() > 10  # Or equality would say nothing.


def test_its_report_says_where_the_networks_come_from(home, found):
  (note,) = [x for x in found.notes if "were trained on phantom" in x]
  assert readers.data(home)["fingerprint"][:12] in note
  assert not found.config.published
  page = (found.workdir / "report/index.html").read_text()
  assert "How do the networks of run do on images that they never saw?" in page
  assert found.table["parameters"].notna().all()


def test_the_command_sets_what_is_lost_beside_it(home, found, capsys):
  arguments = [f"--config.{name}={value}" for name, value in OTHER]
  before = (home / "per_case.csv").read_bytes()
  status = cli.main(["test", "--workdir", str(home), *arguments])
  assert status == 0
  out = capsys.readouterr().out
  assert found.text in out
  assert f"| {home} " in out and f"| {home / 'tests' / 'phantom'} " in out
  assert (home / "per_case.csv").read_bytes() == before
  calibration = lambda x: x.table.set_index("model").loc["Teacher", "ece_mean"]
  for title, said in (
    ("Mean Dice", lambda x: f"{100 * x.scores['Teacher'].mean():.2f}"),
    ("Expected calibration error", lambda x: f"{calibration(x):.4f}"),
  ):
    lines = out.split(f"{title} of every model")[1].splitlines()
    line = next(x.split("|") for x in lines if x.startswith("| Teacher "))
    assert [x.strip() for x in line[2:4]] == [said(run.read(home)), said(found)]


@pytest.mark.parametrize(
  ("overrides", "said"),
  [
    ((), "was trained on this very data set"),
    ((("data.num_cases", "40"),), "case phantom.* is phantom.* of .*run"),
    ((("student.widths", "3,4"),), "config.student.widths: only data"),
    ((("data.sede", "1"),), "no field data.sede .did you mean seed"),
    ((("data.num_cases", "few"),), "data.num_cases=few: it takes int"),
    ((("data.name", "folder"),), "data.dir is empty"),
  ],
)
def test_what_cannot_be_tested_is_refused(home, overrides, said, tmp_path):
  with pytest.raises(UserError, match=said) as caught:
    run.test(home, overrides, tmp_path / "out")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_other_data_need_another_place(home, found):
  before = (found.workdir / "per_case.csv").read_bytes()
  with pytest.raises(UserError, match="another config: .*data.seed"):
    run.test(home, (*OTHER, ("data.seed", "8")), found.workdir)
  assert (found.workdir / "per_case.csv").read_bytes() == before


def test_an_untrained_workdir_is_refused(home, tmp_path):
  with pytest.raises(UserError, match="train there first"):
    run.test(tmp_path, OTHER)
  copy = tmp_path / "copy"
  copy.mkdir()
  for name in ("config.json", "data.json"):
    (copy / name).write_bytes((home / name).read_bytes())
  with pytest.raises(UserError, match="teacher/fold0-seed0 is not there"):
    run.test(copy, OTHER)
  assert not (copy / "tests/phantom/per_case.csv").exists()


def test_older_tables_without_calibration_are_read(home, tmp_path):
  frame = readers.per_case(home).drop(columns=["brier", "ece"])
  frame.to_csv(tmp_path / "per_case.csv", index=False)
  pd.testing.assert_frame_equal(readers.per_case(tmp_path), frame)
