"""The grid is honest: a trial in it is the same trial alone, anywhere."""

import dataclasses

import jax
import numpy as np
import pytest

from kdjax.engine import checkpoint
from kdjax.engine import loop
from kdjax.engine import parallel
from kdjax.engine import steps
from tests import conftest

# One arm of every pathway, both losses, both views.
SOME = ("Student", "L_KLD_WAug", "H_MSE", "HReg_KLD_WAug")


@pytest.fixture
def on_devices(monkeypatch):
  """Makes kdjax see the first `count` devices only."""

  def use(count):
    devices = jax.devices()[:count]
    monkeypatch.setattr(parallel.jax, "local_devices", lambda: devices)

  use(1)
  return use


@pytest.fixture
def exact():
  """Float64, where a real mistake stands out by ten orders of magnitude."""
  with jax.enable_x64(True):
    yield conftest.make_config("float64")


def students(study):
  """Best students by (arm's name, block)."""
  _, trained = loop.train(study)
  return {
    (arm.name, block): jax.tree.map(lambda x, i=i: np.asarray(x)[i], best)
    for block, best in trained.items()
    for i, arm in enumerate(study.arms)
  }


def assert_equal(some, others):
  # Two epochs of Adam in float64: rounding, magnified by its division by
  # small second moments.
  for trial, state in some.items():
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10),
      state,
      others[trial],
    )


@pytest.mark.slow
def test_a_trial_in_the_grid_equals_the_trial_alone(
  exact, make_study, on_devices, tmp_path
):
  grid = students(make_study(exact, SOME, tmp_path / "grid"))
  for name in SOME:
    alone = students(make_study(exact, (name,), tmp_path / name))
    assert_equal(alone, grid)
  backwards = students(make_study(exact, SOME[::-1], tmp_path / "backwards"))
  assert_equal(backwards, grid)


@pytest.mark.slow
def test_plain_and_unrolled_lowering_agree(
  exact, make_study, on_devices, tmp_path
):
  unrolled = students(make_study(exact, SOME, tmp_path / "unrolled"))
  exact.unlock()
  exact.engine.lowering = "plain"
  assert_equal(students(make_study(exact, SOME, tmp_path / "plain")), unrolled)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_trials_and_change_nothing(
  exact, make_study, on_devices, tmp_path, devices
):
  exact.folds = (0, 1)
  one = students(make_study(exact, SOME, tmp_path / "one"))
  on_devices(devices)
  study = make_study(exact, SOME, tmp_path / "several")
  layout = parallel.make_layout(len(SOME), 2, 4)
  assert len(layout.devices) == devices
  assert not layout.split_batch
  assert_equal(students(study), one)


@pytest.mark.slow
def test_devices_split_the_batch_of_few_trials_and_change_nothing(
  exact, make_study, on_devices, tmp_path
):
  one = students(make_study(exact, ("HReg_KLD",), tmp_path / "one"))
  on_devices(4)
  assert parallel.make_layout(1, 1, 4).split_batch
  assert_equal(
    students(make_study(exact, ("HReg_KLD",), tmp_path / "four")), one
  )


@pytest.mark.slow
def test_an_epoch_as_one_program_equals_an_epoch_of_steps(
  exact, make_study, on_devices, tmp_path, monkeypatch
):
  stepped = students(make_study(exact, SOME[:2], tmp_path / "stepped"))
  make_layout = parallel.make_layout
  monkeypatch.setattr(
    parallel,
    "make_layout",
    lambda *a, **k: dataclasses.replace(make_layout(*a, **k), scan=True),
  )
  assert_equal(
    students(make_study(exact, SOME[:2], tmp_path / "scanned")), stepped
  )


@pytest.mark.slow
def test_blocks_at_once_change_nothing(exact, make_study, on_devices, tmp_path):
  exact.folds = (0, 1)
  apart = students(make_study(exact, SOME[:2], tmp_path / "apart"))
  exact.unlock()
  exact.engine.blocks_at_once = 2
  together = students(make_study(exact, SOME[:2], tmp_path / "together"))
  assert_equal(together, apart)


