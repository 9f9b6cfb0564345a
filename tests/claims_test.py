"""Verdicts follow the numbers, on studies whose truth is known."""

import math

import numpy as np
import pytest

from kdjax.distill import trials
from kdjax.evaluate import statistics
from kdjax.report import answer
from kdjax.report import claims
from kdjax.report import gather
from kdjax.report import verdicts
from tests import simulated

ROW = {
  "difference": 0.0,
  "ci_low": -0.01,
  "ci_high": 0.01,
  "holm_p": 0.5,
  "equivalent_p": 0.5,
  "groups": 99,
  "fold_low": -0.01,
  "fold_high": 0.01,
  "networks_low": -0.01,
  "networks_high": 0.01,
}
ABOVE = ROW | {
  "ci_low": 0.01,
  "ci_high": 0.05,
  "holm_p": 0.01,
  "fold_low": 0.01,
  "fold_high": 0.05,
  "networks_low": 0.02,
  "networks_high": 0.03,
}
EQUAL = ROW | {"equivalent_p": 0.01}
YES, NO, OPEN = (
  verdicts.SUPPORTED,
  verdicts.NOT_SUPPORTED,
  verdicts.UNDECIDED,
)


def networks(low, high):
  return {"networks_low": low, "networks_high": high}


@pytest.mark.parametrize(
  "change, sign",
  [
    ({}, 1),
    ({"holm_p": 0.06}, 0),
    ({"holm_p": math.nan}, 0),
    ({"ci_low": -0.01}, 0),
    ({"fold_low": -0.01}, 0),  # One fold disagrees.
    ({"groups": 19}, 0),
    ({"ci_low": 0.03, "ci_high": 0.03}, 0),  # No spread at all.
    (networks(-0.01, 0.06), 0),
    (networks(0.001, 0.06), 1),
  ],
)
def test_a_difference_is_shown_only_if_all_agree(change, sign):
  row = ABOVE | change
  assert verdicts.shown(row) == sign
  assert verdicts.shown(answer.turned(row)) == -sign


@pytest.mark.parametrize(
  "change, equal",
  [
    ({}, True),
    ({"equivalent_p": 0.06}, False),
    ({"equivalent_p": math.nan}, False),
    ({"fold_high": 0.021}, False),
    ({"groups": 19}, False),
    (networks(-0.01, 0.021), False),
    (networks(-0.015, 0.015), True),
  ],
)
def test_equality_is_shown_only_if_all_agree(change, equal):
  assert verdicts.equal(EQUAL | change, 0.02) == equal


@pytest.mark.parametrize(
  "change, p, wide, verdict",
  [
    ({}, 0.01, (0.005, 0.055), YES),
    ({}, 0.06, (-0.01, 0.055), OPEN),  # What was claimed is within reach.
    ({}, 0.06, (-0.01, 0.02), OPEN),  # A fold reaches it.
    ({"fold_high": 0.03}, 0.06, (-0.01, 0.02), NO),
    ({"fold_high": 0.03}, math.nan, (-0.01, 0.02), NO),
    ({"fold_high": 0.03, "groups": 19}, 0.06, (-0.01, 0.02), OPEN),
    ({"fold_high": 0.03} | networks(0.01, 0.05), 0.06, (-0.01, 0.02), OPEN),
    ({"fold_low": -0.01}, 0.01, (0.005, 0.055), OPEN),
    ({"fold_high": 0.03}, 0.01, (0.005, 0.02), YES),  # Less than claimed.
  ],
)
def test_better_is_refused_only_where_the_claimed_effect_is_left_out(
  change, p, wide, verdict
):
  assert verdicts.better([ABOVE | change], p, [wide], [0.04]) == verdict


@pytest.mark.parametrize(
  "row, p, wide, verdict",
  [
    (EQUAL, 0.01, (-0.015, 0.015), YES),
    (EQUAL, 0.06, (-0.025, 0.015), OPEN),
    (ABOVE, 0.9, (0.005, 0.06), OPEN),  # Different, perhaps by little.
    (ABOVE, 0.9, (0.021, 0.06), NO),
    (ABOVE | {"fold_low": -0.001}, 0.9, (0.021, 0.06), OPEN),
    (ABOVE | networks(-0.01, 0.06), 0.9, (0.021, 0.06), OPEN),
    (ABOVE | networks(0.001, 0.06), 0.9, (0.021, 0.06), NO),
    (ABOVE | {"groups": 19}, 0.9, (0.021, 0.06), OPEN),
  ],
)
def test_equality_is_refused_only_by_a_difference_beyond_the_margin(
  row, p, wide, verdict
):
  assert verdicts.comparable([row], p, [wide], 0.02) == verdict
  mirrored = [(-wide[1], -wide[0])]
  turned = [answer.turned(row)]
  assert verdicts.comparable(turned, p, mirrored, 0.02) == verdict


def test_all_pairs_must_be_equal_and_one_far_apart_is_enough():
  near, far = (-0.01, 0.01), (0.03, 0.06)
  both = [near, near]
  assert verdicts.comparable([EQUAL, EQUAL], 0.01, both, 0.02) == YES
  assert verdicts.comparable([EQUAL, ROW], 0.01, both, 0.02) == OPEN
  assert verdicts.comparable([EQUAL, ABOVE], 0.01, [near, far], 0.02) == NO


def study(path, effects, settings=None, arms=simulated.ARMS, **sizes):
  frame = simulated.per_case(np.random.default_rng(2), effects, **sizes)
  config = simulated.workdir(path, frame, settings)
  return gather.results(path, config, arms)


def test_survivors_are_those_of_the_paper():
  assert claims.survivors() == ["L_KLD_WAug", "HReg_KLD", "L_KLD"]


