"""Paired tests against closed forms and full enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import multitest

from kdjax.evaluate import statistics
from kdjax.report import published

# Darwin's Zea mays: crossed minus self-fertilised, in eighths of an inch, the
# textbook's paired sample (Fisher, The Design of Experiments, 1935).
MAIZE = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)

both = pytest.mark.parametrize("test", [statistics.t_test, statistics.wilcoxon])


def test_t_test_equals_its_closed_form_for_three_pairs():
  # Two degrees of freedom: P(|T| > t) = 1 - t / sqrt(2 + t^2).
  first, second = [0.7, 0.5, 0.9], [0.6, 0.3, 0.6]
  t = 0.2 / (0.1 / math.sqrt(3))
  expected = 1 - t / math.sqrt(2 + t**2)
  assert statistics.t_test(first, second) == pytest.approx(expected)


def test_t_test_gives_the_textbook_p():
  # Fisher: t = 2.148 on 14 degrees of freedom, p = 0.0497.
  assert statistics.t_test(MAIZE, [0] * 15) == pytest.approx(0.0497, abs=5e-5)


def test_wilcoxon_equals_all_sign_patterns_enumerated():
  ranks = np.argsort(np.argsort(np.abs(MAIZE))) + 1
  observed = ranks[np.array(MAIZE) < 0].sum()
  signs = np.array(list(itertools.product((0, 1), repeat=15)))  # [2**15, 15]
  expected = 2 * np.mean(signs @ ranks <= observed)
  found = statistics.wilcoxon(MAIZE, [0] * 15)
  assert found == pytest.approx(expected)
  assert found == pytest.approx(0.0413, abs=5e-5)


@both
def test_order_of_the_models_and_of_the_cases_does_not_matter(test):
  first, second = np.random.default_rng(0).random((2, 20))
  p = test(first, second)
  assert 0 < p < 1
  assert test(second, first) == pytest.approx(p)
  assert test(first[::-1], second[::-1]) == pytest.approx(p)


@both
def test_equal_arrays_give_one(test):
  assert test([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]) == 1


@both
def test_a_difference_of_rounding_alone_is_none(test):
  assert test([0.1 + 0.2, 0.5], [0.3, 0.5]) == 1


def test_rounding_does_not_break_a_tie():
  exact = statistics.wilcoxon([3, 2, 1, 7, 2], [2, 1, 0, 0, 4])
  tenths = statistics.wilcoxon([0.3, 0.2, 0.1, 0.7, 0.2], [0.2, 0.1, 0, 0, 0.4])
  assert tenths == exact


@both
def test_pairs_with_nan_are_dropped(test):
  first, second = np.random.default_rng(1).random((2, 12))
  holes = np.array([math.nan, 0.5])
  found = test(np.append(first, holes), np.append(second, holes[::-1]))
  assert found == test(first, second)


@both
def test_fewer_than_two_pairs_say_nothing(test):
  assert math.isnan(test([], []))
  assert math.isnan(test([0.5], [0.1]))
  assert math.isnan(test([0.5, math.nan], [0.1, 0.2]))


@both
@pytest.mark.parametrize("first", [[1, 2], [0.5, 0.5], [1, 1, 1, 1]])
def test_few_or_constant_differences_give_a_number_and_no_warning(test, first):
  assert 0 <= test(first, [0] * len(first)) <= 1


@both
def test_unpaired_arrays_are_refused(test):
  with pytest.raises(ValueError, match="aligned by case"):
    test([0.1, 0.2], [0.1, 0.2, 0.3])


def test_holm_leaves_the_three_published_survivors():
  # Of eleven arms with p < 0.05 against Student, paper.md names three.
  arms = {x: row for x, row in published.TABLE_4.items() if "_" in x}
  p = [row.p_student for row in arms.values()]
  assert sum(x < 0.05 for x in p) == 11
  corrected = statistics.holm(p)
  kept = {x for x, q in zip(arms, corrected, strict=True) if q < 0.05}
  assert kept == {"L_KLD_WAug", "HReg_KLD", "L_KLD"}


def test_holm_steps_down_and_never_up():
  # 4 x 0.01; 3 x 0.02; then 2 x 0.025 would be less than that; then 0.5.
  found = statistics.holm([0.025, 0.01, 0.5, 0.02])
  np.testing.assert_allclose(found, [0.06, 0.04, 0.5, 0.06])


def test_holm_leaves_out_what_could_not_be_compared():
  found = statistics.holm([0.01, math.nan, 0.04])
  np.testing.assert_allclose(found, [0.02, math.nan, 0.04])
  assert statistics.holm([]).shape == (0,)


def test_holm_is_statsmodels_to_the_last_bit():
  rng = np.random.default_rng(0)
  for size in (1, 2, 7, 40):
    p = rng.integers(0, 30, size) / 29 * rng.choice([1.0, 0.01])  # With ties.
    _, corrected, *_ = multitest.multipletests(p, method="holm")
    np.testing.assert_array_equal(statistics.holm(p), corrected)


def test_effect_is_the_balance_of_ranks():
  # |d| ranks 1, 2, 3, 4; against: 2. (8 - 2) / 10.
  assert statistics.effect([1, -2, 3, 4], [0] * 4) == pytest.approx(0.6)
  assert statistics.effect([0, -2, 3, 4], [0, 0, 0, 0]) == pytest.approx(4 / 6)
  assert statistics.effect([1, 2], [1, 2]) == 0


def test_tally_counts_wins_ties_losses():
  first, second = [0.3, 0.1 + 0.2, 0.5, math.nan, 0.1], [0.1, 0.3, 0.6, 1, 0.0]
  assert statistics.tally(first, second) == (2, 1, 1)


def test_equivalence_is_the_worse_of_two_one_sided_tests():
  difference = np.array(MAIZE) / 1000
  expected = max(
    stats.ttest_1samp(difference, -0.04, alternative="greater").pvalue,
    stats.ttest_1samp(difference, 0.04, alternative="less").pvalue,
  )
  zeros = np.zeros(15)
  found = statistics.equivalence(difference, zeros, 0.04)
  assert 0.001 < found == pytest.approx(expected)
  assert statistics.equivalence(zeros, difference, 0.04) == pytest.approx(found)


def test_a_constant_difference_is_not_tested_for_equivalence():
  assert math.isnan(statistics.equivalence([0.0] * 5, [0.0] * 5, 0.02))


def test_smallest_detectable_has_the_power_that_it_promises():
  rng = np.random.default_rng(0)
  for count in (3, 40):
    error, freedom = 1 / math.sqrt(count), count - 1
    size = statistics.smallest_detectable(error, freedom, alpha=0.05)
    draws = rng.normal(size, 1, (4000, count))
    power = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert power == pytest.approx(0.8, abs=0.02)  # Three standard errors.
  assert math.isnan(statistics.smallest_detectable(0.0, 5))
  assert math.isnan(statistics.smallest_detectable(0.1, math.nan))
