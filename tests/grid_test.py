"""The grid is honest: a trial in it is the same trial alone, anywhere."""

import csv
import dataclasses
import io
import math

import jax
import numpy as np
import pytest

from kdjax.distill import axes
from kdjax.engine import checkpoint
from kdjax.engine import course
from kdjax.engine import fitting
from kdjax.engine import interruption
from kdjax.engine import lanes
from kdjax.engine import laying
from kdjax.engine import layouts
from kdjax.engine import loop
from kdjax.engine import stages
from kdjax.engine import stopwatch
from kdjax.engine import studies
from kdjax.errors import UserError
from tests import conftest

# One arm of every pathway, both losses, both views.
SOME = ("Student", "L_KLD_WAug", "H_MSE", "HReg_KLD_WAug")


@pytest.fixture
def on_devices(monkeypatch):
  """Makes kdjax see the first `count` devices only."""

  def use(count):
    devices = jax.devices()[:count]
    monkeypatch.setattr(layouts.jax, "local_devices", lambda: devices)

  use(1)
  return use


@pytest.fixture
def optimised():
  """Has programs optimised after all: CPUs' grouped convolutions are loops.

  Left as they are written they run for minutes.
  """
  yield lambda wanted: jax.config.update(
    "jax_disable_most_optimizations", not wanted
  )
  jax.config.update("jax_disable_most_optimizations", True)


def named(study, trained):
  """Best students by (arm's name, block)."""
  return {
    (arm.name, block): jax.tree.map(lambda x, i=i: np.asarray(x)[i], best)
    for block, best in trained.items()
    for i, arm in enumerate(study.arms)
  }


def students(study):
  return named(study, course.train(study)["student"])


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
  """Two blocks of `SOME` in one program on one device, to compare with.

  In float64, where a real mistake stands out by ten orders of magnitude.
  """
  config = conftest.make_config("float64")
  config.folds = (0, 1)
  with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
    patch.setattr(layouts.jax, "local_devices", lambda: jax.devices()[:1])
    study = conftest.make_study(config, SOME, tmp_path_factory.mktemp("grid"))
    teachers = loop.run_stage(study, study.teacher_stage)
    trained = loop.run_stage(study, study.student_stage, teachers)
    return Grid(study, teachers, named(study, trained))


@dataclasses.dataclass
class Grid:
  study: studies.Study
  teachers: dict
  students: dict

  def train(self, workdir, arms=SOME, folds=(0, 1), **engine):
    """Trains `arms` of the grid's teachers; the best students by trial."""
    config = self.study.config.copy_and_resolve_references().unlock()
    config.folds = folds
    config.engine.update(engine)
    study = conftest.make_study(config, arms, workdir)
    with jax.enable_x64(True):
      trained = loop.run_stage(study, study.student_stage, self.teachers)
    assert len(trained) == len(folds)
    return named(study, trained)

  def assert_equal_in(self, workdir, *arguments, **settings):
    """Trains arms in another layout and compares them with the grid's."""
    for trial, state in self.train(workdir, *arguments, **settings).items():
      jax.tree.map(assert_close, state, self.students[trial])


def assert_close(a, b):
  # Two epochs of Adam in float64: rounding, magnified by its division by
  # small second moments.
  np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("arms", [SOME[:1], SOME[-1:], SOME[2:0:-1]])
def test_a_trial_in_the_grid_equals_the_trial_alone_or_in_another_grid(
  grid, on_devices, tmp_path, arms
):
  grid.assert_equal_in(tmp_path, arms, folds=(1,))


@pytest.mark.slow
@pytest.mark.parametrize("arms", [SOME, SOME[-1:]])
@pytest.mark.parametrize("lowering", ["unrolled", "grouped"])
def test_other_lowerings_agree_with_plain(
  grid, on_devices, optimised, tmp_path, arms, lowering
):
  optimised(lowering == "grouped" and len(arms) > 1)
  grid.assert_equal_in(tmp_path, arms, folds=(0,), lowering=lowering)


@pytest.mark.slow
def test_two_blocks_grouped_at_once_change_nothing(
  grid, on_devices, optimised, tmp_path
):
  optimised(True)
  grid.assert_equal_in(tmp_path, SOME[2:], blocks_at_once=2, lowering="grouped")


