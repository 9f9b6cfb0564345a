"""A recipe at work: what chooses the epoch, and what the history says of it."""

import math

import numpy as np
import pandas as pd
import pytest

from kdjax.engine import checkpoint
from kdjax.engine import loop
from tests import conftest

RATE, EPOCHS = 0.02, 5


@pytest.fixture(scope="module", params=["loss", "dice"])
def trained(request, tmp_path_factory):
  """Two Students, with and without soft Dice, under a rate that decays."""
  config = conftest.make_config()
  config.folds = (0, 1)
  config.student_training.update(
    batch_size=4,
    max_epochs=EPOCHS,
    patience=0,
    schedule="cosine",
    warmup=0.2,
    select=request.param,
  )
  config.grid.update(learning_rate=(RATE,), soft_dice=(0.0, 2.0))
  study = conftest.make_study(
    config,
    ["Student_dice0", "Student_dice2"],
    tmp_path_factory.mktemp("recipe"),
  )
  loop.run_stage(study, study.student_stage)
  return study, pd.read_csv(study.workdir / "history.csv")


def test_the_best_epoch_is_chosen_by_what_was_asked_for(trained):
  study, history = trained
  by = study.config.student_training.select
  for block in study.blocks:
    folder = study.workdir / "checkpoints" / "student" / block.name
    best = checkpoint.read(folder).states["trials"]["best_criterion"]
    mine = history[history["fold"] == block.fold]
    for arm, found in zip(study.arms, best, strict=True):
      rows = mine[mine["arm"] == arm.name]
      expected = {
        "loss": rows["val_loss"].min(),
        "dice": -rows["val_dice"].max(),
      }
      np.testing.assert_allclose(found, expected[by], rtol=1e-6)
  # Or both would choose alike, and this would say nothing.
  assert history["val_dice"].nunique() > EPOCHS


def test_no_trial_stops_before_its_schedule_ends(trained):
  _, history = trained
  assert (history.groupby(["arm", "fold"]).size() == EPOCHS).all()
  assert (history.loc[history["epoch"] == EPOCHS, "live"] == 0).all()


def test_the_history_has_the_rate_of_each_epochs_last_step(trained):
  study, history = trained
  steps = math.ceil(max(len(x.train) for x in study.folds) / 4)
  total = steps * EPOCHS
  rising = round(0.2 * total)
  for epoch, rates in history.groupby("epoch")["learning_rate"]:
    at = epoch * steps - 1
    part = (
      (at + 1) / (rising + 1)
      if at < rising
      else (1 + math.cos(math.pi * (at - rising) / (total - rising))) / 2
    )
    np.testing.assert_allclose(rates, RATE * part, rtol=1e-5)


def test_validation_loss_is_the_loss_that_is_trained(trained):
  """With soft Dice in it, it is larger at the same quality."""
  _, history = trained
  first = history[history["epoch"] == 1].groupby("arm")["val_loss"].mean()
  assert first["Student_dice2"] > first["Student_dice0"] + 0.5
