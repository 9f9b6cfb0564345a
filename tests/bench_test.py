"""The bench times what `train` runs, and its table follows from its numbers."""

import csv
import dataclasses
import types
from unittest import mock

import pytest

from kdjax.bench import choices
from kdjax.bench import modes
from kdjax.bench import programs
from kdjax.bench import record
from kdjax.bench import run
from kdjax.errors import UserError
from tests import conftest

SIZES = (1, 4, 6)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
  config = conftest.make_config()
  config.grid.update(pathway=("L", "H"), loss=("MSE",))
  study = conftest.make_study(config, None, tmp_path_factory.mktemp("bench"))
  return run.run(study, rounds=2, with_torch=False, sizes=SIZES)


@pytest.fixture(scope="module")
def rows(measured, tmp_path_factory):
  folder = tmp_path_factory.mktemp("written")
  record.write(measured, folder)
  assert (folder / "bench.png").read_bytes()[:4] == b"\x89PNG"
  assert (folder / "bench.pdf").read_bytes()[:4] == b"%PDF"
  with (folder / "bench.csv").open(newline="") as file:
    return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_mode_is_a_row_with_all_columns(rows):
  assert [(x["name"], int(x["trials"])) for x in rows] == [
    ("alone", 1),
    ("serial", 4),
    *(("fused", size) for size in SIZES),
    ("fused_cached", 4),
    ("fused_alike", 4),
    ("teacher", 1),
    ("answer", 1),
  ]
  of = {(row["name"], row["trials"]): row["objectives"] for row in rows}
  assert of["alone", "1"] == "0" and of["fused_alike", "4"] == "1"
  assert of["serial", "4"] == of["fused", "4"] == of["fused_cached", "4"] == "2"
  for row in rows:
    assert tuple(row) == record.COLUMNS
    low, middle, high = (
      float(row[f"step_seconds_{x}"]) for x in ("min", "median", "max")
    )
    assert 0 < low <= middle <= high
    for name in ("compile_seconds", "peak_bytes", "flops"):
      assert float(row[name]) > 0


@pytest.mark.slow
def test_fusing_saves_teachers_and_nothing_else(measured):
  flops = {(x["name"], x["trials"]): x["flops"] for x in measured.rows}
  # Two arms of a view in turn ask the teacher once each, fused once together.
  assert flops["fused", 4] < flops["serial", 4]
  # The two arms that it has of one objective differ in their view alone.
  assert flops["fused_alike", 4] < flops["fused", 4]
  students = 4 * flops["alone", 1]
  assert students < measured.parts
  assert students < flops["fused", 4] < 1.02 * measured.parts
  # No teacher is asked in a step, two arms a view are one of twice the trials.
  assert flops["fused_cached", 4] < flops["fused", 4]


def test_what_takes_most_memory_takes_its_turn_first(monkeypatch):
  called = []

  def mode(name, peak):
    step = lambda: called.append(name) or 1.0
    return modes.Mode(name, 1, (step,), (), 0, lambda: peak)

  made = [mode("small", 1), mode("large", 3), mode("middle", 2)]
  monkeypatch.setattr(programs, "untrained_teacher", lambda study: None)
  monkeypatch.setattr(modes, "make_modes", lambda *_: made)
  monkeypatch.setattr(run, "best_rate", lambda engine: 1.0)
  measured = run.run(mock.Mock(), rounds=1, with_torch=False)
  # A round to warm up and one that counts; rows stand as they were asked for.
  assert called == ["large", "middle", "small"] * 2
  assert [row["name"] for row in measured.rows] == ["small", "large", "middle"]


@pytest.mark.slow
def test_a_step_trains_on(tmp_path):
  config = conftest.make_config()
  study = conftest.make_study(config, ("Student", "L_MSE"), tmp_path)
  arms = choices.distilling(study)
  shared = programs.share(study, programs.untrained_teacher(study))
  stage = dataclasses.replace(study.student_stage, arms=tuple(arms))
  program = programs.Program(study, stage, shared)
  before = programs.jax.device_get(program.states.trials.optimizer)
  assert program.step() > 0
  assert not all(
    (a == b).all()
    for a, b in zip(
      programs.jax.tree.leaves(before),
      programs.jax.tree.leaves(program.states.trials.optimizer),
      strict=True,
    )
  )


def test_arms_of_a_view_stand_together_and_more_are_other_numbers(tmp_path):
  study = conftest.make_study(conftest.make_config(), None, tmp_path)
  arms = choices.distilling(study)
  assert [x.view for x in arms] == ["strong"] * 6 + ["weak"] * 6
  many = choices.enough(arms, 30)
  assert len({x.name for x in many}) == 30
  assert len({(x.objective, x.view, *x.numbers.values()) for x in many}) == 30
  assert len(choices.once_asked(arms)) == 6


def test_without_arms_there_is_no_plot(tmp_path):
  measured = run.Measured([fake("teacher", 1, [2.0], 50)], 1e9, None)
  record.write(measured, tmp_path)
  assert [x.name for x in tmp_path.iterdir()] == ["bench.csv"]


def test_a_grid_without_a_teacher_is_refused(tmp_path):
  study = conftest.make_study(conftest.make_config(), ("Student",), tmp_path)
  with pytest.raises(UserError, match="arms that distil"):
    choices.distilling(study)


def test_fewer_objectives_are_spread_over_all():
  assert choices.fewer(1) == []
  assert choices.fewer(6) == [1, 2]
  assert choices.fewer(57) == [1, 4, 15]
  arm = lambda objective, rate: types.SimpleNamespace(
    objective=objective, rate=rate
  )
  arms = [arm(x, rate) for x in "abcdef" for rate in (1, 2)]
  chosen = choices.alike(arms, 2)
  assert [(x.objective, x.rate) for x in chosen] == [
    *(("a", 1), ("a", 2)),
    *(("d", 1), ("d", 2)),
  ]


def fake(name, trials, seconds, flops):
  mode = types.SimpleNamespace(
    name=name,
    trials=trials,
    objectives=6,
    compile_seconds=1,
    peak=lambda: 1e9,
    flops=flops,
  )
  return record.row(mode, seconds)


def test_the_sentences_are_made_from_medians():
  measured = run.Measured(
    rows=[
      fake("alone", 1, [0.5, 9.0, 0.4], 10),
      fake("serial", 12, [24.0], 400),
      fake("fused", 12, [8.0], 165),
      fake("fused_cached", 12, [6.0], 120),
      fake("torch_serial", 12, [36.0], 0),
      fake("torch_by_core", 12, [40.0], 0),
      fake("teacher", 1, [2.0], 50),
      fake("torch_teacher", 1, [3.0], 0),
    ],
    best_rate=1e9,
    parts=150,
  )
  text = record.table(measured)
  assert "3.00 times as fast as kdjax's trials in turn" in text
  assert "1.33 times the time of 12 students alone" in text
  assert "1.100 times those of its 12 arms by themselves" in text
  assert "4.50 times as fast as PyTorch in turn" in text
  assert "cached teacher, 12 trials: 6.00 times as fast as PyTorch" in text
  assert "The teacher's step: 1.50 times as fast as PyTorch's." in text
  assert "answer" not in text.replace("answers", "")
  measured.rows[5] = fake("torch_by_core", 12, [30.0], 0)
  quicker = record.table(measured)
  assert "3.75 times as fast as PyTorch in a process a core" in quicker