@pytest.mark.slow
def test_four_devices_share_trials_and_change_nothing(
  grid, on_devices, tmp_path
):
  on_devices(4)
  layout = laying.lay_out([None] * len(SOME), 2, 4)
  assert len(layout.devices) == 4
  assert not layout.split_batch
  grid.assert_equal_in(tmp_path)


@pytest.mark.slow
def test_regressors_stopped_on_four_devices_go_on_on_one(
  grid, on_devices, tmp_path, monkeypatch
):
  """They are saved by arm, wherever they were."""

  class Killed(Exception):
    pass

  def kill():
    raise Killed

  arms = (*SOME[2:], "HReg_MSE", "HReg_MSE_WAug")
  on_devices(4)
  with monkeypatch.context() as patch:
    patch.setattr(interruption, "hold", lambda: True)  # In the first step.
    patch.setattr(interruption, "release", kill)
    with pytest.raises(Killed):
      grid.train(tmp_path, arms)
  saved = checkpoint.read(tmp_path / "checkpoints/student/fold0-seed0")
  assert saved.step == 1
  (regressors,) = saved.states["regressors"].values()
  assert {len(x) for x in jax.tree.leaves(regressors["params"])} == {3}
  on_devices(1)
  moved = grid.train(tmp_path, arms)
  alone = grid.train(tmp_path / "alone", arms)
  for trial, state in alone.items():
    jax.tree.map(assert_close, state, moved[trial])
    if trial in grid.students:
      jax.tree.map(assert_close, state, grid.students[trial])


@pytest.mark.slow
def test_four_devices_split_the_batch_of_one_trial_and_change_nothing(
  grid, on_devices, tmp_path
):
  on_devices(4)
  assert laying.lay_out([None], 1, 4).split_batch
  grid.assert_equal_in(tmp_path, SOME[-1:], folds=(0,))


@pytest.mark.slow
def test_an_epoch_as_one_program_changes_nothing(
  grid, on_devices, tmp_path, monkeypatch
):
  lay_out = laying.lay_out
  monkeypatch.setattr(
    laying,
    "lay_out",
    lambda *a, **k: dataclasses.replace(lay_out(*a, **k), scan=True),
  )
  grid.assert_equal_in(tmp_path, SOME[:2], folds=(0,))


@pytest.mark.slow
def test_two_blocks_at_once_change_nothing(grid, on_devices, tmp_path):
  grid.assert_equal_in(tmp_path, SOME[:2], blocks_at_once=2)


@pytest.mark.slow
@pytest.mark.parametrize("arms_at_once", [1, 2, 3])
def test_arms_in_groups_change_nothing(
  grid, on_devices, tmp_path, arms_at_once
):
  """One after another, even groups, and a group with one left over."""
  grid.assert_equal_in(tmp_path, SOME, folds=(0,), arms_at_once=arms_at_once)


class Small(stages.Programs):
  """Programs on a device with memory for two trials, found out in use."""

  steps = 0

  def __init__(self, *arguments):
    super().__init__(*arguments)
    self.train_epoch = self.limited(self.train_epoch, after=1)
    self.predict = self.limited(self.predict)

  def limited(self, program, after=0):
    trials = self.layout.block_ids.shape[1] * self.layout.together

    def run(*arguments):
      Small.steps += 1
      if trials > 2 and Small.steps > after:
        Small.steps = 0
        raise jax.errors.JaxRuntimeError(
          f"RESOURCE_EXHAUSTED: Out of memory for {trials} trials."
        )
      return program(*arguments)

    return run


