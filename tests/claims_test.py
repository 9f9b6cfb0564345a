"""Verdicts follow the numbers, on studies whose truth is known."""

import math

import numpy as np
import pytest

from kdjax.report import claims
from kdjax.report import results
from kdjax.report import verdicts
from tests import simulated

ROW = {
  "difference": 0.0,
  "ci_low": -0.01,
  "ci_high": 0.01,
  "group_holm_p": 0.5,
  "group_equivalent_p": 0.5,
  "groups": 99,
  "corrected_low": math.nan,
  "corrected_high": math.nan,
}
ABOVE = ROW | {"ci_low": 0.01, "ci_high": 0.05, "group_holm_p": 0.01}
BELOW = ROW | {"ci_low": -0.05, "ci_high": -0.01, "group_holm_p": 0.01}
EQUAL = ROW | {"group_equivalent_p": 0.01}
YES, NO, OPEN = (
  verdicts.SUPPORTED,
  verdicts.NOT_SUPPORTED,
  verdicts.UNDECIDED,
)


@pytest.mark.parametrize(
  "row, better, comparable",
  [
    (ABOVE, YES, NO),
    (BELOW, NO, NO),
    (EQUAL, NO, YES),
    (ROW, OPEN, OPEN),
    (ABOVE | {"group_equivalent_p": 0.01}, YES, YES),  # Small but real.
    (ABOVE | {"ci_low": -0.01}, OPEN, OPEN),
    (ABOVE | {"group_holm_p": 0.06}, OPEN, OPEN),
    (ABOVE | {"group_holm_p": math.nan}, OPEN, OPEN),
    (ABOVE | {"corrected_low": -0.1, "corrected_high": 0.2}, OPEN, OPEN),
    (ABOVE | {"corrected_low": 0.01, "corrected_high": 0.2}, YES, NO),
    (EQUAL | {"corrected_low": -0.1, "corrected_high": 0.1}, OPEN, OPEN),
    (ABOVE | {"groups": 19}, OPEN, OPEN),
    (EQUAL | {"groups": 19}, OPEN, OPEN),
  ],
)
def test_verdicts_ask_for_all_that_is_due(row, better, comparable):
  assert verdicts.better(row, 0.02) == better
  assert verdicts.comparable([row], 0.02) == comparable


def test_all_pairs_must_be_equal_and_one_difference_is_enough():
  assert verdicts.comparable([EQUAL, EQUAL], 0.02) == YES
  assert verdicts.comparable([EQUAL, ROW], 0.02) == OPEN
  assert verdicts.comparable([ROW, EQUAL, ABOVE], 0.02) == NO
  assert verdicts.comparable([], 0.02) == OPEN


def study(path, effects, settings=None, arms=simulated.ARMS, **sizes):
  frame = simulated.per_case(np.random.default_rng(2), effects, **sizes)
  config = simulated.workdir(path, frame, settings)
  return results.compute(path, config, arms)


def test_survivors_are_those_of_the_paper():
  assert claims.survivors() == ["L_KLD_WAug", "HReg_KLD", "L_KLD"]


def test_claims_that_are_true_are_supported(tmp_path):
  effects = simulated.effects(lift=0.05, kld=0.02, teacher=0.07)
  found = study(tmp_path, effects, cases=600).claims
  assert found["verdict"].tolist() == [YES] * 6 + [OPEN]


def test_claims_that_are_false_are_not_supported(tmp_path):
  effects = simulated.effects(lift=0.0, kld=-0.03, teacher=0.1)
  effects |= {x: effects[x] + 0.05 for x in effects if x[0] == "H"}
  effects |= {x: effects[x] - 0.06 for x in effects if x.endswith("WAug")}
  effects["Student"] = 0.05
  found = study(tmp_path, effects, cases=600)
  assert found.claims["verdict"].tolist() == [NO] * 6 + [OPEN]
  assert found.answer[0].startswith("Distillation does not lift the student")
  assert "MSE against KLD: +3" in found.answer[1]
  assert "no arm is shown to be equivalent" in found.answer[2]


def test_too_few_cases_decide_nothing(tmp_path):
  found = study(tmp_path, simulated.effects(), cases=15)
  assert set(found.claims["verdict"]) == {OPEN}
  assert "is not decided" in found.answer[0]


def test_luck_of_the_split_is_not_taken_for_an_effect(tmp_path):
  # Each arm's level moves with the split; three hold-outs cannot tell.
  sizes = {"cases": 400, "tests": 120, "split": 0.04}
  effects = simulated.effects(lift=0.02, kld=0.0)
  holdout = simulated.config(splits={"kind": "holdout"})
  found = study(tmp_path, effects, holdout, **sizes)
  by_case = (found.comparisons["group_holm_p"] < 0.05).sum()
  shown = sum(map(abs, map(verdicts.shown, found.arm_rows())))
  assert by_case >= 6
  assert shown <= 2
  assert "trained anew on other splits" in found.answer[0]


def test_a_grid_without_the_claimed_arms_says_what_it_lacks(tmp_path):
  arms = [x for x in simulated.ARMS if x.name in ("Student", "H_MSE")]
  effects = {"Teacher": 0.1, "Student": 0.0, "H_MSE": 0.05}
  found = study(tmp_path, effects, arms=arms)
  verdict = found.claims.set_index("claim")
  assert verdict["verdict"].tolist() == [YES] + [OPEN] * 6
  assert verdict["sentence"].iloc[1:6].str.startswith("This grid lacks").all()
  assert found.answer[1] == "No axis of the grid has two levels to compare."


def test_answers_are_three_sentences(tmp_path):
  answer = study(tmp_path, simulated.effects(), cases=300).answer
  assert len(answer) == 3
  assert all(x[0].isupper() and x.endswith(".") for x in answer)
  assert "nan" not in " ".join(answer)
