"""Names become indices: arms of a grid, in the paper's order and words."""

import ml_collections
import numpy as np
import pytest

from configs import paper
from kdjax.distill import axes
from kdjax.distill import mapped
from kdjax.distill import spaces
from kdjax.distill import trials
from kdjax.errors import UserError
from kdjax.report import factors

TABLE_4 = """
Student L_MSE L_MSE_WAug L_KLD L_KLD_WAug H_MSE H_MSE_WAug H_KLD H_KLD_WAug
HReg_MSE HReg_MSE_WAug HReg_KLD HReg_KLD_WAug
""".split()


def grid(**axes):
  return ml_collections.ConfigDict(
    {**paper.get_config().grid.to_dict(), **axes}
  )


def names(**axes):
  return [arm.name for arm in trials.make_arms(grid(**axes))]


def test_the_papers_grid_is_table_4():
  assert names() == TABLE_4


def test_an_arm_is_named_by_what_varies():
  got = names(
    pathway=("H",), loss=("KLD",), view=("weak",), temperature=(1.0, 4.0)
  )
  assert got == ["Student", "H_KLD_WAug_tau1", "H_KLD_WAug_tau4"]


def test_every_view_has_its_own_arm():
  assert names(pathway=("L",), loss=("KLD",), view=axes.VIEWS) == [
    "Student",
    "L_KLD",
    "L_KLD_WAug",
    "L_KLD_Cached",
  ]


def test_what_an_arm_does_not_read_does_not_multiply_it():
  pairs = (("encoder3", "encoder4"), ("encoder4", "encoder5"))
  got = names(
    pathway=("L", "H"),
    loss=("MSE", "KLD"),
    view=("strong",),
    pair=pairs,
    temperature=(1.0, 2.0),
  )
  assert got == [
    "Student",
    "L_MSE",
    "L_KLD_tau1",
    "L_KLD_tau2",
    "H_MSE_encoder3-encoder4",
    "H_MSE_encoder4-encoder5",
    "H_KLD_encoder3-encoder4_tau1",
    "H_KLD_encoder3-encoder4_tau2",
    "H_KLD_encoder4-encoder5_tau1",
    "H_KLD_encoder4-encoder5_tau2",
  ]


def test_an_arm_may_name_several_levels_with_weights():
  several = (("encoder3", "encoder4"), ("encoder4", "encoder5", 0.5))
  pairs = (several, ("encoder4", "encoder5"))
  arms = trials.make_arms(
    grid(pathway=("H",), loss=("MSE",), view=("strong",), pair=pairs)
  )
  assert [arm.name for arm in arms[1:]] == [
    "H_MSE_encoder3-encoder4+encoder4-encoder5x0.5",
    "H_MSE_encoder4-encoder5",
  ]
  assert arms[1].objective.pairs == (
    ("encoder3", "encoder4", 1.0),
    ("encoder4", "encoder5", 0.5),
  )
  wanted = mapped.objectives(arms)
  assert mapped.taps(wanted, 0) == ("encoder3", "encoder4")
  assert mapped.taps(wanted, 1) == ("encoder4", "encoder5")


def test_every_arm_refers_to_the_student_of_its_learning_rate():
  arms = trials.make_arms(
    grid(
      pathway=("L",),
      loss=("MSE",),
      view=("strong",),
      learning_rate=(1e-3, 0.01),
    )
  )
  assert {arm.name: arm.reference for arm in arms} == {
    "Student_lr0.001": "Student_lr0.001",
    "Student_lr0.01": "Student_lr0.01",
    "L_MSE_lr0.001": "Student_lr0.001",
    "L_MSE_lr0.01": "Student_lr0.01",
  }
  assert {arm.name: arm for arm in arms}["L_MSE_lr0.01"].numbers == {
    **arms[0].numbers,
    "alpha": 0.5,
    "learning_rate": 0.01,
  }


def test_stacked_numbers_say_what_the_arms_say():
  arms = trials.make_arms(grid(alpha=(0.25, 0.5)))
  stacked = mapped.stack(arms)
  answers = mapped.answers(arms)
  for i, arm in enumerate(arms):
    if arm.objective:
      assert answers[int(stacked.answer[i])] == (arm.view, arm.source)
    assert arm.numbers.keys() == stacked.numbers.keys()
    for name, number in arm.numbers.items():
      np.testing.assert_allclose(stacked.numbers[name][i], number)