@pytest.mark.slow
def test_every_axis_matters_and_every_stage_compiles_once(
  make_study, on_devices, tmp_path, monkeypatch
):
  config = conftest.make_config()
  config.folds = (0, 1)  # Two waves of one block each.
  study = make_study(config, ("L_KLD",), tmp_path)
  (base,) = study.arms
  arms = [base]
  for name, value in {
    "alpha": 0.9,
    "temperature": 4.0,
    "learning_rate": 0.02,
    "weight_decay": 0.5,
    "view": "weak",
  }.items():
    arms.append(dataclasses.replace(base, name=name, **{name: value}))
  for field, value in {
    "pathway": ("H", "KLD", ("encoder2", "encoder3")),
    "regressor": ("HReg", "KLD", ("encoder2", "encoder3")),
    "pair": ("H", "KLD", ("encoder1", "encoder3")),
    "loss": ("L", "MSE", ()),
  }.items():
    objective = type(base.objective)(*value)
    arms.append(dataclasses.replace(base, name=field, objective=objective))
  study = dataclasses.replace(study, arms=tuple(arms))

  traces = []
  step = steps.train_step

  def traced(*args, **kwargs):
    traces.append(1)
    return step(*args, **kwargs)

  monkeypatch.setattr(steps, "train_step", traced)
  trained = students(study)
  assert len(traces) == 2  # The teachers' program and the students'.
  kernel = lambda name: trained[name, study.blocks[0]]["params"]["encoder1"][
    "conv1"
  ]["kernel"]
  names = [arm.name for arm in arms]
  for i, first in enumerate(names):
    for second in names[i + 1 :]:
      assert not np.allclose(kernel(first), kernel(second), rtol=1e-5), (
        first,
        second,
      )


@pytest.mark.slow
def test_a_resumed_run_equals_an_undisturbed_one(
  make_study, on_devices, tmp_path, monkeypatch
):
  config = conftest.make_config()
  config.engine.checkpoint_minutes = 0.0  # After every epoch.
  config.student_training.update(max_epochs=4, patience=1)  # Some stop early.
  whole = students(make_study(config, SOME, tmp_path / "whole"))

  class Killed(Exception):
    pass

  save = checkpoint.Checkpoint.save

  def killed_after_two_epochs(self, progress):
    save(self, progress)
    students_stage = bool(progress.states["params"]["regressors"])
    if students_stage and progress.epoch == 2:
      raise Killed

  monkeypatch.setattr(checkpoint.Checkpoint, "save", killed_after_two_epochs)
  with pytest.raises(Killed):
    students(make_study(config, SOME, tmp_path / "resumed"))
  monkeypatch.setattr(checkpoint.Checkpoint, "save", save)
  resumed = students(make_study(config, SOME, tmp_path / "resumed"))
  for trial, state in whole.items():
    jax.tree.map(np.testing.assert_array_equal, state, resumed[trial])
  read = lambda name: (tmp_path / name / "history.csv").read_text()
  assert read("whole") == read("resumed")


@pytest.mark.slow
def test_a_trial_that_diverges_leaves_the_others_alone(
  make_study, on_devices, tmp_path
):
  study = make_study(arms=SOME, workdir=tmp_path / "calm")
  calm = students(study)
  wild = list(study.arms)
  wild[1] = dataclasses.replace(wild[1], alpha=float("nan"))
  study = dataclasses.replace(
    study, arms=tuple(wild), workdir=tmp_path / "wild"
  )
  beside = students(study)
  for arm in (study.arms[0], *study.arms[2:]):
    trial = (arm.name, study.blocks[0])
    jax.tree.map(np.testing.assert_array_equal, calm[trial], beside[trial])
  diverged = beside[wild[1].name, study.blocks[0]]
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(diverged))
