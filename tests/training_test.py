"""Variances of training against their formulas, and whole tables of luck."""

import functools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdjax.evaluate import intervals
from kdjax.evaluate import statistics
from kdjax.evaluate import training
from kdjax.report import comparisons
from kdjax.report import factors
from kdjax.report import paired
from kdjax.report import verdicts
from tests import simulated


def test_one_comparison_has_the_t_test_of_its_folds():
  values = np.random.default_rng(0).normal(1, 2, (5, 1))
  for variance, freedom in (
    training.together(values),
    training.apart(values, [2.0], 1),
  ):
    p = 2 * stats.t.sf(abs(values.mean()) / math.sqrt(variance[0] / 5), freedom)
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_what_a_family_shares_is_parted_from_what_is_its_own():
  # All arms in step: nothing is their own, so folds - 1 degrees of freedom.
  luck = np.array([[0.0], [3.0], [6.0]])
  variance, freedom = training.together(luck + np.array([[0.0, 1.0, 5.0]]))
  np.testing.assert_allclose(variance, 9.0)
  np.testing.assert_allclose(freedom, 2)
  # Arms that share nothing on average: the folds' means are equal.
  own = np.array([[1.0, -1.0], [-1.0, 1.0]])
  variance, freedom = training.together(own)
  np.testing.assert_allclose(variance, 2.0)  # Each arm's own.
  np.testing.assert_allclose(freedom, 1)


def test_variances_alike_are_pooled_and_others_are_left():
  rng = np.random.default_rng(1)
  alike = rng.chisquare(4, 400) / 4
  drawn, freedom = training.moderate(alike, 4, 1600)
  assert freedom > 100
  assert np.std(drawn) < 0.2 * np.std(alike)
  # Scaled inverse chi-squared variances, as the method supposes.
  true = 3.0 * 6 / rng.chisquare(6, 4000)
  drawn, freedom = training.moderate(true * rng.chisquare(4, 4000) / 4, 4, 9e9)
  assert freedom == pytest.approx(4 + 6, rel=0.15)
  # What is drawn is the posterior mean of the precision, turned over.
  assert np.mean(drawn / true) == pytest.approx(1, rel=0.05)
  wild = np.exp(np.linspace(-12, 12, 50))
  drawn, freedom = training.moderate(wild, 4, 200)
  np.testing.assert_allclose(drawn[25:], wild[25:], rtol=0.1)
  assert freedom < 5


def test_what_is_not_known_stays_unknown():
  values = np.random.default_rng(0).normal(size=(3, 4))
  values[1:, 2] = np.nan
  for variance, freedom in (
    training.together(values),
    training.apart(values, np.ones(4), 4),
  ):
    assert np.isnan(variance).tolist() == [False, False, True, False]
    assert np.isnan(freedom[2])
  zeros = np.zeros((3, 4))
  variance, freedom = training.together(zeros)
  assert not variance.any() and not np.isnan(freedom).any()


def test_seeds_of_one_fold_count_its_cases_too():
  # Seeds that agree to the digit leave the cases' own t-test.
  frame = simulated.per_case(
    np.random.default_rng(0), {"Student": 0, "L_MSE": 0.1}, folds=1, clip=False
  )
  frames = frame, frame.assign(seed=1)
  table = paired.make(pd.concat(frames, ignore_index=True))
  assert table.scope == paired.ONE_FOLD
  (row,) = table.compare([({"L_MSE": 1.0}, {"Student": 1.0})])
  dice = frame.pivot(index="case", columns="model", values="dice")
  p = stats.ttest_rel(dice["L_MSE"], dice["Student"]).pvalue
  assert row["anew_p"] == pytest.approx(p, rel=1e-6)


def test_folds_that_agree_by_luck_do_not_narrow_what_cases_leave_open():
  frame = simulated.per_case(
    np.random.default_rng(0), {"Student": 0, "L_MSE": 0.1}, folds=2, clip=False
  )
  gap = frame[frame["model"] == "L_MSE"].groupby("fold")["dice"].mean()
  own = frame[frame["model"] == "Student"].groupby("fold")["dice"].mean()
  luck = (gap - own) - 0.1  # Taken out: both folds differ by 0.1 now.
  arm = frame["model"] == "L_MSE"
  frame.loc[arm, "dice"] -= frame.loc[arm, "fold"].map(luck)
  table = paired.make(frame)
  assert table.scope == paired.METHODS
  sides = {"L_MSE": 1.0}, {"Student": 1.0}
  (row,) = table.compare([sides])
  assert row["error"] < 1e-6 < row["ci_high"] - row["ci_low"]
  assert (row["ci_low"], row["ci_high"]) == pytest.approx(
    (row["networks_low"], row["networks_high"])
  )
  low, high = table.interval(sides, row, 0.99)
  assert low < row["ci_low"] and row["ci_high"] < high


