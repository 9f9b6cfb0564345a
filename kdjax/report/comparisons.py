"""comparisons.csv: each arm against its Student and against the Teacher.

By case first; then with the cases of one group counted once, which is what
verdicts rest on, since near-duplicates and cases tested in several folds are
not independent; then over the folds.
"""

import numpy as np
import pandas as pd

from kdjax.evaluate import intervals
from kdjax.evaluate import statistics
from kdjax.report import rows

# What the design could have shown, and what its folds say.
_DESIGN = (
  "detectable",
  "fold_low",
  "fold_high",
  "corrected_low",
  "corrected_high",
  "corrected_p",
)
COLUMNS = (
  "model",
  "reference",
  "cases",
  "difference",
  "ci_low",
  "ci_high",
  "t_p",
  "wilcoxon_p",
  "holm_p",
  "effect",
  "wins",
  "ties",
  "losses",
  "equivalent_p",
  "groups",
  "group_p",
  "group_holm_p",
  "group_equivalent_p",
  *_DESIGN,
)
# What other tables keep of a comparison by groups.
GROUPED = (
  "cases",
  "groups",
  "difference",
  "ci_low",
  "ci_high",
  "group_p",
  "holm_p",
  "group_equivalent_p",
  *_DESIGN,
)


def make(per_case, pairs, margin=0.02, ratio=None):
  """All comparisons in Dice, a frame of `COLUMNS`.

  Args:
    per_case: frame of `workdirs.per_case`.
    pairs: `(model, reference)`; the pairs of one reference are the family that
      Holm's correction is over.
    margin: of equivalence, in Dice (0.02 is two points).
    ratio: test over training cases of repeated hold-outs, else None.

  Returns:
    A row per pair. `difference` is model minus reference in Dice, -1 to 1, as
    are its interval (BCa over groups, 95 %), `detectable` (80 % power at 5 %
    over the size of the family), the lowest and highest mean of a fold and the
    corrected interval. `*_p` are two-sided and in [0, 1]; `group_*` are of the
    groups' mean differences; `corrected_*` are empty for k folds.
  """
  scores = rows.units(per_case)
  groups = rows.groups(per_case, scores.index)
  pairs = [pair for pair in pairs if set(pair) <= set(scores)]
  sizes = {to: sum(x == to for _, x in pairs) for _, to in pairs}
  found = [
    {"model": model, "reference": to}
    | compare(
      scores[model], scores[to], groups, margin, 0.05 / sizes[to], ratio
    )
    for model, to in pairs
  ]
  frame = pd.DataFrame(found, columns=COLUMNS)
  for corrected, p in (("holm_p", "wilcoxon_p"), ("group_holm_p", "group_p")):
    family = frame.groupby("reference", sort=False)[p]
    frame[corrected] = family.transform(statistics.holm)
  return frame


def compare(first, second, groups, margin, alpha=0.05, ratio=None):
  """Two models on the same units: `COLUMNS` without names and Holm's.

  Args:
    first: series over (fold, case), NaN where unknown.
    second: the same units.
    groups: of the units, `[U]`.
    margin: of equivalence, in the values' unit.
    alpha: level of the smallest detectable difference.
    ratio: as for `make`.
  """
  difference = np.round(first - second, 12)
  known = difference.notna().to_numpy()
  difference = difference[known]
  low, high = intervals.of_mean(difference, groups[known])
  pair = first[known].to_numpy(float), second[known].to_numpy(float)
  means = (
    difference.groupby(groups[known]).mean().to_numpy()
  )  # [number of groups]
  grouped = means, np.zeros_like(means)
  wins, ties, losses = statistics.tally(*pair)
  folds = difference.groupby(level="fold").mean()
  corrected = (float("nan"),) * 3
  if ratio is not None:
    corrected = intervals.of_holdouts(folds, ratio)
  return {
    "cases": len(difference),
    "difference": difference.mean(),
    "ci_low": low,
    "ci_high": high,
    "t_p": statistics.t_test(*pair),
    "wilcoxon_p": statistics.wilcoxon(*pair),
    "effect": statistics.effect(*pair),
    "wins": wins,
    "ties": ties,
    "losses": losses,
    "equivalent_p": statistics.equivalence(*pair, margin),
    "groups": len(means),
    "group_p": statistics.wilcoxon(*grouped),
    "group_equivalent_p": statistics.equivalence(*grouped, margin),
    "detectable": statistics.smallest_detectable(*grouped, alpha),
    "fold_low": folds.min(),
    "fold_high": folds.max(),
    "corrected_low": corrected[0],
    "corrected_high": corrected[1],
    "corrected_p": corrected[2],
  }


def pairs(models, references):
  """Who is compared with whom: `(model, reference)` pairs in order.

  Args:
    models: names, `Teacher` and Students among them.
    references: arm to the Student that differs in nothing but distillation, a
      Student to itself. Whoever is not named is compared with the only Student,
      if there is one.
  """
  students = [x for x in models if x in references.values()]
  only = students[0] if len(students) == 1 else None
  arms = [x for x in models if x != "Teacher" and x not in students]
  found = [(x, references.get(x, only)) for x in arms]
  found = [pair for pair in found if pair[1]]
  return found + [
    (x, "Teacher") for x in students + arms if "Teacher" in models
  ]