@pytest.mark.slow
def test_where_memory_runs_out_fewer_trials_go_on_and_nothing_changes(
  grid, on_devices, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(stages, "Programs", Small)
  grid.assert_equal_in(tmp_path, blocks_at_once=2)
  said = [x for x in capsys.readouterr().err.splitlines() if "memory" in x]
  assert [x.split(";")[1].split(",")[0] for x in said] == [
    " going on with engine.blocks_at_once=1",
    " going on with engine.arms_at_once=2",
  ]
  stage = grid.study.student_stage
  best = {
    block: jax.tree.map(
      lambda *x: np.stack(x),
      *(grid.students[arm.name, block] for arm in grid.study.arms),
    )
    for block in grid.study.blocks
  }
  with jax.enable_x64(True):
    small = list(loop.predict(grid.study, stage, best))
    monkeypatch.setattr(stages, "Programs", Small.__base__)
    large = list(loop.predict(grid.study, stage, best))
  for (block, ours), (same, theirs) in zip(small, large, strict=True):
    assert block == same
    assert_close(ours, theirs)


def test_a_trial_that_no_device_has_memory_for_is_named(on_devices, tmp_path):
  config = conftest.make_config()
  study = conftest.make_study(config, SOME[:1], tmp_path)
  stage = study.student_stage
  error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
  with pytest.raises(UserError, match="lower student_training.batch_size"):
    fitting.with_fewer(study, stage, error)
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    fitting.with_fewer(study, stage, jax.errors.JaxRuntimeError("INTERNAL"))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_trials_that_stop_make_room_and_change_nothing(
  on_devices, tmp_path, monkeypatch, devices
):
  on_devices(devices)
  config = conftest.make_config("float64")
  config.folds = (0, 1)
  config.student_training.update(max_epochs=5, patience=1)
  # The wild ones stop in the first epoch, whatever patience says.
  config.grid.learning_rate = (1e-3, 1e200)
  names = ("Student", "L_KLD", "HReg_MSE_WAug", "H_MSE")
  arms = [f"{x}_lr{rate:g}" for x in names for rate in (1e200, 1e-3)]
  widths = set()
  lay = layouts.Layout.lay

  def spy(self, trial):
    widths.add(self.arm_ids.shape[1])
    return lay(self, trial)

  trained, history = {}, {}
  monkeypatch.setattr(layouts.Layout, "lay", spy)
  with jax.enable_x64(True):
    for kind in ("compacted", "whole"):
      if kind == "whole":
        compacted, widths = widths, set()
        monkeypatch.setattr(layouts.Layout, "keep", lambda self, arms: self)
      study = conftest.make_study(config, arms, tmp_path / kind)
      trained[kind] = students(study)
      with (tmp_path / kind / "history.csv").open() as file:
        history[kind] = list(csv.DictReader(file))
  assert min(compacted) < min(widths - {1}, default=2)
  for trial, state in trained["whole"].items():
    jax.tree.map(assert_close, state, trained["compacted"][trial])
  assert len(history["whole"]) == len(history["compacted"])
  for a, b in zip(history["whole"], history["compacted"], strict=True):
    for field in a:
      if field in ("stage", "arm"):
        assert a[field] == b[field]
      else:
        assert_close(float(a[field]), float(b[field]))


@pytest.mark.slow
def test_the_cached_teacher_is_the_teacher_where_nothing_moves(
  on_devices, tmp_path
):
  """Two blocks at once, whose cases stand in different rows of their caches."""
  config = conftest.make_config("float64")
  config.folds = (0, 1)
  config.engine.blocks_at_once = 2
  config.student_training.max_epochs = 1
  config.views.update(crop=0.0, shift=0.0, scale=0.0, rotation=0.0)
  config.grid.view = ("weak", "cached")
  with jax.enable_x64(True):
    trained = students(
      conftest.make_study(
        config,
        ("L_KLD_WAug", "L_KLD_Cached", "HReg_KLD_WAug", "HReg_KLD_Cached"),
        tmp_path,
      )
    )
  for (name, block), state in trained.items():
    if name.endswith("_Cached"):
      weak = trained[name.replace("_Cached", "_WAug"), block]
      jax.tree.map(assert_close, state, weak)


@pytest.mark.slow
def test_every_axis_matters_and_every_stage_compiles_once(
  on_devices, tmp_path, monkeypatch
):
  config = conftest.make_config()
  config.folds = (0, 1)  # Two waves of one block each.
  study = conftest.make_study(config, ("L_KLD",), tmp_path)
  (base,) = study.arms
  arms = [base, dataclasses.replace(base, name="view", view="weak")]
  numbers = {
    "alpha": 0.9,
    "share": 0.3,
    "temperature": 4.0,
    "learning_rate": 0.02,
    "weight_decay": 0.5,
    "soft_dice": 1.0,
    "sparsity": 0.5,
    "bits": 8,
  }
  assert list(numbers) == [axis.name for axis in axes.numbers()]
  for name, value in numbers.items():
    changed = {**base.numbers, name: value}
    arms.append(dataclasses.replace(base, name=name, numbers=changed))
  for field, value in {
    "pathway": ("H", "KLD", (("encoder2", "encoder3", 1.0),)),
    "regressor": ("HReg", "KLD", (("encoder2", "encoder3", 1.0),)),
    "pair": ("H", "KLD", (("encoder1", "encoder3", 1.0),)),
    "loss": ("L", "MSE", ()),
  }.items():
    objective = type(base.objective)(*value)
    arms.append(dataclasses.replace(base, name=field, objective=objective))
  study = dataclasses.replace(study, arms=tuple(arms))

  traces = []
  step = lanes.train_step

  def traced(*args, **kwargs):
    traces.append(1)
    return step(*args, **kwargs)

  monkeypatch.setattr(lanes, "train_step", traced)
  trained = students(study)
  assert len(traces) == 2  # The teachers' program and the students'.
  kernel = lambda name: trained[name, study.blocks[0]]["params"]["encoder1"][
    "conv1"
  ]["conv"]["kernel"]
  names = [arm.name for arm in arms]
  for i, first in enumerate(names):
    for second in names[i + 1 :]:
      assert not np.allclose(kernel(first), kernel(second), rtol=1e-5), (
        first,
        second,
      )


@pytest.mark.slow
def test_a_run_stopped_in_a_save_and_in_a_step_equals_an_undisturbed_one(
  on_devices, tmp_path, monkeypatch
):
  monkeypatch.setattr(stopwatch.Stopwatch, "stop", lambda self: 12.0)
  config = conftest.make_config()
  config.engine.checkpoint_epochs = 1
  config.student_training.update(max_epochs=4, patience=1)  # Some stop early.
  study = conftest.make_study(config, SOME, tmp_path / "whole")
  whole = students(study)
  again = conftest.make_study(config, SOME, tmp_path / "resumed")

  class Killed(Exception):
    pass

  save = checkpoint.Checkpoint.save

  def killed_after_two_epochs(self, progress):
    save(self, progress)
    if progress.states["regressors"] and len(progress.history) > 4:
      raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoint, "save", killed_after_two_epochs)
    with pytest.raises(Killed):
      students(again)

  saved = []
  with monkeypatch.context() as patch:
    patch.setattr(
      checkpoint.Checkpoint, "save", lambda *a: (saved.append(a[1]), save(*a))
    )
    # A signal is there when the first step asks.
    patch.setattr(interruption, "hold", lambda: True)
    patch.setattr(
      interruption, "release", lambda: (_ for _ in ()).throw(Killed)
    )
    with pytest.raises(Killed):
      students(again)
  assert [x.step for x in saved] == [5]  # Two steps an epoch.
  resumed = students(again)
  for trial, state in whole.items():
    jax.tree.map(np.testing.assert_array_equal, state, resumed[trial])
  read = lambda name: (tmp_path / name / "history.csv").read_text()
  assert read("whole") == read("resumed")

  seconds = loop.device_seconds(study, study.student_stage)
  stopped = loop.device_seconds(again, again.student_stage)
  epochs = [row["epoch"] for row in csv.DictReader(io.StringIO(read("whole")))]
  assert set(seconds) == set(whole)
  assert sum(seconds.values()) == pytest.approx(12.0 * int(epochs[-1]))
  # The epoch in which it was stopped was timed twice, each a part of it.
  assert sum(stopped.values()) == pytest.approx(12.0 * (int(epochs[-1]) + 1))


@pytest.mark.slow
def test_a_trial_that_diverges_leaves_the_others_alone(on_devices, tmp_path):
  study = conftest.make_study(conftest.make_config(), SOME, tmp_path / "calm")
  calm = students(study)
  wild = list(study.arms)
  numbers = {**wild[1].numbers, "alpha": math.nan}
  wild[1] = dataclasses.replace(wild[1], numbers=numbers)
  study = dataclasses.replace(
    study, arms=tuple(wild), workdir=tmp_path / "wild"
  )
  beside = students(study)
  for arm in (study.arms[0], *study.arms[2:]):
    trial = (arm.name, study.blocks[0])
    jax.tree.map(np.testing.assert_array_equal, calm[trial], beside[trial])
  with (tmp_path / "wild" / "history.csv").open() as f:
    losses = {
      row["arm"]: float(row["train_loss"])
      for row in csv.DictReader(f)
      if row["stage"] == "student"
    }
  assert {arm for arm, x in losses.items() if np.isnan(x)} == {wild[1].name}
  diverged = beside[wild[1].name, study.blocks[0]]
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(diverged))
