"""What a comparison allows to be said, from its numbers alone.

A difference is shown when its corrected p is below 0.05 and its interval,
for repeated hold-outs also the interval over them, leaves out 0. Equality is
shown when an equivalence test says so, never by a large p. Fewer than `FEWEST`
independent cases show nothing: means of so few are not to be trusted.
"""

import pandas as pd

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
UNDECIDED = "not decidable here"
FEWEST = 20


def shown(row, p="group_holm_p"):
  """Sign of the difference of a comparison that is shown; 0 if none is.

  Args:
    row: of `comparisons.make` or `factors.contrasts`.
    p: the column that decides, in [0, 1].
  """
  if row["groups"] < FEWEST or not row[p] < 0.05:
    return 0
  bounds = [(row["ci_low"], row["ci_high"])]
  if not pd.isna(row["corrected_low"]):
    bounds.append((row["corrected_low"], row["corrected_high"]))
  if all(low > 0 for low, _ in bounds):
    return 1
  return -1 if all(high < 0 for _, high in bounds) else 0


def equal(row, margin):
  """Whether the two are shown to lie within `margin` (in Dice)."""
  if row["groups"] < FEWEST or not row["group_equivalent_p"] < 0.05:
    return False
  low, high = row["corrected_low"], row["corrected_high"]
  return bool(pd.isna(low) or (-margin < low and high < margin))


def better(row, margin, p="group_holm_p"):
  """Verdict on "the first is better than the second"."""
  sign = shown(row, p)
  if sign > 0:
    return SUPPORTED
  if sign < 0 or equal(row, margin):
    return NOT_SUPPORTED
  return UNDECIDED


def comparable(found, margin, p="group_holm_p"):
  """Verdict on "all these are pairs of equals"; none at all is undecided."""
  equals = [equal(row, margin) for row in found]
  if found and all(equals):
    return SUPPORTED
  differ = [shown(row, p) for row in found]
  if any(d and not e for d, e in zip(differ, equals, strict=True)):
    return NOT_SUPPORTED
  return UNDECIDED
