"""Intervals of a mean over cases that are not independent.

They are of these networks on other patients: whole groups are resampled, so
that near-duplicates and cases tested in several folds are not counted twice.
"""

import warnings

import numpy as np
from scipy import stats

RESAMPLES = 4999


def of_mean(values, groups, level=0.95, resamples=RESAMPLES):
  """BCa bootstrap interval of the mean, `[U]` twice to `(low, high)`.

  Resamples groups with all their units (Efron,
  https://doi.org/10.1080/01621459.1987.10478410, by scipy, from one fixed
  seed). The mean stays that over units.

  Args:
    values: one number per unit, in any unit of measure; NaN is left out.
    groups: what each unit belongs to.
    level: of confidence, in (0, 1).
    resamples: draws of groups.

  Returns:
    Both NaN for fewer than two groups; both the value itself where all groups
    have one mean, since there is no spread to resample.
  """
  values, groups = np.asarray(values, float), np.asarray(groups)
  known = ~np.isnan(values)
  names, place = np.unique(groups[known], return_inverse=True)
  if len(names) < 2:
    return float("nan"), float("nan")
  sums = np.bincount(place, np.round(values[known], 12))
  counts = np.bincount(place).astype(float)
  if np.ptp(sums / counts) < 1e-12:
    mean = float(np.mean(values[known]))
    return mean, mean
  with warnings.catch_warnings():
    # What stays undefined comes back as NaN, and is shown as such.
    warnings.simplefilter("ignore", stats.DegenerateDataWarning)
    warnings.simplefilter("ignore", RuntimeWarning)
    found = stats.bootstrap(
      (sums, counts),
      lambda s, n, axis=-1: np.sum(s, axis=axis) / np.sum(n, axis=axis),
      paired=True,
      vectorized=True,
      method="BCa",
      confidence_level=level,
      n_resamples=resamples,
      batch=2_000_000 // len(names) + 1,  # Bounds memory.
      rng=np.random.default_rng(0),
    )
  low, high = found.confidence_interval
  return float(low), float(high)
