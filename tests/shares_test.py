"""Distillation's share of the gradient is what autodiff says, and is held."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import readers
from kdjax import workdirs
from kdjax.distill import axes
from kdjax.distill import mapped
from kdjax.distill import trials
from kdjax.engine import loop
from kdjax.engine import shares
from kdjax.engine import stages
from kdjax.engine import steps
from kdjax.engine import waves
from kdjax.errors import UserError
from kdjax.report import gather
from tests import conftest
from tests import simulated

# A loss whose gradient is large, one whose is small, and one with a regressor.
ARMS = ("Student", "L_MSE", "L_KLD", "HReg_MSE")


def make_study(workdir, dtype="float64", epochs=6, **grid):
  config = conftest.make_config(dtype)
  config.grid.update(grid)
  config.student_training.max_epochs = epochs
  return conftest.make_study(config, ARMS, workdir)


def train(study):
  teachers = loop.run_stage(study, study.teacher_stage)
  loop.run_stage(study, study.student_stage, teachers)
  frame = readers.history(study.workdir)
  return teachers, frame[frame["stage"] == "student"]


@pytest.mark.slow
def test_the_share_is_that_of_the_gradients(tmp_path):
  """By autodiff of the two losses on the first batch, without the grid."""
  with jax.enable_x64(True):
    study = make_study(tmp_path, alpha=(0.2,))
    teachers, history = train(study)
    (block,) = study.blocks
    programs = stages.Programs(study, study.student_stage, 1, jax.devices()[:1])
    shared = waves.share(programs, [block], teachers)
    batch = jax.tree.map(
      lambda x: x[0, 0, 0], programs.batches([block], {block: 0})
    )
    drawn, told = programs.prepare(
      jax.tree.map(lambda x: x[0, 0], shared),
      programs.data,
      batch["cases"],
      batch["epochs"],
    )
    fresh = programs.init(block.key, {})
    regressors = study.make_regressors(mapped.objectives(study.arms))
    for arm in study.arms[1:]:
      trial = jax.tree.map(lambda x: x[0], mapped.stack([arm]))

      def losses(params, arm=arm, trial=trial):
        (supervised, answer), _ = steps.supervise(
          params,
          fresh.trials.batch_stats,
          trial,
          drawn,
          student=study.make_model("student"),
          student_taps=mapped.taps([arm.objective], 0),
        )
        distilled = steps.distill(
          answer,
          {name: x.params for name, x in fresh.regressors.items()},
          trial,
          teachers=told,
          mask=drawn["mask"],
          objective=arm.objective,
          regressors=regressors,
        )
        return jnp.stack([0.8 * supervised, 0.2 * distilled])

      jacobian = jax.jacrev(losses)(fresh.trials.params)
      square = sum(
        jnp.sum(x.reshape(2, -1) ** 2, axis=1)
        for x in jax.tree.leaves(jacobian)
      )
      ours, theirs = np.sqrt(square)
      first = history[history["arm"] == arm.name]["distill_share"].iloc[0]
      assert first == pytest.approx(theirs / (ours + theirs), rel=1e-9)
  student = history[history["arm"] == "Student"]
  assert (student["alpha"] == 0).all() and student["distill_share"].iloc[0] == 0


@pytest.mark.slow
def test_every_arm_gets_the_share_that_it_asks_for(tmp_path):
  with jax.enable_x64(True):
    study = make_study(tmp_path, share=(0.3,), epochs=40)
    _, history = train(study)
  assert set(history["arm"]) == set(ARMS)
  distilled = history[history["arm"] != "Student"]
  measured = distilled.dropna(subset="distill_share")
  assert set(measured["epoch"]) == {1, 2, 3, 4, *range(5, 41, 2)}
  later = measured[measured["epoch"] > 4].groupby("arm")["distill_share"].mean()
  assert (later - 0.3).abs().max() < 0.05
  last = distilled[distilled["epoch"] == 40]["alpha"]
  assert last.nunique() == 3 and not last.eq(0.5).any()


@pytest.mark.slow
def test_measuring_changes_nothing_and_compiles_nothing(tmp_path, monkeypatch):
  traces, update = [], steps.update

  def traced(*args, **kwargs):
    traces.append(1)
    return update(*args, **kwargs)

  monkeypatch.setattr(steps, "update", traced)
  found = {}
  for kind in ("measured", "not"):
    if kind == "not":
      monkeypatch.setattr(waves.Wave, "_weigh", lambda self, epoch: None)
    traces.clear()
    _, history = train(make_study(tmp_path / kind, "float32", epochs=3))
    found[kind] = history, len(traces)
  shown, ours = found["measured"]
  blind, theirs = found["not"]
  assert ours == theirs == 2  # The teachers' step and the students'.
  assert shown["distill_share"].notna().any()
  assert blind["distill_share"].isna().all()
  columns = [x for x in shown if x != "distill_share"]
  assert shown[columns].equals(blind[columns])


@pytest.mark.slow
def test_a_share_is_held_alike_alone_and_after_a_stop(tmp_path, monkeypatch):
  with jax.enable_x64(True):
    study = make_study(tmp_path / "whole", share=(0.3,))
    teachers, whole = train(study)
    (arm,) = [x for x in study.arms if x.name == "L_KLD"]
    alone = dataclasses.replace(study, arms=(arm,), workdir=tmp_path / "alone")
    loop.run_stage(alone, alone.student_stage, teachers)
    same = readers.history(alone.workdir)
    # Stopped after every step, so in the middle of epochs, too.
    stopped = dataclasses.replace(study, workdir=tmp_path / "stopped")
    monkeypatch.setattr(loop.interruption, "hold", lambda: True)
    monkeypatch.setattr(loop.interruption, "release", lambda: None)
    stops = 0
    while not stops or not _finished(stopped):
      loop.run_stage(stopped, stopped.student_stage, teachers)
      stops += 1
  assert stops > 2 * 6 - 1
  again = readers.history(stopped.workdir)
  for ours, theirs in (
    (same, whole[whole["arm"] == "L_KLD"]),
    (again, whole),
  ):
    for column in workdirs.SCALARS:
      np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-9)


def _finished(study):
  saved = loop.saved(study, study.student_stage, study.blocks[0])
  with contextlib.closing(saved) as found:
    return found.restore().finished


def test_alpha_follows_as_far_as_it_can():
  alpha, asked = (
    np.array([[0.5, 0.5, 0.5, 0.5]]),
    np.array([[0.2, 0.2, 0, 0.2]]),
  )
  supervised = np.array([[1.0, 1e6, 1.0, 1.0]])
  distilled = np.array([[4.0, 1.0, 4.0, np.nan]])
  found = shares.follow(alpha, asked, supervised, distilled)
  held = shares.share(found, supervised, distilled)
  np.testing.assert_allclose(held[0, :2], 0.2)
  np.testing.assert_array_equal(found[0, 2:], 0.5)  # Not asked; not known.
  none = shares.follow(alpha, asked, 0 * supervised, distilled)
  np.testing.assert_array_equal(none, alpha)


@pytest.mark.parametrize(
  ("steps_per_epoch", "followed", "epochs"),
  [
    (99, False, range(30)),
    (22, False, range(0, 30, 2)),
    (2, False, (0, 20)),
    (99, True, range(30)),
    (22, True, (0, 1, 2, 3, *range(4, 30, 2))),
    (2, True, (0, 1, 2, 3, *range(4, 30, 2))),
  ],
)
def test_measuring_costs_a_twentieth_of_training(
  steps_per_epoch, followed, epochs
):
  """A little more where alphas follow, in the first tenth of the epochs."""
  due = [x for x in range(30) if shares.due(x, 30, steps_per_epoch, followed)]
  assert due == list(epochs)


def test_a_share_and_several_alphas_are_refused():
  config = conftest.make_config()
  config.grid.update(share=(0.0, 0.5), alpha=(0.1, 0.9))
  with pytest.raises(UserError, match="grid.share sets alpha itself"):
    trials.make_arms(config.grid)
  config.grid.alpha = (0.5,)
  names = [arm.name for arm in trials.make_arms(config.grid)]
  assert "L_KLD" in names and "L_KLD_share0.5" in names
  config.grid.share = (1.0,)
  with pytest.raises(UserError, match=r"grid.share=1.0 is outside \[0, 1\)"):
    trials.make_arms(config.grid)


def test_the_page_says_with_whose_weight_an_arm_was_trained(tmp_path):
  grid = simulated.GRID | {"loss": ("KLD",), "weighting": axes.WEIGHTINGS}
  arms = trials.make_arms(grid)
  frame = simulated.per_case(
    np.random.default_rng(0), {"Teacher": 0.1, **{x.name: 0.0 for x in arms}}
  )
  settings = simulated.config(grid=grid)
  simulated.workdir(tmp_path, frame, settings)
  found = gather.results(tmp_path, settings, arms)
  (note,) = [x for x in found.notes if x.startswith("As their authors")]
  assert "L_KLD 0.1 at temperature 4 (EMKD, https://arxiv.org/" in note
  assert "HReg" not in note
  assert any("H_KLD_Authors (no weight" in x for x in found.notes)
  assert "| L_KLD_Authors " in found.text
  assert "with whose weight" in found.questions
