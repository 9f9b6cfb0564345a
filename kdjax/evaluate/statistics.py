"""Paired comparisons of two models on the same cases, by scipy, statsmodels.

Inputs are aligned arrays `[n]`, one value per case. A pair with a NaN is
dropped; fewer than two pairs left say nothing, which is NaN. Differences are
rounded to 12 decimals: two orders of summation must not turn a tie into a
difference.
"""

import warnings

import numpy as np
from scipy import optimize
from scipy import special
from scipy import stats
from statsmodels.stats import weightstats


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


def holm(p):
  """Holm's corrected p over one family, `[m]` to `[m]`, in [0, 1].

  Every hypothesis whose corrected p is below 0.05 may be rejected, with at most
  5 % risk of even one error (Holm, https://www.jstor.org/stable/4615733). NaN,
  a comparison that could not be made, is no member of the family.
  """
  p = np.asarray(p, float)
  corrected = np.full(p.shape, np.nan)
  # statsmodels' own collects garbage at every call: half a second each in a
  # process that has compiled programs. NaN are sorted behind the others.
  order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
  steps = p[order] * np.arange(len(order), 0, -1)
  corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
  return corrected


def effect(first, second):
  """Matched-pairs rank-biserial correlation, `[n]` twice to a float in [-1, 1].

  The share of the ranks of |difference| that favour `first` minus the share
  that favour `second`; it goes with the signed-rank test (Kerby,
  https://doi.org/10.2466/11.IT.3.1). Equal arrays give 0.
  """
  difference = differences(first, second)
  if len(difference) < 2:
    return float("nan")
  difference = difference[difference != 0]
  if not len(difference):
    return 0.0
  above = stats.wilcoxon(difference, alternative="greater").statistic
  return float(2 * above / (len(difference) * (len(difference) + 1) / 2) - 1)


def tally(first, second):
  """How often `first` is above, equal to, below `second`: three counts."""
  signs = np.sign(differences(first, second))
  return tuple(int(np.count_nonzero(signs == x)) for x in (1, 0, -1))


def equivalence(first, second, margin):
  """The p of two one-sided paired t-tests, `[n]` twice to a float in [0, 1].

  Small means: the mean difference lies within `margin` on either side of 0
  (Schuirmann, https://doi.org/10.1007/BF01068419). `margin` has the values' own
  unit. NaN for a constant difference, such as that of two networks that never
  predict anything: no spread, no test.
  """
  difference = differences(first, second)
  if len(difference) < 2 or np.ptp(difference) == 0:
    return float("nan")
  zeros = np.zeros_like(difference)
  return float(weightstats.ttost_paired(difference, zeros, -margin, margin)[0])


def error_of_mean(values):
  """Standard error of a mean and its degrees of freedom, `[n]` to two floats.

  NaN for fewer than two values and where all are equal: no spread, no error.
  """
  values = np.asarray(values, float)
  if len(values) < 2 or np.ptp(values) == 0:
    return float("nan"), float("nan")
  error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
  return error, float(len(values) - 1)


def smallest_detectable(error, freedom, alpha=0.05, power=0.8):
  """The true mean at which a two-sided t-test at `alpha` has `power`.

  Args:
    error: standard error of the mean, whose unit the result has.
    freedom: its degrees of freedom, in (0, inf).
    alpha: level, in (0, 1).
    power: in (0, 1).

  Returns:
    NaN where there is no spread.
  """
  if not error > 0 or not freedom > 0:
    return float("nan")
  limit = stats.t.isf(alpha / 2, freedom)
  # Normal given the spread that is found, hence averaged over that one's
  # quantiles: scipy's noncentral t fails at few degrees and small levels, and
  # statsmodels' power with it.
  quantiles = (np.arange(2000) + 0.5) / 2000
  far = limit * np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)
  lacking = lambda shift: (
    np.mean(special.ndtr(shift - far) + special.ndtr(-shift - far)) - power
  )
  return float(error * optimize.brentq(lacking, 0.0, far.max() + 10))


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
