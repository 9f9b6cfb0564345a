"""How much training anew moves a difference: variances over folds or seeds.

A family of comparisons gives `d[r, c]`: difference c in repetition r, which is
a fold or, where only one was run, a seed. What moves all of a family together
is the luck of what they share, their Student above all, and the fold's teacher;
it is estimated from the family's mean. What is left is a comparison's own luck,
and since three folds say little of one variance, it is drawn towards what the
family's have in common, as far as they are alike (Smyth,
https://doi.org/10.2202/1544-6115.1027, as in limma). Degrees of freedom of sums
are Satterthwaite's (https://doi.org/10.2307/3002019).
"""

import numpy as np
from scipy import optimize
from scipy import special

ROUNDS = 5  # Of weighting; the third already changes little.


def together(differences):
  """Variance of a repetition's difference, where a family shares its luck.

  Args:
    differences: `[R, C]`, R > 1; NaN where a comparison lacks a repetition.

  Returns:
    Variances `[C]` and their degrees of freedom `[C]`; NaN for a comparison
    with fewer than two repetitions. Alone or between two that have all of
    them, a comparison has the variance of its own repetitions.
  """
  differences = np.asarray(differences, float)
  known = ~np.isnan(differences)
  counts = known.sum(axis=0)
  whole = known.all(axis=0)
  family = np.count_nonzero(whole)
  if family < 2:
    return _alone(differences), np.where(counts > 1, counts - 1.0, np.nan)
  freedom = len(differences) - 1
  centred = _centred(differences)
  mean = np.median(centred[:, whole], axis=1)
  # A mean weighted by precision, so that one arm that collapsed in a fold does
  # not make all look shaken; what is left of a variance once it is taken off.
  left = np.ones(differences.shape[1])
  for _ in range(ROUNDS):
    own = _alone(centred - mean[:, None]) / left
    own, own_freedom = moderate(own, freedom, (family - 1) * freedom)
    weights = 1 / (own[whole] + 1e-9 * np.nanmax(own) + 1e-300)
    weights /= weights.sum()
    mean = centred[:, whole] @ weights
    left[whole] = np.maximum(1 - weights, 1e-3)
  luck = np.var(mean, ddof=1)  # With a share of the own ones in it.
  shares = np.stack(np.broadcast_arrays(luck, left * own))
  freedoms = np.array([[freedom], [own_freedom]])
  total, found = satterthwaite(shares, freedoms)
  # Chance can make the shared luck look small; but what is shared is a network
  # like the others, which has half of the luck or more.
  _, most = satterthwaite(np.ones((2, 1)), freedoms)
  return total, np.minimum(found, most)


def apart(differences, scales, rank):
  """Variance of a repetition's difference, where nothing is shared.

  Args:
    differences: `[R, C]` as for `together`.
    scales: what the variances would be in proportion to, `[C]`.
    rank: how many of the comparisons do not follow from the others.

  Returns:
    As for `together`.
  """
  differences = np.asarray(differences, float)
  counts = (~np.isnan(differences)).sum(axis=0)
  scales = np.asarray(scales, float)
  freedom = len(differences) - 1
  own = _alone(differences) / scales
  # Half of what they have together, since levels may share luck after all.
  own, freedom = moderate(own, freedom, max(freedom, rank * freedom / 2))
  return scales * own, np.where(counts > 1, freedom, np.nan)


def moderate(variances, freedom, most):
  """Variances drawn to what they have in common: `[C]` and one freedom.

  Args:
    variances: `[C]`, each on `freedom` degrees; NaN stays NaN.
    freedom: of each, 1 or more.
    most: how many degrees of freedom all have together, `freedom` or more.
  """
  variances = np.asarray(variances, float)
  known = variances[~np.isnan(variances)]
  if len(known) < 2 or not known.any():
    return variances, float(freedom)
  logs = np.log(np.maximum(known, 1e-5 * np.median(known[known > 0])))
  excess = np.var(logs, ddof=1) - special.polygamma(1, freedom / 2)
  if excess <= 0:  # As alike as chance alone would have them.
    return np.where(np.isnan(variances), np.nan, known.mean()), float(most)
  half = optimize.brentq(
    lambda x: special.polygamma(1, x) - excess, 1e-6, 1e12, maxiter=500
  )
  centre = np.mean(logs) - special.digamma(freedom / 2) + np.log(freedom / 2)
  centre = np.exp(centre + special.digamma(half) - np.log(half))
  drawn = (2 * half * centre + freedom * variances) / (2 * half + freedom)
  return drawn, float(min(2 * half + freedom, most))


def satterthwaite(parts, freedoms):
  """A sum of variances and its degrees of freedom: `[P, ...]` twice to two."""
  total = parts.sum(axis=0)
  with np.errstate(divide="ignore", invalid="ignore"):
    freedom = total**2 / (parts**2 / freedoms).sum(axis=0)
  # Nothing varies: any would do.
  return total, np.where(total == 0, freedoms.min(), freedom)


def _alone(differences):
  """Variance of each column's own values; NaN for fewer than two."""
  counts = (~np.isnan(differences)).sum(axis=0)
  squares = np.nansum(_centred(differences) ** 2, axis=0)
  return np.where(counts > 1, squares / np.maximum(counts - 1, 1), np.nan)


def _centred(differences):
  """Each column without its own mean; NaN stays NaN."""
  counts = (~np.isnan(differences)).sum(axis=0)
  return differences - np.nansum(differences, axis=0) / np.maximum(counts, 1)
