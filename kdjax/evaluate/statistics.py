"""Paired comparisons of two models on the same cases, by scipy.

Inputs are aligned arrays `[n]`, one value per case. A pair with a NaN is
dropped; fewer than two pairs left say nothing, which is NaN. Differences are
rounded to 12 decimals: two orders of summation must not turn a tie into a
difference.
"""

import warnings

import numpy as np
from scipy import stats


def t_test(first, second):
  """Two-sided p of the paired t-test, `[n]` twice to a float in [0, 1].

  Equal arrays give 1, a constant difference gives 0 (infinite t).
  """
  difference = differences(first, second)
  if len(difference) < 2:
    return float("nan")
  if not difference.any():
    return 1.0
  with warnings.catch_warnings():
    # A constant difference has no spread: an infinite t, not a problem.
    warnings.simplefilter("ignore", RuntimeWarning)
    return float(stats.ttest_rel(difference, np.zeros_like(difference)).pvalue)


def wilcoxon(first, second):
  """Two-sided p of the signed-rank test, `[n]` twice to a float in [0, 1].

  Zero differences are dropped; exact for up to 50 pairs without ties, else by
  the normal approximation (Wilcoxon, https://doi.org/10.2307/3001968). Equal
  arrays give 1.
  """
  difference = differences(first, second)
  if len(difference) < 2:
    return float("nan")
  if not difference.any():
    return 1.0
  return float(stats.wilcoxon(difference).pvalue)


def half_width(values, level=0.95):
  """Half the t interval of the mean, `[n]` to a float; the values' own unit.

  It takes the values as independent. NaN for fewer than two.
  """
  values = np.asarray(values, float)
  values = values[~np.isnan(values)]
  if len(values) < 2:
    return float("nan")
  quantile = stats.t.ppf((1 + level) / 2, len(values) - 1)
  return float(quantile * np.std(values, ddof=1) / np.sqrt(len(values)))


def differences(first, second):
  """First minus second where both are known, `[n]` twice to `[m]`, m <= n."""
  first, second = np.asarray(first, float), np.asarray(second, float)
  if first.shape != second.shape or first.ndim != 1:
    raise ValueError(
      f"Arrays of shapes {first.shape} and {second.shape} are not paired: "
      "both must be [n], aligned by case."
    )
  difference = np.round(first - second, 12)
  return difference[~np.isnan(difference)]
