"""What a comparison allows to be said, from its numbers alone.

A difference is shown when its corrected p is below 0.05 and everything else
that is known lies on the same side of 0: its interval, that of these networks
on other cases, and the mean of every fold. Equality is shown when an
equivalence test says so and every fold lies within the margin, never by a large
p. A claim is refused only by numbers that leave out what it claims. Fewer than
`FEWEST` independent cases, or differences without any spread (networks that
never predict anything), show nothing.

What a difference speaks of depends on what was repeated (`paired`). A claim of
the study is about methods, so one fold decides none.
"""

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
UNDECIDED = "not decidable here"
FEWEST = 20


def shown(row):
  """Sign of the difference of a comparison that is shown; 0 if none is.

  Args:
    row: of `comparisons.make` or `factors.contrasts`; its `holm_p` decides.
  """
  return side(row) if row["holm_p"] < 0.05 else 0


def side(row):
  """Sign of all that is known of a difference but its p; 0 if they disagree."""
  if not _enough(row):
    return 0
  interval = row["ci_low"], row["ci_high"]
  if above(row, interval, 0):
    return 1
  return -1 if below(row, interval, 0) else 0


def equal(row, margin):
  """Whether the two are shown to lie within `margin` (in Dice)."""
  if not _enough(row) or not row["equivalent_p"] < 0.05:
    return False
  lows, highs = zip(*_bounds(row), strict=True)
  return bool(-margin < min(lows) and max(highs) < margin)


def above(row, interval, size):
  """Whether `interval` and all else that is known lie above `size`, in Dice."""
  return all(low > size for low, _ in (interval, *_bounds(row)))


def below(row, interval, size):
  """Whether `interval` and all else that is known lie below `size`, in Dice."""
  return all(high < size for _, high in (interval, *_bounds(row)))


def better(found, p, wide, claimed):
  """Verdict on "in every pair the first is better than the second".

  Args:
    found: rows of `comparisons.compare`, at least one.
    p: of the claim, corrected over all claims that are tested.
    wide: interval of each difference at the level so corrected.
    claimed: the published difference of each, in Dice.
  """
  if p < 0.05 and all(side(row) > 0 for row in found):
    return SUPPORTED
  if any(map(falls_short, found, wide, claimed)):
    return NOT_SUPPORTED
  return UNDECIDED


def falls_short(row, interval, claimed):
  """Whether the numbers leave out that a difference is as large as claimed."""
  return _enough(row) and below(row, interval, claimed)


def comparable(found, p, wide, margin):
  """Verdict on "in every pair the two lie within `margin`", as for `better`.

  `p` is that of the equivalence tests.
  """
  if p < 0.05 and all(equal(row, margin) for row in found):
    return SUPPORTED
  if any(apart(*x, margin) for x in zip(found, wide, strict=True)):
    return NOT_SUPPORTED
  return UNDECIDED


def apart(row, interval, margin):
  """Whether two are shown to lie further apart than `margin`, in Dice.

  The interval has to lie beyond the margin; all else that is known need only
  agree on which is better.
  """
  if not _enough(row):
    return False
  low, high = interval
  if low > margin:
    return above(row, interval, 0)
  return bool(high < -margin and below(row, interval, 0))


def _enough(row):
  """Whether there are enough independent cases, and any spread."""
  return row["groups"] >= FEWEST and row["ci_low"] < row["ci_high"]


def _bounds(row):
  """What folds say, and these networks on other cases: (low, high) each."""
  return [
    (row["fold_low"], row["fold_high"]),
    (row["networks_low"], row["networks_high"]),
  ]
