"""An axis is declared once: all that knows axes derives from it."""

import importlib

import numpy as np
import pandas as pd
import pytest

from configs import paper
from kdjax import configs
from kdjax import fields
from kdjax import schema
from kdjax import workdirs
from kdjax.distill import axes
from kdjax.distill import losses
from kdjax.distill import mapped
from kdjax.distill import trials
from kdjax.errors import UserError
from kdjax.report import factors
from kdjax.report import paired
from kdjax.report import results
from tests import simulated

MADE_UP = axes.Axis(
  "fading",
  fields.Field("how quickly distillation fades", float, 0, 10),
  "how quickly it should fade",
  lambda pathway, loss: pathway is not None,
  suffix="_fade{:g}".format,
  unread=0.0,
)


@pytest.fixture
def made_up(monkeypatch):
  """An axis more in the declaration, and nowhere else."""
  monkeypatch.setattr(axes, "AXES", (*axes.AXES, MADE_UP))
  yield importlib.reload(schema)
  monkeypatch.undo()
  importlib.reload(schema)


def test_a_made_up_axis_is_everywhere(made_up, tmp_path):
  config = paper.get_config("tiny")
  config.question = "?"
  with pytest.raises(UserError, match="lacks the field grid.fading"):
    configs.check(config, "here.py", made_up.FIELDS)
  config.search.space.fading = ""
  config.grid.fading = (1.0, 20.0)
  with pytest.raises(UserError, match="grid.fading=20.0: .*at most 10"):
    configs.check(config, "here.py", made_up.FIELDS)
  config.grid.fading = (1.0, 2.0)
  configs.check(config, "here.py", made_up.FIELDS)

  config.grid.update(pathway=("L",), loss=("KLD",), view=("weak",))
  arms = trials.make_arms(config.grid)
  names = ["Student", "L_KLD_WAug_fade1", "L_KLD_WAug_fade2"]
  assert [arm.name for arm in arms] == names
  stacked = mapped.stack(arms)
  np.testing.assert_array_equal(stacked.numbers["fading"], [0.0, 1.0, 2.0])
  assert list(factors.of_arms(arms)["fading"]) == ["1", "2"]
  assert "fading" in "\n".join(fields.described(made_up.FIELDS))

  rng = np.random.default_rng(0)
  frame = simulated.per_case(rng, {name: 0.0 for name in names})
  levels = factors.of_arms(arms)
  contrasts = factors.contrasts(paired.make(frame), levels)
  assert list(contrasts["factor"]) == ["fading"]
  assert not factors.mixed_model(frame, levels)["note"].any()
  found = results.Results(**simulated_results(tmp_path, config, arms, frame))
  assert found.questions == ["how quickly it should fade"]


def simulated_results(workdir, config, arms, frame):
  return dict(
    workdir=workdir,
    config=config,
    arms=arms,
    per_case=frame,
    history=pd.DataFrame(),
    diverged=pd.DataFrame(),
    models=tuple(arm.name for arm in arms),
    efficiency=pd.DataFrame(),
    margin=0.02,
    regions=(),
    ratio=None,
  )


def test_no_axis_has_the_name_of_a_measure():
  """Contrasts and the mixed model have both in one frame."""
  assert not {*workdirs.COLUMNS[workdirs.PER_CASE]} & {
    axis.name for axis in axes.AXES
  }


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("pathway", ["L", "H", "HReg"])
def test_an_arm_is_worded_by_what_it_reads(pathway, loss):
  grid = simulated.GRID | {"pathway": (pathway,), "loss": (loss,)}
  arm = trials.make_arms(grid)[-1]
  words = {axis.name: arm.word(axis) for axis in axes.AXES}
  assert words["pathway"] == pathway and words["loss"] == loss
  assert bool(words["pair"]) == (pathway != "L")
  assert bool(words["temperature"]) == losses.LOSSES[loss].softened


def test_a_teacher_reads_what_a_student_reads():
  training = paper.get_config().teacher_training
  teacher = trials.make_teacher(training)
  student = trials.make_arms(paper.get_config().grid)[0]
  assert teacher.numbers == student.numbers
  assert {axis.name for axis in axes.of_training()} <= set(training)
