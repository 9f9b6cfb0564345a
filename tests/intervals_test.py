"""Intervals against their formulas, and their coverage on simulated data."""

import math

import numpy as np
import pytest
from scipy import stats

from kdjax.evaluate import intervals


def bca(sums, counts, level=0.95, draws=20_000):
  """BCa of a ratio of sums by its textbook formula (Efron and Tibshirani)."""
  rng = np.random.default_rng(7)
  n, mean = len(sums), np.sum(sums) / np.sum(counts)
  chosen = rng.integers(0, n, (draws, n))
  means = sums[chosen].sum(1) / counts[chosen].sum(1)
  bias = stats.norm.ppf(np.mean(means < mean))
  without = (sums.sum() - sums) / (counts.sum() - counts)
  away = without.mean() - without
  skew = np.sum(away**3) / (6 * np.sum(away**2) ** 1.5)
  z = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
  return np.quantile(means, stats.norm.cdf(bias + z / (1 - skew * z)))


def test_interval_is_bca_over_groups():
  rng = np.random.default_rng(0)
  groups = rng.integers(0, 30, 70)
  values = rng.exponential(size=70) + rng.exponential(size=30)[groups]
  sums = np.bincount(groups, values, 30)
  counts = np.bincount(groups, minlength=30)
  kept = counts > 0
  expected = bca(sums[kept], counts[kept])
  found = intervals.of_mean(values, groups)
  width = expected[1] - expected[0]
  np.testing.assert_allclose(found, expected, atol=0.04 * width)


def test_a_case_seen_twice_does_not_narrow_the_interval():
  values = np.random.default_rng(1).normal(size=40)
  once = intervals.of_mean(values, np.arange(40))
  twice = intervals.of_mean(np.tile(values, 2), np.tile(np.arange(40), 2))
  np.testing.assert_allclose(once, twice)
  naive = intervals.of_mean(np.tile(values, 2), np.arange(80))
  assert np.ptp(naive) < 0.8 * np.ptp(once)


def test_what_has_no_spread_or_no_groups_says_so():
  assert intervals.of_mean([0.3, 0.3, 0.3], list("abc")) == (0.3, 0.3)
  for values, groups in (([], []), ([0.1, 0.2], "aa"), ([0.1, math.nan], "ab")):
    assert all(map(math.isnan, intervals.of_mean(values, list(groups))))


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_the_interval_covers_the_truth_19_times_in_20(size):
  # Differences of two models, `size` cases to a group, 500 studies; one
  # standard error is 1 %. The tails are heavy, as some lesions are missed.
  rng, hits, number = np.random.default_rng(0), 0, 500
  groups = np.arange(300) // size
  for _ in range(number):
    values = 0.03 + rng.normal(0, 0.05, 300)
    values += 0.05 * rng.standard_t(4, 300)[groups]
    low, high = intervals.of_mean(values, groups, resamples=1999)
    hits += low <= 0.03 <= high
  assert 0.93 <= hits / number <= 0.97