def test_a_loss_is_left_out_where_it_is_not_defined_and_the_reason_known():
  asked = dict(pathway=("L", "H", "HReg"), loss=("KLD", "FitNets", "CWD"))
  assert names(view=("strong",), **asked) == (
    "Student L_KLD L_CWD H_KLD HReg_KLD HReg_FitNets HReg_CWD".split()
  )
  found = trials.left_out(grid(**asked))
  assert list(found) == ["L_FitNets", "H_FitNets", "H_CWD"]
  assert found["H_FitNets"] == "it is a distance behind a regressor"
  # Where nothing else is left of a loss, that is no answer.
  assert not trials.left_out(grid(pathway=("L",), loss=("FitNets",)))


WEIGHED = dict(
  pathway=("L", "HReg"),
  loss=("MSE", "CWD"),
  view=("strong",),
  weighting=axes.WEIGHTINGS,
)


def test_an_arm_weighted_by_its_losss_authors_has_their_numbers():
  """Of CWD 3 and 50, at temperature 4; of MSE nobody published one."""
  found = {
    arm.name: arm
    for arm in trials.make_arms(grid(**WEIGHED, share=(0.5,), alpha=(0.25,)))
  }
  assert (
    list(found)
    == (
      "Student L_MSE L_CWD L_CWD_Authors HReg_MSE HReg_CWD HReg_CWD_Authors"
    ).split()
  )
  for name, weight in (("L_CWD_Authors", 3.0), ("HReg_CWD_Authors", 50.0)):
    numbers = found[name].numbers
    ratio = numbers["alpha"] / (1 - numbers["alpha"])
    np.testing.assert_allclose(ratio, weight)
    assert (numbers["temperature"], numbers["share"]) == (4.0, 0.0)
  assert found["L_CWD"].numbers["share"] == 0.5
  assert list(trials.left_out(grid(**WEIGHED))) == [
    "L_MSE_Authors",
    "HReg_MSE_Authors",
  ]


def test_what_authors_set_neither_multiplies_their_arm_nor_is_drawn_for_it():
  found = trials.make_arms(
    grid(**WEIGHED, alpha=(0.25, 0.5), temperature=(1.0, 2.0))
  )
  names = [arm.name for arm in found]
  assert names.count("L_CWD_Authors") == 1
  assert sum(name.startswith("L_CWD_alpha") for name in names) == 4
  arm = found[names.index("L_CWD_Authors")]
  point = {"alpha": 0.9, "temperature": 2.0, "learning_rate": 1e-5}
  drawn = spaces.give(arm, point).numbers
  assert drawn == arm.numbers | {"learning_rate": 1e-5}
  levels = factors.of_arms(found)  # Against the same arms by the grid's weight.
  assert levels.loc["L_CWD_Authors", ["alpha", "temperature"]].tolist() == [
    "",
    "",
  ]
  assert factors.sides(levels, "weighting", "grid", "authors")


def test_only_views_that_a_teacher_sees_are_used():
  assert mapped.views(trials.make_arms(grid(view=("weak",)))) == ("weak",)


@pytest.mark.parametrize(
  ("axes", "said"),
  [
    ({"pathway": ("X",)}, "grid.pathway has no 'X'"),
    ({"loss": ("MAE",)}, "grid.loss has no 'MAE'"),
    ({"view": ("medium",)}, "grid.view has no 'medium'"),
    ({"alpha": ()}, "grid.alpha is empty"),
    ({"alpha": (0.0,)}, "grid.alpha=0.0"),
    ({"alpha": (1.5,)}, "grid.alpha=1.5"),
    ({"temperature": (0.0,)}, "grid.temperature=0.0"),
    ({"pair": (("encoder4",),)}, "grid.pair"),
    ({"pair": ((("encoder4", "encoder5"), "x"),)}, "grid.pair"),
    ({"pair": (("encoder4", "encoder5", 0.0),)}, "distils nothing"),
    ({"pair": ((("a", "b"), ("a", "b", 2.0)),)}, "a pair twice"),
    ({"weighting": ("mine",)}, "grid.weighting has no 'mine'"),
  ],
)
def test_a_grid_that_cannot_be_is_refused(axes, said):
  with pytest.raises(UserError, match=said.replace(".", r"\.")) as caught:
    trials.make_arms(grid(**axes))
  assert "\n" not in str(caught.value)