def test_an_arm_that_collapsed_in_a_fold_shakes_no_other():
  values = np.random.default_rng(0).normal(0, 0.01, (3, 6))
  calm, _ = training.together(values[:, 1:])
  values[1, 0] -= 0.5
  shaken, _ = training.together(values)
  assert shaken[0] > 0.01
  np.testing.assert_allclose(shaken[1:], calm, rtol=0.5)


def test_levels_of_axes_cover_though_they_share_luck():
  # Twelve arms of three axes; each pathway has luck of its own in a fold, half
  # of that of an arm. 600 studies of three folds.
  rng, inside = np.random.default_rng(0), []
  levels = factors.of_arms(simulated.ARMS)
  named = [
    ("pathway", "H", "L"),
    ("pathway", "HReg", "L"),
    ("pathway", "HReg", "H"),
    ("loss", "KLD", "MSE"),
    ("view", "weak", "strong"),
  ]
  signs = [
    np.array([(x == a) * 1.0 - (x == b) for x in levels[factor]])
    for factor, a, b in named
  ]
  weights = np.stack([x / np.sum(x > 0) for x in signs], axis=1)  # [12, 5]
  places = levels["pathway"].astype("category").cat.codes
  for _ in range(600):
    luck = rng.normal(0, 0.7, (3, 3))[:, places] + rng.normal(0, 1, (3, 12))
    means = luck @ weights
    variance, freedom = training.apart(means, (weights**2).sum(axis=0), 4)
    reach = stats.t.isf(0.025, freedom) * np.sqrt(variance / 3)
    inside.append(np.mean(np.abs(means.mean(axis=0)) <= reach))
  error = np.std(inside, ddof=1) / math.sqrt(600)
  assert 0.93 - 2 * error <= np.mean(inside) <= 0.97 + 2 * error


DESIGNS = [(1, 1), (3, 1), (1, 3), (3, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("folds, seeds", DESIGNS)
def test_intervals_cover_and_nothing_is_shown_where_nothing_is(
  monkeypatch, folds, seeds
):
  # Cases, a fold's cases and training all move a model; no arm has an effect.
  # 100 tables of twelve arms, whose coverages are correlated.
  rng = np.random.default_rng(folds + 10 * seeds)
  effects = dict.fromkeys(["Student", *simulated.DISTILLED], 0.0)
  pairs = [(x, "Student") for x in simulated.DISTILLED]
  quick = functools.partial(intervals.of_mean, resamples=499)
  monkeypatch.setattr(intervals, "of_mean", quick)
  number, covered, wrong = 100, [], 0
  # One fold and seed: its networks are what is spoken of, and have no luck.
  luck = 0.0 if folds == seeds == 1 else 0.015
  split = 0.01 if folds > 1 else 0.0
  for _ in range(number):
    frame = simulated.per_case(
      rng,
      effects,
      cases=120,
      folds=folds,
      seeds=seeds,
      luck=luck,
      split=split,
      clip=False,
    )
    found = comparisons.make(paired.make(frame), pairs)
    inside = (found["ci_low"] <= 0) & (0 <= found["ci_high"])
    covered.append(inside.mean())
    wrong += any(map(verdicts.shown, found.to_dict("records")))
  error = np.std(covered, ddof=1) / math.sqrt(number)
  coverage = np.mean(covered)
  assert 0.93 - 2 * error <= coverage <= 0.97 + 2 * error
  assert wrong / number <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / number)


@pytest.mark.slow
def test_luck_of_three_folds_fooled_who_counted_cases_alone():
  # Why repeats count: on such tables Holm's correction over tests by case
  # calls some arm better or worse most of the time.
  rng = np.random.default_rng(0)
  effects = dict.fromkeys(["Student", *simulated.DISTILLED], 0.0)
  pairs = [(x, "Student") for x in simulated.DISTILLED]
  naive = 0
  for _ in range(20):
    frame = simulated.per_case(rng, effects, luck=0.03, clip=False)
    found = comparisons.make(paired.make(frame), pairs)
    naive += min(statistics.holm(found["group_p"])) < 0.05
  assert naive > 10