def test_claims_that_are_true_are_supported(tmp_path):
  effects = simulated.effects(lift=0.05, kld=0.02, teacher=0.07)
  found = study(tmp_path, effects, cases=600).claims
  assert found["verdict"].tolist() == [YES] * 6 + [OPEN]
  tested = found["p"].notna()
  assert tested.tolist() == [True] * 6 + [False]
  np.testing.assert_allclose(
    found["holm_p"][tested], statistics.holm(found["p"][tested])
  )
  assert found["sentence"][:6].str.contains("over 6 claims: p ").all()
  assert "Published: +5.2 on average, +4.3 to +6.8" in found["sentence"][0]


def test_a_small_lead_that_the_numbers_may_hide_is_left_open(tmp_path):
  # KLD's published lead, 1.2 points, is within the interval, and so is 0.
  effects = simulated.effects(kld=0.005)
  found = study(tmp_path, effects, cases=45).claims
  assert found["verdict"][2] == OPEN
  assert "less than" not in found["sentence"][2]


def test_a_fold_that_disagrees_leaves_a_claim_open(tmp_path):
  frame = simulated.per_case(
    np.random.default_rng(2), simulated.effects(lift=0.06), cases=600
  )
  config = simulated.workdir(tmp_path, frame)
  agree = gather.results(tmp_path, config, simulated.ARMS)
  assert agree.claims["verdict"][0] == YES
  odd = (frame["fold"] == 1) & (frame["model"] == "Student")
  frame.loc[odd, "dice"] = (frame.loc[odd, "dice"] + 0.1).clip(upper=1)
  simulated.workdir(tmp_path, frame)
  found = gather.results(tmp_path, config, simulated.ARMS)
  assert found.lift["group_p"] < 0.001 < found.lift["anew_p"]
  assert found.claims["verdict"][0] == OPEN
  assert "is not decided" in found.answer[0]
  assert found.winners() == []


def test_every_student_has_its_own_gap_to_the_teacher(tmp_path):
  arms = trials.make_arms(simulated.GRID | {"learning_rate": (1e-3, 1e-2)})
  effects = {"Teacher": 0.1} | {arm.name: 0.0 for arm in arms}
  effects["Student_lr0.01"] = 0.1
  found = study(tmp_path, effects, arms=arms)
  first, second, _ = found.answer[2].split("; ")
  assert first.startswith("Teacher against Student_lr0.001: +")
  assert "nothing to teach" not in first
  assert second.startswith("Teacher against Student_lr0.01: ")
  assert second.endswith(", so it may have had nothing to teach")


def test_a_student_that_is_not_much_smaller_tests_no_claim_on_size(tmp_path):
  frame = simulated.per_case(np.random.default_rng(2), simulated.effects())
  config = simulated.workdir(tmp_path, frame)
  counts = dict.fromkeys(simulated.effects(), 100) | {"Teacher": 1000}
  found = gather.results(tmp_path, config, simulated.ARMS, counts).claims
  assert found["verdict"][4] == OPEN
  assert "100 times smaller (10 times)" in found["sentence"][4]


def test_claims_that_are_false_are_not_supported(tmp_path):
  effects = simulated.effects(lift=0.0, kld=-0.03, teacher=0.1)
  effects |= {x: effects[x] + 0.05 for x in effects if x[0] == "H"}
  effects |= {x: effects[x] - 0.06 for x in effects if x.endswith("WAug")}
  effects["Student"] = 0.05
  found = study(tmp_path, effects, cases=600)
  assert found.claims["verdict"].tolist() == [NO] * 6 + [OPEN]
  assert found.answer[0].startswith("Distillation lowers the student")
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
  by_case = (found.comparisons["group_p"] < 0.05 / 12).sum()
  shown = sum(map(abs, map(verdicts.shown, found.arm_rows())))
  assert by_case >= 6
  assert shown <= 2
  assert "is not decided" in found.answer[0]


@pytest.mark.parametrize(
  "sizes, spoken",
  [
    ({"folds": 1}, "these networks alone"),
    ({"folds": 1, "seeds": 3}, "networks trained on this one fold"),
  ],
)
def test_one_fold_decides_no_claim_and_says_of_whom_it_speaks(
  tmp_path, sizes, spoken
):
  found = study(tmp_path, simulated.effects(), cases=300, **sizes)
  assert len(found.winners()) == 12
  assert set(found.claims["verdict"]) == {OPEN}
  assert found.claims["sentence"][:6].str.contains(spoken).all()
  assert found.answer[0].startswith(f"Of {spoken}, distillation lifts")
  assert all(spoken in x for x in found.answer)
  assert spoken in found.notes[0] or "on its cases" in found.notes[0]
  alone = "seeds" not in sizes
  assert ("<0.001\N{DEGREE SIGN}" in found.text) == alone
  assert ("<0.001**" in found.text) != alone


def test_a_grid_without_the_claimed_arms_says_what_it_lacks(tmp_path):
  arms = [x for x in simulated.ARMS if x.name in ("Student", "H_MSE")]
  effects = {"Teacher": 0.1, "Student": 0.0, "H_MSE": 0.05}
  found = study(tmp_path, effects, arms=arms)
  verdict = found.claims.set_index("claim")
  assert verdict["verdict"].tolist() == [YES] + [OPEN] * 6
  assert verdict["sentence"].iloc[1:6].str.startswith("This run lacks").all()
  assert found.answer[1] == "No axis of the grid has two levels to compare."


def test_answers_are_three_sentences(tmp_path):
  answer = study(tmp_path, simulated.effects(), cases=300).answer
  assert len(answer) == 3
  assert all(x[0].isupper() and x.endswith(".") for x in answer)
  assert "nan" not in " ".join(answer)
