"""Paired tests against closed forms and full enumeration."""

import itertools
import math

import numpy as np
import pytest

from kdjax.evaluate import statistics

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


def test_half_width_is_the_t_quantile_times_the_standard_error():
  # Two values: t at 97.5 %, one degree of freedom, is tan(0.475 pi).
  expected = math.tan(0.475 * math.pi) * (0.2 / math.sqrt(2)) / math.sqrt(2)
  assert statistics.half_width([0.4, 0.6, math.nan]) == pytest.approx(expected)
  assert math.isnan(statistics.half_width([0.4]))
